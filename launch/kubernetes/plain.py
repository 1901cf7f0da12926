"""Plain Kubernetes: an Indexed Job for each role, and a headless Service that names their pods.

Jobs and not StatefulSets: a StatefulSet starts its pods again whatever their exit code, even when
the training is finished. The pods of an Indexed Job have stable names too, and its pod failure
policy (stable since Kubernetes 1.31) tells the exit codes of launch/program.py apart.
"""

import json

from launch import program
from launch.kubernetes import objects
from launch.kubernetes.job_config import JobConfig
from launch.kubernetes.objects import Object


def render(config: JobConfig) -> list[Object]:
    """Returns the objects of the job: volume claim if to be made, network policy, Service, Jobs."""
    counts = {"chief": 1, "worker": config.workers, "ps": config.servers}
    if config.evaluator:
        counts["evaluator"] = 1
    return [
        *objects.volume_claim(config),
        objects.network_policy(config),
        _service(config),
        *(_job(config, role, count) for role, count in counts.items()),
    ]


def _service(config: JobConfig) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": objects.metadata(config, config.name),
        "spec": {
            "clusterIP": "None",  # Headless: a name for each pod, and no address in between.
            "selector": objects.labels(config),
            "ports": [{"name": "grpc", "port": config.port, "protocol": "TCP"}],
            # The chief waits for names before anything is ready.
            "publishNotReadyAddresses": True,
        },
    }


def _job(config: JobConfig, role: str, count: int) -> Object:
    template = objects.pod_template(config, role, _environment(config, role))
    # The policy below needs Never: every restart is a new pod, of the same name in the network.
    template["spec"] |= {"subdomain": config.name, "restartPolicy": "Never"}
    spec: Object = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "backoffLimit": config.max_restarts,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "tensorflow",
                        "operator": "In",
                        "values": [program.EXIT_UNEXPECTED, program.EXIT_WRONG_INPUT],
                    },
                },
                # Evicted, preempted: not the task's fault, so it does not count.
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": template,
    }
    if config.max_hours:
        spec["activeDeadlineSeconds"] = config.max_hours * 3600
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": objects.metadata(config, f"{config.name}-{role}"),
        "spec": spec,
    }


def _environment(config: JobConfig, role: str) -> list[Object]:
    cluster = {
        kind: [
            f"{config.name}-{kind}-{index}.{config.name}:{config.port}" for index in range(count)
        ]
        for kind, count in [("chief", 1), ("worker", config.workers), ("ps", config.servers)]
    }
    # Kubernetes puts a variable that is defined before into $(...), here as a bare number.
    index = "$(JOB_COMPLETION_INDEX)"
    tf_config = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
    field = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": field}}},
        {"name": "TF_CONFIG", "value": tf_config.replace(f'"{index}"', index)},
    ]
