"""Halves of the training split in time, for runs that go on from the model of earlier data."""

FIRST, SECOND = HALVES = ("first", "second")


def left_out(count: int, half: str) -> slice:
    """Returns which of `count` training samples, in order of time, a half does without.

    Args:
        count: Training samples.
        half: One of `HALVES`, or "" for all of them.

    Example:
        >>> list(range(5))[left_out(5, "first")], list(range(5))[left_out(5, "second")]
        ([2, 3, 4], [0, 1])
    """
    middle = count // 2
    return {FIRST: slice(middle, None), SECOND: slice(middle)}.get(half, slice(0))
