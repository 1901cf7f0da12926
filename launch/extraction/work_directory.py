"""What an extraction has done so far, kept so that a killed one goes on without loss.

Beside the store to be made, OUT, there is for its time the directory .OUT.extracting: the settings,
and parts, each a whole store of its own (so a part is there whole or not at all). At the end the
parts, and the store that was there before, become the new store. A run that was killed between that
and the removal of the directory has left parts whose images are in the store; they are not taken
again.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import shutil
import time
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from amstf.atomic_file import write_atomically
from amstf.errors import ConfigError
from amstf.store import ImageStore, ImageStoreWriter
from launch.stores.attributes import DECISIVE, difference
from launch.stores.copying import copy_images

PART_IMAGES = 2048
PART_SECONDS = 30.0
"""A part is written when it has so many images, or this long after the one before: what a kill can
cost."""

_SETTINGS = "settings.json"


class WorkDirectory:
    """Collects features until they become the store.

    Args:
        out: The store to make.
        settings: What decides the features (JSON values); parts of other settings are refused.
        dtype: Stored type.
        width: F.
        overwrite: Whether a store that is there is replaced, not added to.

    Raises:
        ConfigError: If the store or the parts were made in another way, or another program is at
            it.
    """

    def __init__(
        self,
        out: pathlib.Path,
        settings: Mapping[str, Any],
        dtype: str,
        width: int,
        *,
        overwrite: bool = False,
    ) -> None:
        self._out, self._dtype, self._width = out, dtype, width
        self._attributes = dict(settings)
        self._path = out.with_name(f".{out.name}.extracting")
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._path, os.O_RDONLY)
        if not self._is_locked():
            os.close(self._lock)
            raise ConfigError(
                f"another program is extracting to {out}; wait for it or choose another --out"
            )
        try:
            self._clean()
            self._parts = [ImageStore.open(path) for path in sorted(self._path.glob("part-*.h5"))]
            self.before = None if overwrite or not out.exists() else self._open_before()
            self._check_settings({**settings, "dtype": dtype, "width": width})
        except BaseException:
            self._leave()
            raise
        self._ids: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self._rows = 0
        self._written_at = time.monotonic()

    def __enter__(self) -> WorkDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            if not isinstance(error, MemoryError | OSError):
                self.flush()  # Also what a ctrl-C ends.
        finally:
            self._leave()

    @property
    def ids(self) -> np.ndarray:
        """Ids in the store that was there, and in the parts; ascending, int64 [n]."""
        stores = [*self._parts, *([self.before] if self.before else [])]
        return np.unique(np.concatenate([np.empty(0, np.int64), *(s.ids for s in stores)]))

    @property
    def from_before(self) -> int:
        """Images in parts of an earlier run."""
        known = self.before.ids if self.before else []
        return sum(int((~np.isin(part.ids, known)).sum()) for part in self._parts)

    def add(self, ids: np.ndarray, features: np.ndarray) -> None:
        """Adds images: int64 [n] and floats [n, F]."""
        self._ids.append(ids)
        self._features.append(features)
        self._rows += len(ids)
        if self._rows >= PART_IMAGES or time.monotonic() - self._written_at > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what was added as a part; from here on a kill does not cost it."""
        self._written_at = time.monotonic()
        if not self._rows:
            return
        path = self._path / f"part-{len(self._parts):06d}.h5"
        with ImageStoreWriter(path, self._width, self._dtype) as writer:
            for ids, features in zip(self._ids, self._features, strict=True):
                writer.write(ids, features)
        self._parts.append(ImageStore.open(path))
        self._ids, self._features, self._rows = [], [], 0

    def finish(self, facts: Mapping[str, Any]) -> ImageStore:
        """Makes the store of all that is there, and removes the directory.

        Args:
            facts: Further attributes of the store.
        """
        self.flush()
        attributes = {**self._attributes, **facts}
        stores = [*([self.before] if self.before else []), *self._parts]
        with ImageStoreWriter(self._out, self._width, self._dtype, attributes=attributes) as writer:
            copy_images(writer, stores, duplicates="first")
        self.remove()
        return ImageStore.open(self._out)

    def keep(self) -> ImageStore:
        """Leaves the store as it was, since there is nothing to add, and removes the directory."""
        assert self.before is not None
        self.remove()
        return self.before

    def remove(self) -> None:
        """Removes the directory and what is in it."""
        shutil.rmtree(self._path)

    def _is_locked(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The program that held it may have removed the directory in between.
            return os.path.samestat(os.fstat(self._lock), os.stat(self._path))
        except OSError:
            return False

    def _leave(self) -> None:
        if not any(self._path.glob("part-*.h5")):
            shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)

    def _clean(self) -> None:
        """Removes what a killed program left half written; the lock says that it is gone."""
        stale = [
            *self._path.glob(".*.partial"),
            *self._out.parent.glob(f".{self._out.name}.*.partial"),
        ]
        for path in stale:
            path.unlink()

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self._path / _SETTINGS
        if not self._parts or not path.exists():
            write_atomically(path, json.dumps(settings, indent=2) + "\n")
            return
        kept = json.loads(path.read_text(encoding="utf-8"))
        if differs := difference(kept, settings, settings):
            raise ConfigError(
                f"{self._path} holds features of an extraction that was stopped, with {differs}; "
                "go on with the same flags, or remove that directory"
            )

    def _open_before(self) -> ImageStore:
        store = ImageStore.open(self._out)
        kept = {**store.attributes, "dtype": store.dtype, "width": store.width}
        wanted = {**self._attributes, "dtype": self._dtype, "width": self._width}
        if differs := difference(kept, wanted, (*DECISIVE, "dtype", "width")):
            raise ConfigError(
                f"{self._out} was made with {differs}; features of two kinds do not belong in one "
                "store: use the same flags, choose another --out, or replace it with --overwrite"
            )
        return store
