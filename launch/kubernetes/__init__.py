"""Manifests that run `launch.train` on Kubernetes; `python -m launch.kubernetes --help`."""
