"""Writes the manifests of one training job for Kubernetes, as JSON, which kubectl reads.

    python -m launch.kubernetes --config=job.toml --kind=tfjob | kubectl apply -f -

--kind=tfjob is a TFJob of Kubeflow's training operator; --kind=plain needs nothing but Kubernetes
1.31 or newer: Jobs for chief, workers, servers and evaluator, and a headless Service that names
them. Both come with a NetworkPolicy that lets only pods of the job reach its ports: TensorFlow's
gRPC asks nobody for a password, and whoever reaches it runs what he likes. It protects only where
the cluster's network plugin enforces NetworkPolicies.

job.toml (or the same as job.json):

    name = "clicks"                        # of the job and everything in it
    image = "registry.example.com/amstf:0.1.0"     # from launch/kubernetes/Dockerfile
    arguments = ["--dataset=/data/clicks", "--model=dicm", "--out=/data/runs/clicks"]
    claim = "training-data"                # a PersistentVolumeClaim that is there (ReadWriteMany)
    workers = 2
    servers = 2

All fields with their defaults: launch/kubernetes/job_config.py.
"""

import json

from absl import flags

from launch import program
from launch.kubernetes import plain, tfjob
from launch.kubernetes.job_config import JobConfig

_CONFIG = flags.DEFINE_string(
    "config", None, "Description of the job, .toml or .json.", required=True
)
_RENDERERS = {"tfjob": tfjob.render, "plain": plain.render}
_KIND = flags.DEFINE_enum("kind", None, list(_RENDERERS), "Who runs the job.", required=True)


def main(arguments: list[str]) -> int:
    """Prints the manifests."""
    del arguments
    items = _RENDERERS[_KIND.value](JobConfig.load(_CONFIG.value))
    print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
    return 0


if __name__ == "__main__":
    program.run(main)
