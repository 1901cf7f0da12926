"""What both kinds of manifests are made of: pods, the volume, the network policy."""

from typing import Any

from launch.kubernetes.job_config import JobConfig

Object = dict[str, Any]

# Seconds: a chief has 30 to keep a checkpoint, and tells the others how it has ended.
_GRACE = 60


def labels(config: JobConfig, role: str | None = None) -> dict[str, str]:
    """Labels of the job's objects; those of one role's pods, if a role is given."""
    shared = {"app.kubernetes.io/name": "amstf", "app.kubernetes.io/instance": config.name}
    return {**shared, "app.kubernetes.io/component": role} if role else shared


def metadata(config: JobConfig, name: str) -> Object:
    """Metadata of one object."""
    return {"name": name, "namespace": config.namespace, "labels": labels(config)}


def pod_template(config: JobConfig, role: str, environment: list[Object]) -> Object:
    """Returns a pod that runs `launch.train` in one role.

    Args:
      config: the job.
      role: chief, worker, ps or evaluator.
      environment: variables beside those that every task has.
    """
    requests: Object = {"cpu": config.cpu, "memory": config.memory}
    limits: Object = {"memory": config.memory}
    gpus = {"ps": config.gpus, "evaluator": config.gpus, "worker": config.worker_gpus}.get(role, 0)
    if gpus:
        limits["nvidia.com/gpu"] = gpus
    container = {
        # Kubeflow looks for a container of this name, and for a port of the other.
        "name": "tensorflow",
        "image": config.image,
        "command": ["python", "-m", "launch.train"],
        "args": list(config.arguments),
        "env": [*environment, {"name": "PYTHONUNBUFFERED", "value": "1"}],
        "ports": [{"name": "tfjob-port", "containerPort": config.port, "protocol": "TCP"}],
        "resources": {"requests": requests, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": config.mount}],
    }
    return {
        "metadata": {
            "labels": labels(config, role),
            # A mesh's proxy in the pod would live on after the task, and the Job never end.
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": config.claim}}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": config.user_id,
                "runAsGroup": config.user_id,
                "fsGroup": config.user_id,
                # On a large volume a change of owner of every file takes minutes at each start.
                "fsGroupChangePolicy": "OnRootMismatch",
            },
            "terminationGracePeriodSeconds": _GRACE,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
        },
    }


def volume_claim(config: JobConfig) -> list[Object]:
    """The claim to make, if the job is to make one."""
    if not config.claim_size:
        return []
    spec: Object = {
        # Every task reads the data, and each server writes its part of a checkpoint.
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": config.claim_size}},
    }
    if config.storage_class:
        spec["storageClassName"] = config.storage_class
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata(config, config.claim),
            "spec": spec,
        }
    ]


def network_policy(config: JobConfig) -> Object:
    """Lets pods of the job reach the job's port, and nobody else reach anything of it."""
    pods = {"matchLabels": labels(config)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(config, config.name),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": pods}],
                    "ports": [{"protocol": "TCP", "port": config.port}],
                }
            ],
        },
    }
