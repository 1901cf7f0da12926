"""Writes samples as TFRecord shards, with the schema and the manifest beside them."""

from __future__ import annotations

import array
import fcntl
import math
import operator
import os
import pathlib
import re
import shutil
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.data.manifest import (
    MANIFEST_FILE,
    Manifest,
    ShardFile,
    file_crc32,
)
from amstf.data.record_offsets import SUFFIX, framed_size, write_record_offsets
from amstf.errors import SampleError
from amstf.schema import (
    DENSE,
    IMAGE,
    NO_ID,
    SCHEMA_FILE,
    WEIGHTED_SPARSE,
    Field,
    Schema,
)

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")


class SampleWriter:
    """Writes the samples of one split, one at a time, to several files in turn.

    Memory is 8 bytes a sample. The files get their names, and the split its
    line in the manifest, only when all is written: a program that fails or is killed leaves no
    split that looks whole.

    Args:
        directory: The data set directory; made if it does not exist.
        schema: The fields. Must equal the schema of the data set if it has one already.
        split: Name of the split, for example "train"; letters, digits and underscores.
        num_shards: Files to write, at least one for each worker that will read them.

    Raises:
        SampleError: If the split exists, the schema differs from the stored one, or another
            program is writing the split.

    Example:
        >>> import tempfile
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> with SampleWriter(tempfile.mkdtemp(), schema, "train", num_shards=1) as writer:
        ...     writer.write({"user": 3, "click": 1.0})
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        schema: Schema,
        split: str,
        num_shards: int = 8,
    ) -> None:
        if not _SPLIT_NAME.fullmatch(split):
            raise SampleError(
                f"split is {split!r}; use letters, digits and underscores, for example 'train'"
            )
        if num_shards < 1:
            raise SampleError(f"num_shards is {num_shards}; it must be at least 1")
        files.refuse_remote(directory, "directory", SampleError)
        self._directory = pathlib.Path(directory)
        self._schema = schema
        self._split = split
        self._encoders = _encoders(schema)
        self._names = _names(schema)
        self._counts = [0] * num_shards
        self._sizes = [array.array("q") for _ in range(num_shards)]  # 8 bytes a record.
        self._next = 0
        self._open = False
        self._made_directory = not self._directory.exists()
        self._check_existing()
        self._directory.mkdir(parents=True, exist_ok=True)
        # A fixed name, so that what a killed program left is found and removed by the next one.
        self._work = self._directory / f".writing-{split}"
        self._lock = self._claim()
        self._paths = [
            self._work / f"{split}-{k:05d}-of-{num_shards:05d}.tfrecord" for k in range(num_shards)
        ]
        self._writers = [tf.io.TFRecordWriter(str(path)) for path in self._paths]
        self._open = True

    @property
    def num_written(self) -> int:
        """Samples written so far."""
        return sum(self._counts)

    def write(self, sample: Mapping[str, Any]) -> None:
        """Checks one sample and writes it.

        Args:
            sample: A value for each stored field (`Schema.stored`), and `name.weight` for a
                weighted sparse field: whole numbers or strings for ids, a sequence for a list,
                newest value first; floats for dense fields, labels and extras. An image field may
                be None or left out: no image.

        Raises:
            SampleError: If a value does not fit; the message names sample, field, and the value.
        """
        if not self._open:
            raise SampleError(f"the writer of split {self._split!r} is closed")
        example = tf.train.Example()
        feature = example.features.feature
        try:
            if not sample.keys() <= self._names:
                raise SampleError(self._unknown_key(sample))
            for encode in self._encoders:
                encode(sample, feature)
        except SampleError as error:
            raise SampleError(
                f"sample {self.num_written} of split {self._split!r}: {error}"
            ) from None
        record = example.SerializeToString()
        self._writers[self._next].write(record)
        self._sizes[self._next].append(framed_size(len(record)))
        self._counts[self._next] += 1
        self._next = (self._next + 1) % len(self._writers)

    def close(self) -> None:
        """Finishes the files and adds the split to the manifest.

        Raises:
            SampleError: If no sample was written; nothing is left then.
        """
        if not self._open:
            return
        try:
            for writer in self._writers:
                writer.close()
            if not self.num_written:
                raise SampleError(
                    f"no sample was written to split {self._split!r} of {self._directory}; "
                    "an empty split cannot be trained on: leave it out"
                )
            shards = tuple(
                ShardFile(path.name, count, path.stat().st_size, file_crc32(path))
                for path, count in zip(self._paths, self._counts, strict=True)
            )
            with Manifest.update(self._directory) as manifest:
                self._check_existing()
                for path, sizes in zip(self._paths, self._sizes, strict=True):
                    write_record_offsets(path, np.frombuffer(sizes, np.int64))
                    for name in (path.name, path.name + SUFFIX):
                        os.replace(self._work / name, self._directory / name)
                schema_path = self._directory / SCHEMA_FILE
                if not schema_path.exists():
                    write_atomically(schema_path, self._schema.to_json())
                manifest.splits[self._split] = shards
        except BaseException:
            self.abort()
            raise
        self._release()

    def abort(self) -> None:
        """Throws away what was written."""
        if not self._open:
            return
        for writer in self._writers:
            writer.close()
        self._release()
        if self._made_directory and not any(self._directory.iterdir()):
            self._directory.rmdir()

    def __enter__(self) -> SampleWriter:
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
            self.abort()

    def _check_existing(self) -> None:
        if (self._directory / SCHEMA_FILE).exists():
            stored = Schema.load(self._directory)
            if stored != self._schema:
                raise SampleError(
                    f"{self._directory / SCHEMA_FILE} differs from the schema given for split "
                    f"{self._split!r}: {_difference(stored, self._schema)}; all splits of a data "
                    "set share one schema, so write this one to another directory"
                )
        has_manifest = (self._directory / MANIFEST_FILE).exists()
        if has_manifest and self._split in Manifest.load(self._directory).splits:
            raise SampleError(
                f"{self._directory} has a split {self._split!r} already; "
                "remove the data set or write to another directory"
            )

    def _claim(self) -> int:
        self._work.mkdir(exist_ok=True)
        lock = os.open(self._work, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise SampleError(
                f"another program is writing split {self._split!r} of {self._directory}; "
                "wait for it or write to another directory"
            ) from None
        for stale in self._work.iterdir():
            stale.unlink()
        return lock

    def _release(self) -> None:
        self._open = False
        shutil.rmtree(self._work, ignore_errors=True)
        os.close(self._lock)

    def _unknown_key(self, sample: Mapping[str, Any]) -> str:
        key = sorted(sample.keys() - self._names)[0]
        if key in self._schema and self._schema[key].source:
            return (
                f"field {key!r} reads its values from {self._schema[key].source!r}; "
                "give that one and leave this out"
            )
        return f"the schema has no field {key!r}; it stores {', '.join(sorted(self._names))}"


def _difference(stored: Schema, given: Schema) -> str:
    for name in [f.name for f in stored.fields] + [f.name for f in given.fields]:
        if name not in given:
            return f"field {name!r} is missing in the new one"
        if name not in stored:
            return f"field {name!r} is new"
        if stored[name] != given[name]:
            return f"field {name!r} is {stored[name]} there and {given[name]} here"
    return "the order of the fields or the item differs"


def _names(schema: Schema) -> set[str]:
    names = {field.name for field in schema.stored}
    return names | {field.weight_name for field in schema.of_kind(WEIGHTED_SPARSE)}


# One encoder for each stored field: it checks a sample's value and puts it into the Example.

_Encoder = Callable[[Mapping[str, Any], Any], None]


def _encoders(schema: Schema) -> list[_Encoder]:
    return [_encoder(field) for field in schema.stored]


def _encoder(field: Field) -> _Encoder:
    name, is_image = field.name, field.kind == IMAGE
    if field.kind not in ("sparse", WEIGHTED_SPARSE, IMAGE, "group"):
        length = field.length if field.kind == DENSE else 1

        def encode_floats(sample: Mapping[str, Any], feature: Any) -> None:
            values = _floats(name, _required(sample, name))
            if len(values) != length:
                raise SampleError(f"field {name!r}: got {len(values)} values, wanted {length}")
            feature[name].float_list.value.extend(values)

        return encode_floats

    check = _strings if field.dtype == "string" else _image_ids if is_image else _ids

    def put(feature: Any, values: list) -> None:
        if field.dtype == "string":
            feature[name].bytes_list.value.extend(values)
        else:
            feature[name].int64_list.value.extend(values)

    def encode_one(sample: Mapping[str, Any], feature: Any) -> None:
        value = sample.get(name) if is_image else _required(sample, name)
        if value is None:
            value = NO_ID
        if isinstance(value, (list, tuple, np.ndarray)) and np.shape(value) != ():
            raise SampleError(
                f"field {name!r}: got {_short(value)}, wanted one id; lists need is_list=True"
            )
        put(feature, check(name, (value,)))

    def encode_list(sample: Mapping[str, Any], feature: Any) -> None:
        values = sample.get(name, ()) if is_image else _required(sample, name)
        if not isinstance(values, (list, tuple)) and np.ndim(values) != 1:
            raise SampleError(f"field {name!r}: got {_short(values)}, wanted a list of ids")
        ids = check(name, values)
        put(feature, ids)
        if field.kind == WEIGHTED_SPARSE:
            weights = _floats(field.weight_name, _required(sample, field.weight_name))
            if len(weights) != len(ids):
                raise SampleError(
                    f"field {name!r}: got {len(ids)} ids and {len(weights)} weights; "
                    "each id needs one weight"
                )
            feature[field.weight_name].float_list.value.extend(weights)

    return encode_list if field.is_list else encode_one


def _required(sample: Mapping[str, Any], name: str) -> Any:
    value = sample.get(name)
    if value is None:
        raise SampleError(f"field {name!r}: got nothing; the sample needs a value for it")
    return value


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _ids(name: str, values: Any) -> list[int]:
    if isinstance(values, np.ndarray):
        if values.size and values.dtype.kind not in "iu":
            raise SampleError(f"field {name!r}: got {values.dtype} values, wanted whole numbers")
        values = values.tolist()
    ids = []
    for value in values:
        try:
            ids.append(operator.index(value))
        except TypeError:
            raise SampleError(
                f"field {name!r}: got {_short(value)}, wanted a whole number"
            ) from None
    if ids and (min(ids) < _INT64_MIN or max(ids) > _INT64_MAX):
        wrong = min(ids) if min(ids) < _INT64_MIN else max(ids)
        raise SampleError(f"field {name!r}: got {wrong}, which does not fit into 64 bits")
    return ids


def _image_ids(name: str, values: Any) -> list[int]:
    ids = _ids(name, values)
    if ids and min(ids) < NO_ID:
        raise SampleError(
            f"field {name!r}: got image id {min(ids)}; ids start at 0, and {NO_ID} means no image"
        )
    return ids


def _strings(name: str, values: Any) -> list[bytes]:
    strings = []
    for value in values:
        if isinstance(value, str):
            value = value.encode("utf-8")
        if not isinstance(value, bytes):
            raise SampleError(f"field {name!r}: got {_short(value)}, wanted a string")
        strings.append(value)
    return strings


def _floats(name: str, value: Any) -> list[float]:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        values = np.asarray(value)
        if values.dtype.kind not in "biuf" or values.ndim > 1:
            raise TypeError
    except (TypeError, ValueError):
        raise SampleError(
            f"field {name!r}: got {_short(value)}, wanted a number or a list of numbers"
        ) from None
    floats = values.reshape(-1).tolist()
    for number in floats:
        if not math.isfinite(number) or abs(number) > _FLOAT32_MAX:
            raise SampleError(f"field {name!r}: got {number}, wanted a finite float32")
    return floats
