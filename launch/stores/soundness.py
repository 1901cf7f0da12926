"""Is a store sound: checksums, features that are no numbers, images that show nothing or twice."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import zlib
from collections.abc import Callable

import h5py
import numpy as np

from amstf.store import ImageStore, bucket_of, hdf5_layout

_BLOCK_BYTES = 64 << 20
_NAMED = 5


@dataclasses.dataclass
class Findings:
    """What was found.

    Attributes:
        good: What is as it should be.
        notes: What a person may want to look at; the store can be used.
        faults: What is wrong.
    """

    good: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        kinds = (("ok", self.good), ("note", self.notes), ("FAULT", self.faults))
        return "\n".join(f"  {kind:<5}  {text}" for kind, texts in kinds for text in texts)


def verify(store: ImageStore, progress: Callable[[int], None] | None = None) -> Findings:
    """Reads a whole store and looks for faults.

    That the files are whole and no id is negative or double is known: such a store does not open.

    Args:
        store: The store.
        progress: Called with the number of images of each piece.
    """
    found = Findings()
    found.good.append(f"{len(store):,} images, no id twice")
    _check_checksums(store, found)
    in_order = all(_is_in_order(file.ids()) for file in store.files)
    if in_order:
        found.good.append("rows in order of buckets and ids: a server's rows lie together")
    else:
        found.notes.append(
            "rows are not in order of buckets, so a server's rows lie apart; "
            "`launch.store convert` puts them in order"
        )
    not_finite: list[int] = []
    zeros: list[int] = []
    first_with: dict[bytes, int] = {}
    doubles: list[tuple[int, int]] = []
    for file in store.files:
        step = max(1, _BLOCK_BYTES // (4 * file.width))
        for begin in range(0, file.rows, step):
            ids = file.ids()[begin : begin + step]
            with np.errstate(invalid="ignore", over="ignore"):
                features = file.read(slice(begin, begin + step))
            not_finite += ids[~np.isfinite(features).all(axis=1)].tolist()
            is_zero = ~features.any(axis=1)
            zeros += ids[is_zero].tolist()
            for image_id, row in zip(ids[~is_zero].tolist(), features[~is_zero], strict=True):
                digest = hashlib.blake2b(row.data, digest_size=12).digest()
                if (other := first_with.setdefault(digest, image_id)) != image_id:
                    doubles.append((other, image_id))
            if progress is not None:
                progress(len(ids))
    if not_finite:
        found.faults.append(f"{_images(not_finite)} features that are not finite numbers")
    else:
        found.good.append("all features are finite numbers")
    if zeros:
        found.notes.append(f"{_images(zeros)} no feature but 0")
    if doubles:
        named = ", ".join(f"{one} = {other}" for one, other in doubles[:_NAMED])
        more = ", ..." * (len(doubles) > _NAMED)
        found.notes.append(
            f"{len(doubles):,} images have the same features as another one: {named}{more}"
        )
    return found


def _images(ids: list[int]) -> str:
    named = ", ".join(map(str, ids[:_NAMED])) + ", ..." * (len(ids) > _NAMED)
    return f"{len(ids):,} images ({named}) have" if len(ids) > 1 else f"image {named} has"


def _is_in_order(ids: np.ndarray) -> bool:
    buckets = bucket_of(ids)
    steps = np.diff(buckets)
    return bool(((steps > 0) | ((steps == 0) & (np.diff(ids) > 0))).all())


def _check_checksums(store: ImageStore, found: Findings) -> None:
    checked = 0
    for file in store.files:
        parts = {hdf5_layout.IDS: file.ids(), hdf5_layout.FEATURES: file.features()}
        if (scales := file.scales()) is not None:
            parts[hdf5_layout.SCALES] = scales
        with h5py.File(file.path) as opened:
            kept = {name: opened[name].attrs.get(hdf5_layout.CRC32) for name in parts}
        name_of_file = pathlib.Path(file.path).name
        for name, values in parts.items():
            if kept[name] is None:
                continue
            checked += 1
            if (crc32 := _crc32(values)) != kept[name]:
                found.faults.append(
                    f"{name_of_file}: {name} have CRC-32 {crc32}, written were {kept[name]}; the "
                    "file was changed or its disk is failing: copy it again"
                )
        if None in kept.values():
            found.notes.append(f"{name_of_file} has no checksums: another program wrote it")
    if checked and not found.faults:
        found.good.append(f"{checked} checksums")


def _crc32(values: np.ndarray) -> str:
    crc32, step = 0, max(1, _BLOCK_BYTES // max(1, values[:1].nbytes))
    for begin in range(0, len(values), step):
        crc32 = zlib.crc32(np.ascontiguousarray(values[begin : begin + step]).data, crc32)
    return f"{crc32:08x}"
