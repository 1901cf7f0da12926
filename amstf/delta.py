"""Delta exports: what changed between two exports of one model, as one file.

A delta holds, of each variable, the rows that changed; of a table of image embeddings, which images
are new or have another embedding, and which are gone; of a dynamic table the same of its ids.
Applied to the loaded older export it gives the newer one, bit by bit, which checksums prove. See
docs/design/export.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import zlib
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from amstf.dynamic import index_of
from amstf.errors import ExportError
from amstf.export import read_description

_VERSION = 1
_IMAGE_IDS, _DYNAMIC_IDS = "/image_ids:0", "/dynamic_ids:0"
# What a table is made of: the end of the name of its ids -> that of their rows.
_TABLES = {_IMAGE_IDS: "/image_embeddings:0", _DYNAMIC_IDS: "/dynamic_rows:0"}


@dataclasses.dataclass(frozen=True)
class DeltaSummary:
    """What a delta holds.

    Attributes:
        rows: Name of a variable -> rows that changed, of those that did.
        images_changed: Images that are new or have another embedding.
        images_removed: Images that are gone.
        ids_changed: Ids of dynamic tables that are new or whose rows changed.
        ids_removed: Ids whose rows are gone.
        bytes: Size of the file.
    """

    rows: dict[str, int]
    images_changed: int
    images_removed: int
    ids_changed: int
    ids_removed: int
    bytes: int


def write_delta(
    old: str | os.PathLike[str], new: str | os.PathLike[str], path: str | os.PathLike[str]
) -> DeltaSummary:
    """Writes what changed from one export to another.

    Args:
        old: Directory of the export that is served.
        new: Directory of a later export of the same model, made with the same options.
        path: HDF5 file to make.

    Returns:
        What the file holds.

    Raises:
        ExportError: If the two are not exports of one model, so that only the whole will do.
    """
    names = _common_variables(old, new)
    before, after = _Checkpoint(old), _Checkpoint(new)
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    rows: dict[str, int] = {}
    changed, removed = dict.fromkeys(_TABLES, 0), dict.fromkeys(_TABLES, 0)
    try:
        with h5py.File(partial, "w") as file:
            file.attrs["version"], file.attrs["variables"] = _VERSION, json.dumps(names)
            for k, name in enumerate(names):
                if name.endswith(tuple(_TABLES.values())):
                    continue  # With its ids, below.
                group = file.create_group(str(k))
                kind = next((end for end in _TABLES if name.endswith(end)), None)
                if kind:
                    table = names.index(name.removesuffix(kind) + _TABLES[kind])
                    counts = _write_table(
                        group, (before[k], before[table]), (after[k], after[table]), table
                    )
                    changed[kind] += counts[0]
                    removed[kind] += counts[1]
                else:
                    count = _write_rows(group, name, before[k], after[k])
                    rows |= {name: count} if count else {}
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return DeltaSummary(
        rows,
        images_changed=changed[_IMAGE_IDS],
        images_removed=removed[_IMAGE_IDS],
        ids_changed=changed[_DYNAMIC_IDS],
        ids_removed=removed[_DYNAMIC_IDS],
        bytes=path.stat().st_size,
    )


def apply_delta(loaded: Any, path: str | os.PathLike[str]) -> None:
    """Applies a delta to a loaded export, whose signatures then answer as the newer one's do.

    All is checked before the first variable changes; requests that are answered meanwhile may see
    some variables of the one and some of the other. If the export has dynamic tables, a
    `tf.function` of your own that calls a signature must be traced anew: to the one that was traced
    before, the ids of rows that moved are unknown.

    Args:
        loaded: What `tf.saved_model.load` gave of the older export.
        path: The file of `write_delta`.

    Raises:
        ExportError: If the file is no delta, or one of other exports.
    """
    assigned: list[tuple[tf.Variable, np.ndarray]] = []
    try:
        with h5py.File(path) as file:
            names = json.loads(file.attrs["variables"])
            state = list(getattr(loaded, "state", ()))
            if file.attrs["version"] != _VERSION or len(state) != len(names):
                raise ExportError(
                    f"{path} changes {len(names)} variables and the export has {len(state)}; it is "
                    "a delta of another model: load the newer export"
                )
            for key, group in file.items():
                if "removed" in group:
                    assigned += _read_table(path, group, state, int(key))
                elif "rows" in group:
                    value = _checked(path, group, "", state[int(key)].numpy())
                    np.atleast_1d(value)[group["rows"][()]] = group["values"][()]
                    _check_result(path, group, "", value)
                    assigned.append((state[int(key)], value))
                else:
                    _checked(path, group, "", state[int(key)].numpy())
    except (OSError, KeyError, IndexError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{path} is no delta of an export: {error}") from error
    for variable, value in assigned:
        if not variable.shape.is_compatible_with(value.shape):
            raise ExportError(
                f"{path} changes the length of {variable.name}, which the loaded export, made by "
                "an earlier version, has fixed; load the newer export"
            )
    for variable, value in assigned:
        variable.assign(value)
    _renew_indices(
        loaded, [state[k] for k, name in enumerate(names) if name.endswith(_DYNAMIC_IDS)]
    )


def _renew_indices(loaded: Any, ids: list[tf.Variable]) -> None:
    """Gives the signatures static hash tables of the ids as they are now, in place of their own."""
    if not ids:
        return
    new = [index_of(variable) for variable in ids]
    handles = {
        id(table.resource_handle): index.resource_handle
        for table, index in zip(loaded.tables, new, strict=True)
    }
    for signature in loaded.signatures.values():
        captured = signature.captured_inputs
        signature.set_external_captures([handles.get(id(each), each) for each in captured])
    loaded.tables = new  # Which keeps them alive.


class _Checkpoint:
    """The variables of an export, by their index in `state`, read one at a time."""

    def __init__(self, export: str | os.PathLike[str]) -> None:
        self._reader = tf.train.load_checkpoint(os.path.join(export, "variables", "variables"))

    def __getitem__(self, index: int) -> np.ndarray:
        return self._reader.get_tensor(f"state/{index}/.ATTRIBUTES/VARIABLE_VALUE")


def _common_variables(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> list[str]:
    before, after = read_description(old), read_description(new)
    for what in ("variables", "signatures"):
        for export, description in ((old, before), (new, after)):
            if what not in description:
                raise ExportError(
                    f"{export} does not say which {what} it has, as exports of earlier versions; "
                    "export it again, whole"
                )
        if before[what] != after[what]:
            raise ExportError(
                f"{old} and {new} have other {what}; a delta is of two exports of one model with "
                "the same options: serve the newer one whole"
            )
    names: list[str] = after["variables"]
    return names


def _write_rows(group: h5py.Group, name: str, old: np.ndarray, new: np.ndarray) -> int:
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        raise ExportError(
            f"{name} was {old.dtype} {list(old.shape)} and is {new.dtype} {list(new.shape)}; the "
            "model is another one: serve the newer export whole"
        )
    group.attrs["before"], group.attrs["after"] = _checksum(old), _checksum(new)
    if old.ndim == 0:
        rows = np.flatnonzero([not _same(old, new).all()])
        old, new = old[None], new[None]
    else:
        rows = np.flatnonzero(~_same(old, new).reshape(len(old), -1).all(axis=1))
    if len(rows):
        group["rows"], group["values"] = rows, new[rows]
    return len(rows)


def _write_table(
    group: h5py.Group,
    old: tuple[np.ndarray, np.ndarray],
    new: tuple[np.ndarray, np.ndarray],
    table: int,
) -> tuple[int, int]:
    """Writes a table's images: those that are new or changed, and the ids of those that went."""
    for part, before, after in zip(("ids", "table"), old, new, strict=True):
        group.attrs[f"before_{part}"] = _checksum(before)
        group.attrs[f"after_{part}"] = _checksum(after)
    group.attrs["table"] = table
    places = np.minimum(np.searchsorted(old[0], new[0]), len(old[0]) - 1)
    same = (old[0][places] == new[0]) & _same(old[1][places], new[1]).all(axis=1)
    removed = np.setdiff1d(old[0], new[0], assume_unique=True)
    group["removed"] = removed
    group["ids"], group["embeddings"] = new[0][~same], new[1][~same]
    return int((~same).sum()), len(removed)


def _read_table(
    path: str | os.PathLike[str], group: h5py.Group, state: list[tf.Variable], index: int
) -> list[tuple[tf.Variable, np.ndarray]]:
    variables = state[index], state[int(group.attrs["table"])]
    ids = _checked(path, group, "_ids", variables[0].numpy())
    embeddings = _checked(path, group, "_table", variables[1].numpy())
    gone = np.concatenate([group["removed"][()], group["ids"][()]])
    kept = ~np.isin(ids, gone)
    ids = np.concatenate([ids[kept], group["ids"][()]])
    embeddings = np.concatenate([embeddings[kept], group["embeddings"][()]])
    order = np.argsort(ids)
    values = ids[order], embeddings[order]
    for part, value in zip(("_ids", "_table"), values, strict=True):
        _check_result(path, group, part, value)
    return list(zip(variables, values, strict=True))


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Bit by bit: -0.0 is not 0.0 here, since a checksum tells them apart too.
    return np.frombuffer(a.tobytes(), f"u{a.itemsize}").reshape(a.shape) == np.frombuffer(
        b.tobytes(), f"u{b.itemsize}"
    ).reshape(b.shape)


def _checksum(value: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(value).tobytes(), value.ndim)


def _checked(
    path: str | os.PathLike[str], group: h5py.Group, part: str, value: np.ndarray
) -> np.ndarray:
    if _checksum(value) != group.attrs["before" + part]:
        raise ExportError(
            f"{path} begins at another export than the one that is loaded (variable "
            f"{group.name[1:]} differs); apply the deltas in their order, or load the newer export"
        )
    return value.copy()


def _check_result(
    path: str | os.PathLike[str], group: h5py.Group, part: str, value: np.ndarray
) -> None:
    if _checksum(value) != group.attrs["after" + part]:
        raise ExportError(f"{path} is damaged; copy or make it again")
