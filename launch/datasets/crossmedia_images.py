"""CrossMedia's image files: 1,024 buckets of records, each an int64 id and float32 features.

An id lies in bucket `id & 1023`, PREFIX.0 to PREFIX.1023, little-endian. CrossMedia has 4,096
features an image; how many there are is found from the files.
"""

from __future__ import annotations

import math
import os
import pathlib

import numpy as np
from tqdm import tqdm

from amstf import files
from amstf.errors import StoreError
from amstf.store import ImageStore, ImageStoreWriter
from amstf.store.buckets import NUM_BUCKETS, bucket_of

_BLOCK_BYTES = 64 << 20
_ID_BYTES, _FEATURE_BYTES = 8, 4
_LOOKED_AT = 256  # Records of a file by which a width is judged.


def write_store(
    prefix: str, out: str | os.PathLike[str], width: int | None = None, dtype: str = "float32"
) -> ImageStore:
    """Writes the images of bucket files as an image store.

    Args:
        prefix: The files are `PREFIX.0` to `PREFIX.1023`, some of which may be empty.
        out: The store to write.
        width: Features of an image; None to find it out.
        dtype: Stored type, one of `image_store_writer.DTYPES`.

    Raises:
        StoreError: If a file is missing, has no whole number of records, or a record that is none
            of its bucket; names file and record.
    """
    paths = [pathlib.Path(f"{prefix}.{bucket}") for bucket in range(NUM_BUCKETS)]
    sizes = _sizes(paths)
    if width is None:
        width = find_width(paths, sizes)
    size_of_record = _record_bytes(width)
    for path, size in zip(paths, sizes, strict=True):
        if size % size_of_record:
            raise StoreError(
                f"{path} has {size:,} bytes, no multiple of {size_of_record:,}, the bytes of an id "
                f"and {width:,} features; it was cut, or --image_width is another"
            )
    attributes = {"source": f"CrossMedia, {prefix}.0 to {prefix}.{NUM_BUCKETS - 1}"}
    with (
        tqdm(None, "images", sum(sizes), disable=None, unit="B", unit_scale=True) as progress,
        ImageStoreWriter(out, width, dtype, attributes=attributes) as writer,
    ):
        step = max(1, _BLOCK_BYTES // size_of_record)
        for bucket, (path, size) in enumerate(zip(paths, sizes, strict=True)):
            if not size:
                continue
            records = _records(path, width)
            for begin in range(0, len(records), step):
                block = records[begin : begin + step]
                ids = block["id"]
                _check_bucket(path, bucket, begin, ids)
                try:
                    writer.write(ids, block["features"])
                except StoreError as error:
                    raise StoreError(f"{path}: {error}") from error
                progress.update(block.nbytes)
    return ImageStore.open(out)


def find_width(paths: list[pathlib.Path], sizes: list[int]) -> int:
    """Finds how many features an image has: the fewest with which all ids lie in their buckets.

    Args:
        paths: The file of each bucket.
        sizes: Their bytes.

    Raises:
        StoreError: If there is no such number.
    """
    common = math.gcd(*sizes)
    held = [bucket for bucket, size in enumerate(sizes) if size]
    for size_of_record in _divisors(common):
        width, rest = divmod(size_of_record - _ID_BYTES, _FEATURE_BYTES)
        if width < 1 or rest:
            continue
        if all(_fits(paths[bucket], bucket, width) for bucket in held):
            return width
    raise StoreError(
        f"{paths[held[0]]} and the other files are not records of an id and equally many features; "
        "one may be cut: give --image_width to find out which"
    )


def _fits(path: pathlib.Path, bucket: int, width: int) -> bool:
    """Whether records of that width begin with ids of the bucket, each another one."""
    ids = np.array(_records(path, width)["id"][:_LOOKED_AT])
    in_bucket = bool(((bucket_of(ids) == bucket) & (ids >= 0)).all())
    return in_bucket and len(np.unique(ids)) == len(ids)


def _records(path: pathlib.Path, width: int) -> np.ndarray:
    record = np.dtype([("id", "<i8"), ("features", "<f4", (width,))])
    return np.memmap(path, record, mode="r")


def _record_bytes(width: int) -> int:
    return _ID_BYTES + _FEATURE_BYTES * width


def _divisors(number: int) -> list[int]:
    """Returns the divisors of a number, ascending."""
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)})


def _sizes(paths: list[pathlib.Path]) -> list[int]:
    sizes = []
    for path in paths:
        try:
            sizes.append(files.size(path))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}); --images=PREFIX means the files PREFIX.0 to "
                f"PREFIX.{NUM_BUCKETS - 1}, an empty one for a bucket without images"
            ) from error
    if not any(sizes):
        raise StoreError(f"{paths[0]} and the other {NUM_BUCKETS - 1:,} files hold no image")
    return sizes


def _check_bucket(path: pathlib.Path, bucket: int, begin: int, ids: np.ndarray) -> None:
    wrong = np.flatnonzero((bucket_of(ids) != bucket) | (ids < 0))
    if len(wrong):
        index = int(wrong[0])
        raise StoreError(
            f"{path}, record {begin + index + 1}: image id {ids[index]} does not belong there; "
            f"wanted ids from 0 with id & {NUM_BUCKETS - 1} = {bucket}. The file is damaged, or "
            "--image_width is another"
        )
