"""What a person says about a training job on Kubernetes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tomllib
from typing import Any, Self

from amstf import files
from amstf.errors import ConfigError

# A task's name is this one, its role and its number, and a label holds at most 63 characters.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
_NEEDED_FLAGS = ("dataset", "model", "out")


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """A training job; refuses what cannot work when it is made.

    Attributes:
      name: name of the job: small letters, digits and -, at most 40.
      image: container image with amstf installed.
      arguments: flags of launch.train, the same for every task; paths lie under `mount`.
      claim: PersistentVolumeClaim with data and runs, mounted by all tasks.
      claim_size: makes the claim, of this size (100Gi), instead of using one that is there.
      storage_class: storage class of the claim to make; "" for the cluster's default. It must offer
        ReadWriteMany.
      mount: where the claim is mounted.
      namespace: namespace of everything.
      workers: number of workers.
      servers: number of parameter servers.
      evaluator: whether an evaluator follows the checkpoints.
      gpus: GPUs of each server and the evaluator, which embed the images.
      worker_gpus: GPUs of each worker.
      cpu: cores that each task asks for, e.g. "4" or "500m".
      memory: memory that each task asks for and may use, e.g. "8Gi".
      port: port of every task.
      max_restarts: pods that each Job may lose (kind plain) to other causes than the cluster's own
        evictions; TFJob knows no such limit for retryable exit codes.
      max_hours: hours after which the job is ended; 0: no limit.
      user_id: user and group that the containers run as and that owns the volume's files.
    """

    name: str
    image: str
    arguments: tuple[str, ...]
    claim: str
    claim_size: str = ""
    storage_class: str = ""
    mount: str = "/data"
    namespace: str = "default"
    workers: int = 2
    servers: int = 2
    evaluator: bool = False
    gpus: int = 0
    worker_gpus: int = 0
    cpu: str = "2"
    memory: str = "8Gi"
    port: int = 2222
    max_restarts: int = 20
    max_hours: int = 0
    user_id: int = 1000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, str(field.type))
        for name in ("name", "namespace", "claim"):
            if not _NAME.fullmatch(getattr(self, name)):
                self._refuse(name, "small letters, digits and -, at most 40, e.g. clicks-1")
        for name in ("claim_size", "cpu", "memory"):
            value = getattr(self, name)
            if not _QUANTITY.fullmatch(value) and (value or name != "claim_size"):
                self._refuse(name, 'a quantity such as "500m", "4" or "8Gi"')
        for name, low, high in [
            ("workers", 1, 999),
            ("servers", 1, 999),
            ("gpus", 0, 64),
            ("worker_gpus", 0, 64),
            ("port", 1024, 65535),
            ("max_restarts", 0, 10**6),
            ("max_hours", 0, 10**5),
            ("user_id", 1, 2**31 - 1),
        ]:
            if not low <= getattr(self, name) <= high:
                self._refuse(name, f"a number from {low} to {high}")
        if not self.image or " " in self.image:
            self._refuse("image", "a container image, e.g. registry.example.com/amstf:0.1.0")
        if not self.mount.startswith("/"):
            self._refuse("mount", "an absolute path, e.g. /data")
        self._check_arguments()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a .toml or .json file.

        Raises:
          ConfigError: it cannot be read, or a field is missing, unknown or wrong.
        """
        content = _read(pathlib.Path(path))
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: got {type(content).__name__}, wanted fields with values")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in content:
            if name not in fields:
                raise ConfigError(f"{path}: unknown field {name!r}; known: {', '.join(fields)}")
        for name, field in fields.items():
            if name not in content and field.default is dataclasses.MISSING:
                raise ConfigError(f"{path}: the field {name!r} is missing; see --help")
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        try:
            return cls(**{**content, **lists})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def _check_type(self, name: str, wanted: str) -> None:
        value = getattr(self, name)
        if wanted.startswith("tuple"):
            good = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
            wanted = "list of str"
        else:
            good = type(value).__name__ == wanted
        if not good:
            self._refuse(name, wanted)

    def _check_arguments(self) -> None:
        names = [argument.partition("=")[0].lstrip("-") for argument in self.arguments]
        for name in _NEEDED_FLAGS:
            if name not in names:
                self._refuse("arguments", f"a list with --{name}=...")
        if "cluster" in names:
            self._refuse("arguments", "no --cluster: workers and servers are tasks of the job here")

    def _refuse(self, name: str, wanted: str) -> None:
        raise ConfigError(f"{name}: got {getattr(self, name)!r}, wanted {wanted}")


def _read(path: pathlib.Path) -> Any:
    try:
        text = files.read_text(path)
        return files.parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror or error}") from error
    except RecursionError:
        raise ConfigError(f"--config: {path} nests too deep") from None
    except ValueError as error:
        raise ConfigError(
            f"--config: {path} is not {path.suffix[1:] or 'toml'}: {error}"
        ) from error
