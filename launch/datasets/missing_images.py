"""Which images samples name that their store does not have."""

from __future__ import annotations

from amstf.store import ImageStore

_CHECKED_IDS = 1 << 16


class MissingImages:
    """Finds the ids of images that a store lacks, some at a time.

    Args:
        store: The store; None finds nothing.

    Example:
        >>> MissingImages(None).facts()
        {}
    """

    def __init__(self, store: ImageStore | None) -> None:
        self._store = store
        self._asked: list[int] = []
        self._missing: set[int] = set()

    def add(self, ids: list[int]) -> None:
        """Looks at some ids, of which -1 is none."""
        self._asked += ids
        if len(self._asked) >= _CHECKED_IDS:
            self._check()

    def facts(self) -> dict[str, object]:
        """Returns what a manifest's info should tell: nothing if no id is missing."""
        self._check()
        if not self._missing:
            return {}
        return {"missing_images": {"count": len(self._missing), "among": min(self._missing)}}

    def _check(self) -> None:
        if self._store is not None:
            self._missing.update(self._store.missing(self._asked).tolist())
        self._asked = []
