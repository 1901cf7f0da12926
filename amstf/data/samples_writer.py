"""Writes samples as TFRecord shards, with the schema and the manifest beside them."""

from __future__ import annotations

import array
import fcntl
import os
import pathlib
import re
import shutil
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.data.encoding import encoder
from amstf.data.groups import GroupBuilder
from amstf.data.manifest import (
    MANIFEST_FILE,
    Manifest,
    ShardFile,
    file_crc32,
)
from amstf.data.record_offsets import (
    IMPRESSIONS_SUFFIX,
    SUFFIX,
    framed_size,
    write_group_sizes,
    write_record_offsets,
)
from amstf.errors import SampleError
from amstf.schema import SCHEMA_FILE, WEIGHTED_SPARSE, Schema

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")


class SampleWriter:
    """Writes the samples of one split, one at a time, to several files in turn.

    Memory is 16 bytes a record. The files get their names, and the split its
    line in the manifest, only when all is written: a program that fails or is killed leaves no
    split that looks whole.

    Args:
        directory: The data set directory; made if it does not exist.
        schema: The fields. Must equal the schema of the data set if it has one already.
        split: Name of the split, for example "train"; letters, digits and underscores.
        num_shards: Files to write, at least one for each worker that will read them.
        group_size: Store consecutive samples that are equal in what is the user's
            (`Field.is_common`) as one record, at most so many in one; see `amstf.data.groups`.
            By default each sample is a record. Readers see no difference but in their batches.

    Raises:
        SchemaError: If samples of this schema cannot be grouped.
        SampleError: If the split exists, the schema differs from the stored one, or another
            program is writing the split.

    Example:
        >>> import tempfile
        >>> from amstf.schema import Field
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
        group_size: int | None = None,
    ) -> None:
        if not _SPLIT_NAME.fullmatch(split):
            raise SampleError(
                f"split is {split!r}; use letters, digits and underscores, for example 'train'"
            )
        if num_shards < 1:
            raise SampleError(f"num_shards is {num_shards}; it must be at least 1")
        if group_size is not None and group_size < 1:
            raise SampleError(f"group_size is {group_size}; it must be at least 1, or None")
        files.refuse_remote(directory, "directory", SampleError)
        self._directory = pathlib.Path(directory)
        self._schema = schema
        self._split = split
        self._encoders = [encoder(field) for field in schema.stored]
        self._names = _names(schema)
        self._groups = None if group_size is None else GroupBuilder(schema, group_size)
        self._counts = [array.array("q") for _ in range(num_shards)]
        self._sizes = [array.array("q") for _ in range(num_shards)]  # 8 bytes a record.
        self._num_written = 0
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
        return self._num_written

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
        features = tf.train.Features()
        try:
            if not sample.keys() <= self._names:
                raise SampleError(self._unknown_key(sample))
            for encode in self._encoders:
                encode(sample, features.feature)
        except SampleError as error:
            raise SampleError(
                f"sample {self.num_written} of split {self._split!r}: {error}"
            ) from None
        self._num_written += 1
        if self._groups is None:
            self._put(tf.train.Example(features=features).SerializeToString(), 1)
        elif group := self._groups.add(features):
            self._put(*group)

    def _put(self, record: bytes, impressions: int) -> None:
        self._writers[self._next].write(record)
        self._sizes[self._next].append(framed_size(len(record)))
        self._counts[self._next].append(impressions)
        self._next = (self._next + 1) % len(self._writers)

    def close(self) -> None:
        """Finishes the files and adds the split to the manifest.

        Raises:
            SampleError: If no sample was written; nothing is left then.
        """
        if not self._open:
            return
        try:
            if self._groups is not None and self._groups.size:
                self._put(*self._groups.take())
            for writer in self._writers:
                writer.close()
            if not self.num_written:
                raise SampleError(
                    f"no sample was written to split {self._split!r} of {self._directory}; "
                    "an empty split cannot be trained on: leave it out"
                )
            shards = tuple(
                ShardFile(
                    path.name,
                    len(counts),
                    path.stat().st_size,
                    file_crc32(path),
                    None if self._groups is None else sum(counts),
                )
                for path, counts in zip(self._paths, self._counts, strict=True)
            )
            beside = [SUFFIX]
            for path, sizes, counts in zip(self._paths, self._sizes, self._counts, strict=True):
                write_record_offsets(path, np.frombuffer(sizes, np.int64))
                if self._groups is not None:
                    write_group_sizes(path, np.frombuffer(counts, np.int64))
            if self._groups is not None:
                beside.append(IMPRESSIONS_SUFFIX)
            with Manifest.update(self._directory) as manifest:
                self._check_existing()
                for path in self._paths:
                    for name in (path.name, *(path.name + suffix for suffix in beside)):
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
