"""A small model of what a step of a cluster costs, fitted to measured parts; numbers only.

All is counted for one *round*: one step of every worker (arXiv 1711.06505 calls it an iteration).

  servers, core seconds   image x embedded + row x asked + request x W S + round
  workers, core seconds   sample x W B + request x W S + step x W
  bytes                   row x asked + sample x W B + tower x exchanges (S - 1) + step x W

`asked` are the images that the workers of a round ask for, each worker's distinct ones; `embedded`
those that E embedded for them; a server that does not own E's weights fetches them and sends their
gradient in every exchange. No cost can be negative.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round of a cluster did, and what it cost, if measured.

    Attributes:
        workers, servers, samples: W, S, and samples of a worker's step (B).
        asked, embedded: Images, see above.
        exchanges: How often servers exchanged E.
        server_s, worker_s, chief_s: Core seconds of all servers, all workers, and the chief.
        bytes: That crossed.
        clock_s: Seconds on the clock.
    """

    workers: int
    servers: int
    samples: int
    asked: float
    embedded: float
    exchanges: float
    server_s: float = 0.0
    worker_s: float = 0.0
    chief_s: float = 0.0
    bytes: float = 0.0
    clock_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Parts:
    """Costs of single things: core seconds, or bytes.

    Attributes:
        server, worker, bytes: By name, see `counts`.
        chief_s: Core seconds of the chief for one step of one worker.
    """

    server: Mapping[str, float]
    worker: Mapping[str, float]
    bytes: Mapping[str, float]
    chief_s: float

    def costs(self, one: Round) -> dict[str, float]:
        """Core seconds of servers and workers, and bytes, of a round."""
        counted = counts(one)
        return {
            name: sum(cost * counted[name][part] for part, cost in getattr(self, name).items())
            for name in ("server", "worker", "bytes")
        }


def counts(one: Round) -> dict[str, dict[str, float]]:
    """How often a round has each thing that costs something."""
    requests, steps = one.workers * one.servers, one.workers
    return {
        "server": {
            "image": one.embedded,
            "row": one.asked,
            "request": requests,
            "round": 1.0,
        },
        "worker": {"sample": steps * one.samples, "request": requests, "step": steps},
        "bytes": {
            "row": one.asked,
            "sample": steps * one.samples,
            "tower": one.exchanges * (one.servers - 1),
            "step": steps,
        },
    }


def fit(rounds: Sequence[Round]) -> Parts:
    """Fits the costs to measured rounds, by least squares of relative errors."""

    def costs(name: str, measured: list[float]) -> dict[str, float]:
        parts = list(counts(rounds[0])[name])
        table = np.array([[counts(one)[name][part] for part in parts] for one in rounds])
        return dict(zip(parts, non_negative(table, np.array(measured)), strict=True))

    return Parts(
        server=costs("server", [one.server_s for one in rounds]),
        worker=costs("worker", [one.worker_s for one in rounds]),
        bytes=costs("bytes", [one.bytes for one in rounds]),
        chief_s=float(np.median([one.chief_s / one.workers for one in rounds])),
    )


def non_negative(table: np.ndarray, values: np.ndarray) -> list[float]:
    """Solves table @ x = values, x >= 0, for the least squares of relative errors.

    Exact for few columns: the solution is the best of those that use a subset of the columns.

    Args:
        table: [n, k] floats.
        values: [n] floats, positive.

    Example:
        >>> non_negative(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([2.0, 5.0]))
        [2.0, 3.0]
    """
    relative = table / values[:, np.newaxis]
    best, smallest = np.zeros(table.shape[1]), np.inf
    for size in range(1, table.shape[1] + 1):
        for columns in map(list, itertools.combinations(range(table.shape[1]), size)):
            scale = np.maximum(np.abs(relative[:, columns]).max(axis=0), 1e-300)
            found, _, rank, _ = np.linalg.lstsq(
                relative[:, columns] / scale, np.ones(len(values)), rcond=None
            )
            error = np.square(relative[:, columns] / scale @ found - 1).sum()
            if rank == size and (found >= 0).all() and error < smallest - 1e-12:
                best, smallest = np.zeros(table.shape[1]), error
                best[columns] = found / scale
    return [float(f"{cost:.6g}") for cost in best]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A cluster to predict: machines that are a worker and a server each.

    The defaults are those of arXiv 1711.06505, section 4 and Table 2, except for the link, of which
    it says nothing.

    Attributes:
        cores: Of a machine, each as fast as those that were measured.
        samples: Of one worker's step (B).
        images: That are asked for and embedded in a round, for each machine.
        link: Bytes a second that a machine sends, and as many that it receives.
        latency: Seconds until a request is answered, apart from work and bytes.
        round_trips: Requests of a round that wait for each other.
        tower_bytes: E and its gradient, one server, once.
        exchanges: Of E, in a round: 1 / sync_every.
        tower_owners: Servers that E's weights lie on, in equal parts.
    """

    cores: int
    samples: int = 3_000
    images: float = 16_000.0
    link: float = 1.25e9
    latency: float = 1e-3
    round_trips: int = 6
    tower_bytes: float = 8.6e6
    exchanges: float = 1.0
    tower_owners: int = 1


def predict(parts: Parts, setting: Setting, machines: int) -> dict[str, float]:
    """Seconds of one round, by what takes them, one after the other.

    Args:
        parts: Measured.
        setting: The cluster.
        machines: Their number (N): W = S = N.
    """
    asked = setting.images * machines
    one = Round(machines, machines, setting.samples, asked, asked, exchanges=0)
    costs = parts.costs(one)
    owners = min(setting.tower_owners, machines)
    tower = setting.exchanges * setting.tower_bytes * (machines - 1) / owners
    return {
        "servers": costs["server"] / machines / setting.cores,
        "workers": costs["worker"] / machines / setting.cores,
        "images and ids": costs["bytes"] / machines / setting.link,
        "E between servers": tower / setting.link,
        "latency": setting.round_trips * setting.latency,
    }


PAPER_HOURS: dict[int, float] = {5: 62.9, 10: 32.0, 20: 17.4, 40: 10.2}
"""Machines -> hours of training: arXiv 1711.06505, Table 1."""
PAPER_SAMPLES = 3.9e9


def hours(seconds: float, machines: int, samples: int) -> float:
    """Hours for the paper's samples, once, from the seconds of a round."""
    return PAPER_SAMPLES / (machines * samples) * seconds / 3600


def paper_rounds(samples: int = 3_000) -> dict[str, Any]:
    """What Table 1 says of a round if a machine takes as many samples whatever their number.

    Returns:
        "seconds": Of a round, by machines; "fixed" and "each": the line fixed + each x machines
        that fits them best (relative errors); "error": its largest relative error.
    """
    seconds = {
        machines: 3600 * taken * machines * samples / PAPER_SAMPLES
        for machines, taken in PAPER_HOURS.items()
    }
    table = np.array([[1.0, machines] for machines in seconds])
    measured = np.array(list(seconds.values()))
    fixed, each = non_negative(table, measured)
    error = np.abs(table @ [fixed, each] / measured - 1).max()
    return {"seconds": seconds, "fixed": fixed, "each": each, "error": float(error)}
