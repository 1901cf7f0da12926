"""Where the datasets of a store's file lie: the one place that knows HDF5's side of a store."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Any

import h5py
import numpy as np

from amstf import files
from amstf.errors import StoreError

# What h5py raises for a file whose inner structure is damaged, besides OSError.
DAMAGES = (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, OverflowError)

IDS = "ids"
FEATURES = "features"
COPIED_FROM = "amstf_copied_from"


@dataclasses.dataclass(frozen=True)
class StoreFile:
    """One HDF5 file of a store.

    Attributes:
        path: Absolute path.
        bytes: Size of the file, in bytes.
        modified: When it was last changed, nanoseconds; tells a file from one that replaces it.
        rows: Images in the file.
        width: Features of an image (F).
        dtype: Stored type of the features, numpy name.
        ids_offset: Byte offset of the ids; 0 in a file without rows.
        features_offset: Byte offset of the features; 0 in a file without rows.
        attributes: Attributes of the file: how the features were made.
    """

    path: str
    bytes: int
    modified: int
    rows: int
    width: int
    dtype: str
    ids_offset: int
    features_offset: int
    attributes: dict[str, Any]

    def ids(self) -> np.ndarray:
        """Maps the ids, int64 [rows]."""
        return self._map("<i8", self.ids_offset, (self.rows,))

    def features(self) -> np.ndarray:
        """Maps the features, [rows, F] of the stored type; nothing is read before it is used."""
        return self._map(self.dtype, self.features_offset, (self.rows, self.width))

    def _map(self, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        if self.rows == 0:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, mode="r", offset=offset, shape=shape)


def open_hdf5(path: pathlib.Path) -> h5py.File:
    """Opens an HDF5 file for reading.

    Raises:
        StoreError: If the file is missing, cut or no HDF5 file.
    """
    try:
        files.size(path)  # A pipe would be waited for without end.
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise StoreError(f"image store {path} does not exist") from error
    except (OSError, ValueError, RuntimeError) as error:
        if "truncated" in str(error):
            raise StoreError(f"image store {path} was cut: {error}; copy it again") from error
        raise StoreError(f"image store {path} is not a readable HDF5 file: {error}") from error


def datasets(file: h5py.File, path: pathlib.Path) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Returns the datasets `ids` and `features` of an open file.

    Raises:
        StoreError: If one is missing or their shapes or types do not fit a store.
    """
    try:
        return _datasets(file, path)
    except StoreError:
        raise
    except DAMAGES as error:
        raise StoreError(f"image store {path} is damaged: {error}; copy it again") from error


def _datasets(file: h5py.File, path: pathlib.Path) -> tuple[h5py.Dataset, h5py.Dataset]:
    found = []
    for name in (IDS, FEATURES):
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise StoreError(
                f"{path} has no dataset {name!r} (it has: {', '.join(file) or 'nothing'}); an "
                "image store holds 'ids' int64 [n] and 'features' float32 or float16 [n, F]"
            )
        found.append(dataset)
    for dataset in found:
        # HDF5 itself reads such data as zeros, silently, where the other file is short or absent.
        if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
            raise StoreError(
                f"{path}: the values of {dataset.name} are in another file (external or virtual); "
                "copy them into one file, e.g. with amstf.ImageStoreWriter"
            )
    ids, features = found
    if ids.ndim != 1 or features.ndim != 2 or len(ids) != len(features) or features.shape[1] < 1:
        raise StoreError(
            f"{path}: ids have shape {ids.shape} and features {features.shape}; "
            "wanted [n] and [n, F]"
        )
    if ids.dtype.kind not in "iu" or features.dtype.kind != "f":
        raise StoreError(
            f"{path}: ids are {ids.dtype} and features {features.dtype}; "
            "wanted whole numbers and floats"
        )
    for dataset in found:
        _check_stored(dataset, path)
    return ids, features


def _check_stored(dataset: h5py.Dataset, path: pathlib.Path) -> None:
    """Refuses a shape of which the file holds only a part: HDF5 reads the rest as zeros."""
    if not dataset.size:
        return
    if dataset.chunks is None:
        # HDF5's type: the float that h5py shows may be wider than the one in the file.
        declared = dataset.size * dataset.id.get_type().get_size()
        stored, unit = dataset.id.get_storage_size(), "bytes"
    else:
        declared = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        stored, unit = dataset.id.get_num_chunks(), "chunks"
    if stored < declared:
        raise StoreError(
            f"{path}: {dataset.name} has shape {dataset.shape}, {declared:,} {unit}, but the file "
            f"holds {stored:,} of them; write or copy it again"
        )


def is_mappable(ids: h5py.Dataset, features: h5py.Dataset) -> bool:
    """Whether both datasets are one plain byte range each, of the types that the op reads."""
    # HDF5's types, not numpy's: h5py shows a bfloat16 in the file as a float32.
    stored = features.id.get_type()
    if ids.id.get_type() != h5py.h5t.STD_I64LE:
        return False
    if stored not in (h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F16LE) or ids.file.userblock_size:
        return False
    return len(ids) == 0 or all(
        dataset.chunks is None and dataset.id.get_offset() is not None
        for dataset in (ids, features)
    )


def read_layout(path: pathlib.Path) -> StoreFile | None:
    """Reads where the datasets lie; None if the file must be converted before it can be mapped.

    Raises:
        StoreError: If the file is not an image store.
    """
    with open_hdf5(path) as file:
        ids, features = datasets(file, path)
        if not is_mappable(ids, features):
            return None
        size = os.path.getsize(path)
        modified = os.stat(path).st_mtime_ns
        layout = StoreFile(
            path=str(path.resolve()),
            bytes=size,
            modified=modified,
            rows=len(ids),
            width=features.shape[1],
            dtype=features.dtype.name,
            ids_offset=ids.id.get_offset() or 0,
            features_offset=features.id.get_offset() or 0,
            attributes=read_attributes(file, path),
        )
    wanted = layout.features_offset + layout.rows * layout.width * features_bytes(layout.dtype)
    if size < wanted or size < layout.ids_offset + layout.rows * 8:
        raise StoreError(f"image store {path} was cut: {size} bytes, wanted at least {wanted}")
    return layout


def read_attributes(file: h5py.File, path: pathlib.Path) -> dict[str, Any]:
    """Reads the attributes of an open file.

    Raises:
        StoreError: If one cannot be read.
    """
    try:
        return {name: _plain(value) for name, value in file.attrs.items()}
    except DAMAGES as error:
        raise StoreError(f"the attributes of {path} cannot be read: {error}") from error


def identity(path: pathlib.Path) -> str:
    """Tells a version of a file from others: what a mappable copy says that it was made from."""
    status = path.stat()
    return f"{path.name}, {status.st_size} bytes, modified {status.st_mtime_ns}"


def copied_from(path: pathlib.Path) -> str | None:
    """Identity of the file that a mappable copy was made from; None if it is absent or no copy."""
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get(COPIED_FROM)
    except DAMAGES:
        return None


def features_bytes(dtype: str) -> int:
    """Returns the bytes of one feature of a stored type."""
    return np.dtype(dtype).itemsize


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
