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
from amstf.store.quantization import dequantize

# What h5py raises for a file whose inner structure is damaged, besides OSError.
DAMAGES = (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, OverflowError)

IDS = "ids"
FEATURES = "features"
SCALES = "scales"
"""Scale and offset of each row of uint8 features, float32 [n, 2]."""

CRC32 = "crc32"
"""Attribute of each dataset that the writer makes: of its bytes, eight hex digits."""

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
        scales_offset: Byte offset of the scales of uint8 features; 0 for other types.
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
    scales_offset: int
    attributes: dict[str, Any]

    def ids(self) -> np.ndarray:
        """Maps the ids, int64 [rows]."""
        return self._map("<i8", self.ids_offset, (self.rows,))

    def features(self) -> np.ndarray:
        """Maps the features, [rows, F] of the stored type; nothing is read before it is used."""
        return self._map(self.dtype, self.features_offset, (self.rows, self.width))

    def scales(self) -> np.ndarray | None:
        """Maps scale and offset of each row of uint8 features, float32 [rows, 2]; or None."""
        if self.dtype != "uint8":
            return None
        return self._map("<f4", self.scales_offset, (self.rows, 2))

    def read(self, rows: np.ndarray | slice) -> np.ndarray:
        """Reads rows as float32 [n, F]."""
        stored, scales = self.features()[rows], self.scales()
        if scales is not None:
            return dequantize(stored, scales[rows])
        return np.asarray(stored, np.float32)

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

    Features of uint8 have a third one, `scales`; `read_rows` knows both kinds.

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
                "image store holds 'ids' int64 [n] and 'features' [n, F]: float32, float16, or "
                "uint8 with 'scales' float32 [n, 2]"
            )
        found.append(dataset)
    ids, features = found
    if ids.ndim != 1 or features.ndim != 2 or len(ids) != len(features) or features.shape[1] < 1:
        raise StoreError(
            f"{path}: ids have shape {ids.shape} and features {features.shape}; "
            "wanted [n] and [n, F]"
        )
    scales = file.get(SCALES) if features.dtype == np.uint8 else None
    has_scales = isinstance(scales, h5py.Dataset)
    if has_scales:
        found.append(scales)
        _check_scales(scales, len(ids), path)
    if ids.dtype.kind not in "iu" or not (has_scales or features.dtype.kind == "f"):
        raise StoreError(
            f"{path}: ids are {ids.dtype} and features {features.dtype}; wanted whole numbers and "
            "floats, or uint8 with a dataset 'scales'"
        )
    for dataset in found:
        _refuse_elsewhere(dataset, file, path)
        _check_stored(dataset, path)
    return ids, features


def _check_scales(scales: h5py.Dataset, rows: int, path: pathlib.Path) -> None:
    if scales.shape != (rows, 2) or scales.dtype.kind != "f":
        raise StoreError(
            f"{path}: scales are {scales.dtype} {list(scales.shape)}; wanted float32 [{rows}, 2], "
            "scale and offset of each row"
        )


def _refuse_elsewhere(dataset: h5py.Dataset, file: h5py.File, path: pathlib.Path) -> None:
    # HDF5 itself reads such data as zeros, silently, where the other file is short or absent.
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise StoreError(
            f"{path}: the values of {dataset.name} are in another file (external or virtual); "
            "copy them into one file, e.g. with amstf.ImageStoreWriter"
        )


def read_rows(file: h5py.File, begin: int, end: int) -> np.ndarray:
    """Reads features [end - begin, F] of an open file that `datasets` accepts, as floats."""
    rows = file[FEATURES][begin:end]
    return dequantize(rows, file[SCALES][begin:end]) if rows.dtype == np.uint8 else rows


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
    """Whether the datasets are one plain byte range each, of the types that the op reads."""
    # HDF5's types, not numpy's: h5py shows a bfloat16 in the file as a float32.
    stored = features.id.get_type()
    if ids.id.get_type() != h5py.h5t.STD_I64LE:
        return False
    mapped = [ids, features]
    if stored == h5py.h5t.STD_U8LE:
        mapped.append(ids.file[SCALES])
        if mapped[-1].id.get_type() != h5py.h5t.IEEE_F32LE:
            return False
    elif stored not in (h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F16LE):
        return False
    if ids.file.userblock_size:
        return False
    return len(ids) == 0 or all(
        dataset.chunks is None and dataset.id.get_offset() is not None for dataset in mapped
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
        scales = file[SCALES] if features.dtype == np.uint8 else None
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
            scales_offset=(scales.id.get_offset() or 0) if scales is not None else 0,
            attributes=read_attributes(file, path),
        )
    wanted = max(
        layout.features_offset + layout.rows * layout.width * features_bytes(layout.dtype),
        layout.ids_offset + layout.rows * 8,
        layout.scales_offset + layout.rows * 8 if layout.scales_offset else 0,
    )
    if size < wanted:
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
