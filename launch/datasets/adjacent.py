"""The order of samples in which those that a group can hold come one after another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def adjacent(keys: Iterable[Hashable]) -> list[int]:
    """Returns an order in which samples of equal keys are adjacent.

    Groups come in the order of their first samples, so that neighbours are of different users: a
    reader shuffles blocks of neighbours.

    Args:
        keys: Of each sample, equal for samples that belong together.

    Example:
        >>> adjacent(["a", "b", "a", "c", "b"])
        [0, 2, 1, 4, 3]
    """
    first: dict[Hashable, int] = {}
    firsts = [first.setdefault(key, index) for index, key in enumerate(keys)]
    return sorted(range(len(firsts)), key=firsts.__getitem__)
