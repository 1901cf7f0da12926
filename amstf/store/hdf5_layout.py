"""Where the datasets of a store's HDF5 file lie: the one place that knows HDF5's side of it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import h5py
import numpy as np

from amstf.errors import StoreError

IDS = "ids"
FEATURES = "features"
FEATURE_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))


@dataclasses.dataclass(frozen=True)
class StoreFile:
    """One HDF5 file of a store.

    Attributes:
        path: Absolute path.
        bytes: Size of the file, in bytes.
        rows: Images in the file.
        width: Features of an image (F).
        dtype: Stored type of the features, numpy name.
        ids_offset: Byte offset of the ids; 0 in a file without rows.
        features_offset: Byte offset of the features; 0 in a file without rows.
        attributes: Attributes of the file: how the features were made.
    """

    path: str
    bytes: int
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
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise StoreError(f"image store {path} does not exist") from error
    except OSError as error:
        if "truncated" in str(error):
            raise StoreError(f"image store {path} was cut: {error}; copy it again") from error
        raise StoreError(f"image store {path} is not a readable HDF5 file: {error}") from error


def datasets(file: h5py.File, path: pathlib.Path) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Returns the datasets `ids` and `features` of an open file.

    Raises:
        StoreError: If one is missing or their shapes or types do not fit a store.
    """
    found = []
    for name in (IDS, FEATURES):
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise StoreError(
                f"{path} has no dataset {name!r} (it has: {', '.join(file) or 'nothing'}); an "
                "image store holds 'ids' int64 [n] and 'features' float32 or float16 [n, F]"
            )
        found.append(dataset)
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
    return ids, features


def is_mappable(ids: h5py.Dataset, features: h5py.Dataset) -> bool:
    """Whether both datasets are one plain byte range each, of the types that the op reads."""
    if ids.dtype != np.dtype("<i8") or features.dtype not in FEATURE_DTYPES:
        return False
    return len(ids) == 0 or all(
        dataset.chunks is None and not dataset.external and dataset.id.get_offset() is not None
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
        layout = StoreFile(
            path=str(path.resolve()),
            bytes=size,
            rows=len(ids),
            width=features.shape[1],
            dtype=features.dtype.name,
            ids_offset=ids.id.get_offset() or 0,
            features_offset=features.id.get_offset() or 0,
            attributes={name: _plain(value) for name, value in file.attrs.items()},
        )
    wanted = layout.features_offset + layout.rows * layout.width * features_bytes(layout.dtype)
    if size < wanted or size < layout.ids_offset + layout.rows * 8:
        raise StoreError(f"image store {path} was cut: {size} bytes, wanted at least {wanted}")
    return layout


def features_bytes(dtype: str) -> int:
    """Returns the bytes of one feature of a stored type."""
    return np.dtype(dtype).itemsize


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
