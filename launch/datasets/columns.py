"""Columns of logs: what is written becomes texts and numbers, values become ids.

What a log writes is text, numbers, or nothing; what a model takes are ids and floats. All here
work on a batch of rows at a time (anything that `pyarrow.array` takes), so that a log of any size
streams through. How often a value occurs is counted in a first pass, over the training split alone.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.errors import ConfigError, SampleError

MISSING = ""
"""Stands for a value that is not there, in a vocabulary like any other value."""

ANY_ID = 2**63 - 1
"""Buckets, as many as `amstf.DynamicEmbedding` has for strings: each value has an id of its own."""

_INT64 = -(2**63), 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the rows of a batch come from, for error messages.

    Attributes:
        path: The file.
        first: Number of the batch's first row, from 1.
        what: What a row is called.

    Example:
        >>> Rows("clicks.csv", 11)[2]
        'clicks.csv, row 13'
    """

    path: str | os.PathLike[str]
    first: int = 1
    what: str = "row"

    def __getitem__(self, index: int) -> str:
        return f"{os.fspath(self.path)}, {self.what} {self.first + index}"


def texts(values: Any) -> pa.Array:
    """Returns values as text, pa.string [n]; what is missing is `MISSING`.

    Example:
        >>> texts([7, None, 8]).to_pylist()
        ['7', '', '8']
    """
    array = _array(values)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not pa.types.is_string(array.type):
        array = array.cast(pa.string())
    return array.fill_null(MISSING) if array.null_count else array


def numbers(values: Any, column: str, rows: Rows) -> np.ndarray:
    """Returns values as float64 [n]; NaN for what is missing (null, NaN, or nothing but blanks).

    Args:
        values: Numbers, or texts of them.
        column: Name of the column, for the message.
        rows: Where the values are from.

    Raises:
        SampleError: Naming file, row and value, if one is no finite number.

    Example:
        >>> numbers(["1.5", " ", None], "price", Rows("clicks.csv")).tolist()
        [1.5, nan, nan]
    """
    array = _array(values)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.equal(array, ""), None, array)
    try:
        floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        floats = np.array([_number(v) for v in array.to_pylist()])
        index = int(np.flatnonzero(np.isposinf(floats))[0])
        raise _unreadable(rows, index, column, array[index].as_py(), "a number") from None
    except pa.ArrowNotImplementedError:
        raise SampleError(
            f"{rows.path}: column {column!r} is {array.type}, wanted numbers; name it as sparse, "
            "or leave it out"
        ) from None
    infinite = np.flatnonzero(np.isinf(floats))
    if len(infinite):
        index = int(infinite[0])
        raise _unreadable(rows, index, column, array[index].as_py(), "a finite number")
    return floats


def _number(value: Any) -> float:
    """Returns the number, NaN for none, infinity for what is no number."""
    try:
        return math.nan if value is None else float(pa.scalar(value).cast(pa.float64()).as_py())
    except pa.ArrowInvalid:
        return math.inf


def integers(values: Any, column: str, rows: Rows, missing: int | None = None) -> np.ndarray:
    """Returns values as int64 [n].

    Args:
        values: Whole numbers, or texts of them.
        column: Name of the column, for the message.
        rows: Where the values are from.
        missing: What stands for a value that is not there; None refuses it.

    Raises:
        SampleError: Naming file, row and value, if one is no whole number of 64 bits.

    Example:
        >>> integers(["7", None], "image", Rows("clicks.csv"), missing=-1).tolist()
        [7, -1]
    """
    array = _array(values)
    if pa.types.is_integer(array.type) and not array.null_count:
        try:
            return array.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            pass  # A uint64 beyond int64, which is named below.
    found = np.empty(len(array), np.int64)
    for index, value in enumerate(array.to_pylist()):
        whole = _whole(value, missing)
        if whole is None:
            raise _unreadable(rows, index, column, value, "a whole number of 64 bits")
        found[index] = whole
    return found


def _whole(value: Any, missing: int | None) -> int | None:
    if isinstance(value, str):
        value = value.strip() or None
    if value is None or value != value:
        return missing
    try:
        whole = int(value)
    except (ValueError, TypeError, OverflowError):
        return None
    exact = not isinstance(value, float) or whole == value
    return whole if exact and _INT64[0] <= whole <= _INT64[1] else None


def _unreadable(rows: Rows, index: int, column: str, value: Any, wanted: str) -> SampleError:
    shown = "nothing" if value is None else repr(value)
    return SampleError(
        f"{rows[index]}: column {column!r} is {shown}, wanted {wanted}; correct the value or name "
        "the column as another kind"
    )


def hash_ids(values: Any, buckets: int) -> np.ndarray:
    """Hashes values as texts into buckets, int64 [n], each 0 to buckets - 1.

    The hash is that of a field with `hash_size` (`keras.layers.Hashing`, Farmhash64), so that both
    ways give one id: hashed here, which is smaller on disk, or in the model, which then takes raw
    values when it serves. `MISSING` is a value like any other.

    Example:
        >>> hash_ids(["a", "b", "a"], 100).tolist()
        [39, 22, 39]
    """
    import tensorflow as tf  # Seconds, which what hashes nothing does not need.

    if buckets < 1:
        raise ConfigError(f"hash buckets are {buckets}; wanted at least 1")
    # As Arrow's memory, a list of Python strings would be made first.
    array = texts(values).to_numpy(zero_copy_only=False)
    if not len(array):
        return np.zeros(0, np.int64)
    return tf.strings.to_hash_bucket_fast(tf.constant(array), buckets).numpy()


class ValueCounter:
    """Counts how often each value of a column occurs.

    Memory goes with the number of distinct values.

    Example:
        >>> counter = ValueCounter()
        >>> counter.add(["a", "b", "a", None])
        >>> counter.vocabulary(min_count=2).values
        ('a',)
    """

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, values: Any) -> None:
        """Counts a batch of values [n]."""
        counted = pc.value_counts(texts(values))
        found, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        self._counts.update(dict(zip(found, counts, strict=True)))

    def __len__(self) -> int:
        """Distinct values."""
        return len(self._counts)

    def vocabulary(self, min_count: int = 1, max_size: int | None = None) -> Vocabulary:
        """Returns the values that occur at least `min_count` times, the `max_size` most frequent.

        The most frequent is id 0; those of one frequency are in the order of their texts.
        """
        if min_count < 1:
            raise ConfigError(f"min_count is {min_count}; it must be at least 1")
        frequent = [(-n, value) for value, n in self._counts.items() if n >= min_count]
        return Vocabulary(tuple(value for _, value in sorted(frequent)[:max_size]))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The values of a column that have ids: value k of `values` is id k.

    Any other value is `unknown`, the id past the last one, for which models have one row
    (`Field.vocabulary_size`).

    Attributes:
        values: The values as texts, each once.

    Example:
        >>> Vocabulary(("a", "b")).ids(["b", "z", "a"]).tolist()
        [1, 2, 0]
    """

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_set", pa.array(self.values, pa.string()))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def unknown(self) -> int:
        """Id of a value that has none of its own."""
        return self.size

    @property
    def size(self) -> int:
        """`Field.vocabulary_size`, which cannot be 0 even if nothing is frequent."""
        return max(1, len(self.values))

    def ids(self, values: Any) -> np.ndarray:
        """Returns the ids of values, int64 [n]."""
        found = pc.index_in(texts(values), value_set=self._set)  # type: ignore[attr-defined]
        return found.cast(pa.int64()).fill_null(self.unknown).to_numpy(zero_copy_only=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a JSON list of the values, in the order of their ids."""
        write_atomically(pathlib.Path(path), json.dumps(self.values, ensure_ascii=False, indent=0))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            SampleError: If the file is missing or holds something else.
        """
        try:
            values = files.parse_json(files.read_text(path))
        except (OSError, ValueError) as error:
            raise SampleError(f"{path} cannot be read as a vocabulary: {error}") from error
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise SampleError(f"{path} is no vocabulary; wanted a JSON list of texts")
        if len(set(values)) != len(values):
            raise SampleError(f"{path}: a value stands twice; each has one id")
        return cls(tuple(values))


def _array(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(values)
