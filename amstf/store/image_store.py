"""Opens image stores: the raw features of images, by id, in HDF5 files."""

from __future__ import annotations

import glob
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from amstf.errors import MissingImageError, StoreError
from amstf.store import hdf5_layout, quantization
from amstf.store.hdf5_layout import StoreFile
from amstf.store.image_store_writer import ImageStoreWriter

_LOG = logging.getLogger("amstf")
_BLOCK_BYTES = 64 << 20
_IDS_IN_MESSAGE = 8

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ImageStore:
    """The raw features of images, by id.

    Opening reads the ids and where the features lie, not the features: O(ids) time and memory. The
    op `amstf.ops.image_lookup` reads rows from mapped memory; `read` is the same in plain numpy.

    A file whose datasets are chunked, compressed or of a type that the op does not read is
    copied once, beside it, to `NAME.mappable.h5`, and again when it has changed since.

    Attributes:
        files: The files and where their datasets lie.
        width: Features of an image (F).
        dtype: Stored type of the features, "float32", "float16" or "uint8".
        ids: Image ids in the order of the rows, int64 [images].
        attributes: How the features were made, from the first file.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "images.h5")
        >>> with ImageStoreWriter(path, width=2) as writer:
        ...     writer.write([7, 3], [[1.0, 2.0], [3.0, 4.0]])
        >>> store = ImageStore.open(path)
        >>> len(store), store.width, store.read([3]).tolist()
        (2, 2, [[3.0, 4.0]])
    """

    def __init__(self, files: Sequence[StoreFile]) -> None:
        """Use `ImageStore.open`."""
        self.files = tuple(files)
        first = self.files[0]
        for file in self.files:
            if (file.width, file.dtype) != (first.width, first.dtype):
                raise StoreError(
                    f"{file.path} holds {file.width} features of {file.dtype}, {first.path} holds "
                    f"{first.width} of {first.dtype}; the files of one store are alike"
                )
        self.width = first.width
        self.dtype = first.dtype
        self.attributes = dict(first.attributes)
        self.ids = np.concatenate([file.ids() for file in self.files])
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted_ids = self.ids[self._order]
        self._first_row = np.cumsum([0] + [file.rows for file in self.files])
        self._check_ids()

    @classmethod
    def open(cls, paths: Paths) -> ImageStore:
        """Opens a store.

        Args:
            paths: One HDF5 file, several, or a pattern such as "images-*.h5". Each holds `ids`
                (whole numbers [n]) and `features` (floats [n, F], or uint8 with `scales` [n, 2]).

        Raises:
            StoreError: If a file is missing, cut, foreign, or its ids are negative or double.
        """
        return cls([_mappable(path) for path in _expand(paths)])

    @property
    def paths(self) -> list[str]:
        """Absolute paths of the files."""
        return [file.path for file in self.files]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"ImageStore({self.paths[0]}, {len(self)} images of {self.width} {self.dtype})"

    def missing(self, ids: Any) -> np.ndarray:
        """Returns the distinct ids that the store lacks; negative ids (no image) do not count."""
        ids = np.unique(np.asarray(ids, np.int64))
        return ids[(ids >= 0) & (self._rows_of(ids) < 0)]

    def read(self, ids: Any) -> np.ndarray:
        """Reads the features of images.

        Args:
            ids: int64 [n].

        Returns:
            float32 [n, F].

        Raises:
            MissingImageError: If the store lacks an id; some are named.
        """
        ids = np.asarray(ids, np.int64)
        rows = self._rows_of(ids)
        if (rows < 0).any():
            missing = np.unique(ids[rows < 0])
            raise MissingImageError(
                f"{len(missing)} image ids are not in {self}: "
                f"{', '.join(map(str, missing[:_IDS_IN_MESSAGE]))}"
                f"{', ...' if len(missing) > _IDS_IN_MESSAGE else ''}"
            )
        features = np.empty((len(ids), self.width), np.float32)
        for index, file in enumerate(self.files):
            first, end = self._first_row[index], self._first_row[index + 1]
            here = (rows >= first) & (rows < end)
            features[here] = file.read(rows[here] - first)
        return features

    def validate(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Reads every feature and refuses a store with one that is not finite.

        Args:
            progress: Called with the images read so far and the images in all.

        Raises:
            StoreError: Naming file, row and image id.
        """
        done = 0
        for file in self.files:
            ids, features = file.ids(), file.features()
            scales = file.scales()
            step = max(1, _BLOCK_BYTES // (self.width * hdf5_layout.features_bytes(self.dtype)))
            for begin in range(0, file.rows, step):
                if scales is None:
                    finite = np.isfinite(features[begin : begin + step]).all(axis=1)
                else:
                    # As the op: the other values lie between those of 0 and 255.
                    finite = np.isfinite(quantization.ends(scales[begin : begin + step])).all(
                        axis=1
                    )
                if not finite.all():
                    row = begin + int(np.argmin(finite))
                    raise StoreError(
                        f"{file.path}: row {row}, image id {ids[row]}, has features that are not "
                        "finite numbers; compute them again"
                    )
                done += len(finite)
                if progress is not None:
                    progress(done, len(self))

    def _rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Row of each id, -1 where the store lacks it."""
        if not len(self):
            return np.full(ids.shape, -1, np.int64)
        positions = np.minimum(np.searchsorted(self._sorted_ids, ids), len(self) - 1)
        return np.where(self._sorted_ids[positions] == ids, self._order[positions], -1)

    def _check_ids(self) -> None:
        if not len(self):
            return
        if self._sorted_ids[0] < 0:
            raise StoreError(
                f"{self._where(0)} has the negative image id {self._sorted_ids[0]}; "
                "ids are 0 or more"
            )
        double = np.flatnonzero(self._sorted_ids[1:] == self._sorted_ids[:-1])
        if len(double):
            raise StoreError(
                f"image id {self._sorted_ids[double[0]]} stands twice: {self._where(double[0])} "
                f"and {self._where(double[0] + 1)} ({len(double)} such ids)"
            )

    def _where(self, position: int) -> str:
        row = self._order[position]
        index = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return f"{self.files[index].path} row {row - self._first_row[index]}"


def _expand(paths: Paths) -> list[pathlib.Path]:
    if not isinstance(paths, (str, os.PathLike)):
        if not len(paths):
            raise StoreError("paths is empty; name at least one HDF5 file")
        return [pathlib.Path(path) for path in paths]
    if glob.has_magic(str(paths)) and not os.path.exists(paths):
        found = [pathlib.Path(path) for path in sorted(glob.glob(str(paths)))]
        if not found:
            raise StoreError(f"no file matches {paths}")
        copies = {_copy_of(path) for path in found}
        return [path for path in found if path not in copies]
    return [pathlib.Path(paths)]


def _copy_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.stem + ".mappable.h5")


def _mappable(path: str | os.PathLike[str]) -> StoreFile:
    """Layout of the file, or of its mappable copy, which is made if need be."""
    path = pathlib.Path(path)
    layout = hdf5_layout.read_layout(path)
    if layout is not None:
        return layout
    copy = _copy_of(path)
    if hdf5_layout.copied_from(copy) != hdf5_layout.identity(path):
        _LOG.warning("%s cannot be mapped as it is (chunked, compressed or another type); "
                     "copying it once to %s", path, copy)  # fmt: skip
        try:
            _copy_mappable(path, copy)
        except StoreError as error:
            if str(path) in str(error):
                raise
            raise StoreError(f"{path} must be copied to be mapped: {error}") from error
        except (*hdf5_layout.DAMAGES, MemoryError) as error:
            raise StoreError(f"{path} must be copied to be mapped, and {copy}: {error}") from error
    layout = hdf5_layout.read_layout(copy)
    if layout is None:
        raise StoreError(f"{copy} is not a mappable copy of {path}; remove it")
    return layout


def _copy_mappable(path: pathlib.Path, copy: pathlib.Path) -> None:
    with hdf5_layout.open_hdf5(path) as file:
        ids, features = hdf5_layout.datasets(file, path)
        dtype = features.dtype.name if features.dtype in (np.float16, np.uint8) else "float32"
        step = max(1, _BLOCK_BYTES // (features.shape[1] * 8))
        # Scratch and result. A small compressed file can become a very large one.
        wanted = 2 * features.size * hdf5_layout.features_bytes(dtype)
        free = shutil.disk_usage(copy.parent).free
        if wanted > free:
            raise StoreError(
                f"{path} must be copied to be mapped, which takes {wanted:,} bytes beside it; "
                f"{free:,} are free"
            )
        attributes = hdf5_layout.read_attributes(file, path)
        attributes[hdf5_layout.COPIED_FROM] = hdf5_layout.identity(path)
        with ImageStoreWriter(copy, features.shape[1], dtype, attributes=attributes) as writer:
            for begin in range(0, len(ids), step):
                end = begin + step
                writer.write(ids[begin:end], hdf5_layout.read_rows(file, begin, end))
