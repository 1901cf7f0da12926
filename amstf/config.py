"""The knobs of the model servers, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from amstf.errors import ConfigError

SERVERS = "servers"
WORKERS = "workers"
PLACEMENTS = (SERVERS, WORKERS)

NONE = "none"
ASYNC = "async"
SYNC = "sync"
MERGES = (NONE, ASYNC, SYNC)

MISSING_POLICIES = ("error", "zeros", "learn")
"""What an image that its store lacks does, see `amstf.layers.AmsEmbedding`."""

WIRE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class AmsConfig:
    """How a cluster embeds images, and how it holds tables of ids.

    Attributes:
        placement: Where the embedding model E runs. "servers": on the servers that hold the
            images; only embeddings and their gradients cross (AMS, arXiv 1711.06505 section 4).
            "workers": raw features are pulled to the worker that asks (the paper's
            store-in-server, for comparison).
        image_servers: Indices of the parameter servers that hold images; None means all of them.
        merge: Which requests of the workers a server answers together. "none": each by itself.
            "async": those that meet within `merge_wait_ms` are embedded once and their gradients
            back-propagated once; workers otherwise go on by themselves. "sync": Algorithm 1 of the
            paper: each round has one mini-batch of every live worker, and all weights are updated
            once per round with the mean gradient.
        merge_wait_ms: How long the first request waits for others under "async", milliseconds.
        sync_every: Rounds between two exchanges of E between the servers: each computes with a
            copy, refreshed every so many rounds, and sends its summed gradient as often. 1 is
            exact; n moves n times less.
        wire_dtype: Type in which embeddings and their gradients cross between servers and workers:
            "float32", or "bfloat16" for half the bytes.
        worker_timeout_ms: After this time without a sign a worker is taken for lost: a round goes
            on without it, milliseconds. Longer than the slowest step.
        min_shard_bytes: A table of ids (the weights of a `keras.layers.Embedding`) of more bytes is
            split over the parameter servers, by rows, into ceil(bytes / min_shard_bytes) shards of
            equal size, at most one a server. 0: each table is whole on one server. Unused if the
            strategy is given a `variable_partitioner`.

    Raises:
        ConfigError: If a value makes no sense.

    Example:
        >>> AmsConfig(image_servers=(0, 2), merge="sync").placement
        'servers'
    """

    placement: str = SERVERS
    image_servers: tuple[int, ...] | None = None
    merge: str = NONE
    merge_wait_ms: float = 5.0
    sync_every: int = 1
    wire_dtype: str = "float32"
    worker_timeout_ms: float = 10_000.0
    min_shard_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        self._check_choice("placement", PLACEMENTS)
        self._check_choice("merge", MERGES)
        self._check_choice("wire_dtype", WIRE_DTYPES)
        if self.image_servers is not None:
            servers: Any = self.image_servers
            if isinstance(servers, Iterable) and not isinstance(servers, str):
                servers = tuple(servers)
                object.__setattr__(self, "image_servers", servers)
            good = isinstance(servers, tuple) and all(type(s) is int and s >= 0 for s in servers)
            if not good or not servers or len(set(servers)) != len(servers):
                raise ConfigError(
                    f"image_servers is {servers!r}; name at least one parameter server, each once, "
                    "by its index from 0"
                )
        for name in ("merge_wait_ms", "worker_timeout_ms"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value == math.inf:
                raise ConfigError(f"{name} is {value!r}; wanted milliseconds")
        if not 0 <= self.merge_wait_ms < self.worker_timeout_ms:
            raise ConfigError(
                f"merge_wait_ms is {self.merge_wait_ms} and worker_timeout_ms "
                f"{self.worker_timeout_ms}; wanted milliseconds, 0 <= merge_wait_ms < "
                "worker_timeout_ms"
            )
        if not (type(self.sync_every) is int and 1 <= self.sync_every < 2**63):
            raise ConfigError(f"sync_every is {self.sync_every!r}; wanted a number of rounds >= 1")
        if not (type(self.min_shard_bytes) is int and 0 <= self.min_shard_bytes < 2**63):
            raise ConfigError(
                f"min_shard_bytes is {self.min_shard_bytes!r}; wanted a number of bytes, or 0 to "
                "split no table"
            )

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            named = " or ".join(map(repr, choices)) if len(choices) == 2 else ", ".join(choices)
            raise ConfigError(f"{name} is {value!r}; use {named}")
