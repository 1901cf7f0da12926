"""A TFJob of Kubeflow's training operator, version 1.

The operator gives every pod its TF_CONFIG (which lists no evaluator) and, with the restart policy
`ExitCode`, starts again what ends with 128 or above and fails the job on 1 to 127: the meaning that
launch/program.py gives its exit codes. It knows no limit for the former but `max_hours`.
"""

from launch.kubernetes import objects
from launch.kubernetes.job_config import JobConfig
from launch.kubernetes.objects import Object


def render(config: JobConfig) -> list[Object]:
    """Returns the objects of the job: volume claim if it is to be made, network policy, TFJob."""
    replicas = {
        "Chief": _replica(config, "chief", 1),
        "Worker": _replica(config, "worker", config.workers),
        "PS": _replica(config, "ps", config.servers),
    }
    if config.evaluator:
        replicas["Evaluator"] = _replica(config, "evaluator", 1)
    # Pods that still run when the chief is done leave by themselves; what hangs is removed.
    policy: Object = {"cleanPodPolicy": "Running"}
    if config.evaluator:
        policy["cleanPodPolicy"] = "None"  # It has the last checkpoint to evaluate.
    if config.max_hours:
        policy["activeDeadlineSeconds"] = config.max_hours * 3600
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": objects.metadata(config, config.name),
        "spec": {"runPolicy": policy, "tfReplicaSpecs": replicas},
    }
    return [*objects.volume_claim(config), objects.network_policy(config), job]


def _replica(config: JobConfig, role: str, count: int) -> Object:
    return {
        "replicas": count,
        "restartPolicy": "ExitCode",
        "template": objects.pod_template(config, role, []),
    }
