"""Writes image stores: streaming, with bounded memory, and whole or not at all."""

from __future__ import annotations

import os
import pathlib
import tempfile
import types
import zlib
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from amstf.errors import StoreError
from amstf.store import hdf5_layout
from amstf.store.buckets import NUM_BUCKETS, bucket_of
from amstf.store.quantization import ends, quantize

_COPY_BYTES = 64 << 20  # Rows are reordered in pieces of this size: the memory of a write.
_PAGE = 4096
DTYPES = ("float32", "float16", "uint8")


class ImageStoreWriter:
    """Writes the raw features of images into one or several HDF5 files.

    Rows arrive in any order and number. They go to a nameless scratch file first and are put in
    order of bucket and id when the writer is closed, so that a server's rows lie together. The
    files appear under their names only when they are complete; a writer that is left by an
    exception, or whose process is killed while rows come in, leaves nothing behind.

    Args:
        path: The file to write, ending in ".h5". With several files "images.h5" becomes
            "images-00000-of-00004.h5" and so on.
        width: Features of an image (F).
        dtype: Stored type: "float32", "float16", or "uint8" with a scale and an offset for each
            image (see `amstf.store.quantization`).
        num_files: Files to spread the 1,024 buckets over.
        attributes: How the features were made (backbone, layer, ...); stored in each file.

    Raises:
        StoreError: If an argument makes no sense.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "images.h5")
        >>> with ImageStoreWriter(path, width=2) as writer:
        ...     writer.write([7, 3], [[1.0, 2.0], [3.0, 4.0]])
        >>> path.exists()
        True
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        dtype: str = "float32",
        num_files: int = 1,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = pathlib.Path(path)
        if self._path.suffix not in (".h5", ".hdf5"):
            raise StoreError(f"path must end in .h5, got {self._path}")
        if width < 1:
            raise StoreError(f"width must be at least 1, got {width}")
        if dtype not in DTYPES:
            raise StoreError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
        if not 1 <= num_files <= NUM_BUCKETS:
            raise StoreError(f"num_files must be 1 to {NUM_BUCKETS}, got {num_files}")
        self._width = width
        self._dtype = np.dtype(dtype)
        self._num_files = num_files
        self._attributes = dict(attributes or {})
        self._ids: list[np.ndarray] = []
        self._scales: list[np.ndarray] = []
        _refuse_unstorable(self._attributes)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the store, not in /tmp, which may be small.
        self._scratch = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115

    def __enter__(self) -> ImageStoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, ids: Any, features: Any) -> None:
        """Adds images.

        Args:
            ids: Whole numbers [n], not negative, each at most once in the whole store.
            features: Finite floats [n, F].

        Raises:
            StoreError: Naming the id, if a value cannot be stored.
        """
        if self._scratch.closed:
            raise StoreError(f"the writer of {self._path} is closed; open another one")
        ids = np.asarray(ids)
        if ids.size == 0:
            ids = ids.astype(np.int64).reshape(-1)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise StoreError(f"ids must be whole numbers [n], got {ids.dtype} {list(ids.shape)}")
        ids = ids.astype(np.int64)
        if ids.size and ids.min() < 0:
            raise StoreError(f"image ids must not be negative, got {ids.min()}")
        features = np.asarray(features)
        if features.size == 0 and ids.size == 0:
            return
        if features.shape != (len(ids), self._width):
            raise StoreError(
                f"features have shape {list(features.shape)}, wanted [{len(ids)}, {self._width}]: "
                f"one row of {self._width} for each id"
            )
        if features.dtype.kind not in "fiu":
            raise StoreError(f"features must be real numbers, got {features.dtype}")
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise StoreError(
                f"the features of image id {ids[~finite][0]} are not all finite numbers"
            )
        if self._dtype == np.uint8:
            stored, scales = quantize(features)
            too_large = ~np.isfinite(ends(scales)).all(axis=1)
        else:
            with np.errstate(over="ignore"):
                stored, scales = features.astype(self._dtype), None
            too_large = ~np.isfinite(stored).all(axis=1)
        if too_large.any():
            raise StoreError(
                f"image id {ids[too_large][0]} has a feature beyond the range of {self._dtype}; "
                "scale the features or use dtype='float32'"
            )
        self._append(ids, stored, scales)

    def copy(self, file: hdf5_layout.StoreFile, rows: np.ndarray) -> None:
        """Adds images of another store, bit by bit where it holds the same type.

        Args:
            file: A file of that store, of as many features.
            rows: Which of its rows, int64 [n].
        """
        ids = file.ids()[rows]
        if (file.dtype, file.width) != (self._dtype.name, self._width):
            self.write(ids, file.read(rows))
            return
        scales = file.scales()
        self._append(ids, file.features()[rows], None if scales is None else scales[rows])

    def _append(self, ids: np.ndarray, stored: np.ndarray, scales: np.ndarray | None) -> None:
        self._ids.append(ids)
        if scales is not None:
            self._scales.append(scales)
        self._scratch.write(np.ascontiguousarray(stored).data)

    def close(self) -> None:
        """Puts the rows in order and writes the files; closing again does nothing.

        Raises:
            StoreError: If an id was written twice.
        """
        if self._scratch.closed:
            return
        try:
            self._scratch.flush()
            ids = np.concatenate(self._ids) if self._ids else np.empty(0, np.int64)
            unique, counts = np.unique(ids, return_counts=True)
            if len(unique) < len(ids):
                doubles = unique[counts > 1]
                raise StoreError(
                    f"{len(doubles)} image ids were written twice, among them "
                    f"{', '.join(map(str, doubles[:8]))}"
                )
            self._write_files(ids)
        finally:
            self.discard()

    def discard(self) -> None:
        """Gives up: drops the rows and writes no store."""
        self._scratch.close()

    @staticmethod
    def paths_of(path: str | os.PathLike[str], num_files: int) -> list[pathlib.Path]:
        """Returns the files that a writer of these arguments makes."""
        path = pathlib.Path(path)
        if num_files == 1:
            return [path]
        return [
            path.with_name(f"{path.stem}-{i:05d}-of-{num_files:05d}{path.suffix}")
            for i in range(num_files)
        ]

    def _write_files(self, ids: np.ndarray) -> None:
        scratch = np.empty((0, self._width), self._dtype)
        if len(ids):
            scratch = np.memmap(self._scratch, self._dtype, mode="r", shape=(len(ids), self._width))
        buckets = bucket_of(ids)
        order = np.lexsort((ids, buckets))
        files = buckets[order] * self._num_files // NUM_BUCKETS
        paths = self.paths_of(self._path, self._num_files)
        partial = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path in paths]
        try:
            for index, path in enumerate(partial):
                self._write_file(path, ids, order[files == index], scratch)
            for path, name in zip(partial, paths, strict=True):
                os.replace(path, name)
        finally:
            for path in partial:
                path.unlink(missing_ok=True)

    def _write_file(
        self, path: pathlib.Path, ids: np.ndarray, rows: np.ndarray, scratch: np.ndarray
    ) -> None:
        # Whole pages: a row of 4,096 features then touches no page of its neighbours.
        with h5py.File(path, "w", alignment_threshold=_PAGE, alignment_interval=_PAGE) as file:
            file.attrs["amstf_image_store"] = 1
            for name, value in self._attributes.items():
                file.attrs[name] = value
            self._write_small(file, hdf5_layout.IDS, ids[rows].astype("<i8"))
            features = file.create_dataset(
                hdf5_layout.FEATURES, (len(rows), self._width), self._dtype.newbyteorder("<")
            )
            step = max(1, _COPY_BYTES // (self._width * self._dtype.itemsize))
            crc32 = 0
            for begin in range(0, len(rows), step):
                block = np.ascontiguousarray(scratch[rows[begin : begin + step]])
                features[begin : begin + step] = block
                crc32 = zlib.crc32(block.data, crc32)
            features.attrs[hdf5_layout.CRC32] = f"{crc32:08x}"
            if self._dtype == np.uint8:
                scales = np.concatenate([np.empty((0, 2), np.float32), *self._scales])
                self._write_small(file, hdf5_layout.SCALES, scales[rows].astype("<f4"))

    @staticmethod
    def _write_small(file: h5py.File, name: str, values: np.ndarray) -> None:
        dataset = file.create_dataset(name, data=values)
        crc32 = zlib.crc32(np.ascontiguousarray(values).data)
        dataset.attrs[hdf5_layout.CRC32] = f"{crc32:08x}"


def _refuse_unstorable(attributes: Mapping[str, Any]) -> None:
    """Tries the attributes in memory: HDF5's refusal would come only after all rows are written."""
    with h5py.File("attributes", "w", driver="core", backing_store=False) as file:
        for name, value in attributes.items():
            try:
                file.attrs[name] = value
            except (TypeError, ValueError, OSError) as error:
                raise StoreError(
                    f"attribute {name!r} cannot be stored ({type(value).__name__}): {error}; "
                    "use text, numbers or arrays of them"
                ) from error
