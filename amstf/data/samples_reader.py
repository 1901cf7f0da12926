"""Reads samples as batches of tensors: parallel files, shuffling, one parse for a whole batch."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import tensorflow as tf

from amstf import files
from amstf.data.manifest import Manifest
from amstf.data.parsing import parse_batch, parse_groups
from amstf.errors import SampleError
from amstf.schema import INPUT_KINDS, Field, Schema

SHUFFLE_BUFFER = 50_000
"""Serialized samples that shuffling holds: some 30 MB at the 500 to 600 bytes that one takes."""

MAX_OPEN_FILES = 16
"""Files that one reader reads at a time; each holds a buffer of 256 KiB."""

ShardIndex: TypeAlias = int | tf.Tensor | Callable[[], tf.Tensor]


class Samples:
    """A data set directory, open for reading.

    Attributes:
        directory: The directory.
        schema: Its fields.
        manifest: Its files.
    """

    def __init__(
        self, directory: pathlib.Path | files.RemotePath, schema: Schema, manifest: Manifest
    ) -> None:
        self.directory = directory
        self.schema = schema
        self.manifest = manifest

    @classmethod
    def open(cls, directory: str | os.PathLike, *, checksums: bool = False) -> Samples:
        """Opens a data set and checks that its files are there and whole.

        Args:
            directory: What `SampleWriter` or `python -m launch.prepare` wrote, or a copy of it on
                a remote file system such as s3://bucket/data.
            checksums: Also read every byte, compare checksums and follow the records' lengths, as
                is wise for the data of a stranger; sizes are always compared.

        Raises:
            SampleError: If the manifest or a file is missing or damaged.
            SchemaError: If the schema is missing or damaged.
        """
        manifest = Manifest.load(directory)
        schema = Schema.load(directory)
        manifest.verify(directory, checksums=checksums)
        remote = files.is_remote(directory)
        return cls(
            files.RemotePath(os.fspath(directory)) if remote else pathlib.Path(directory),
            schema,
            manifest,
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest.splits)

    def num_records(self, split: str) -> int:
        """Returns the number of records of a split: of its samples, or of groups of them."""
        return self.manifest.records(split)

    def num_impressions(self, split: str) -> int:
        """Returns the number of samples of a split, be they grouped or not."""
        return self.manifest.impressions(split)

    def is_grouped(self, split: str) -> bool:
        """Whether a record of a split is a group of samples, see `amstf.data.groups`."""
        return self.manifest.is_grouped(split)

    def records_of(self, split: str, impressions: int) -> int:
        """Returns how many records hold so many samples on average, at least 1."""
        records, all_impressions = self.num_records(split), self.num_impressions(split)
        return max(1, round(impressions * records / max(1, all_impressions)))

    def parse(
        self, split: str, serialized: tf.Tensor, fields: Iterable[Field], *, ragged: bool = False
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Parses records of a split, string [n], as `parse_batch` or `parse_groups` says."""
        if self.is_grouped(split):
            return parse_groups(serialized, fields, self.schema.labels[0], ragged=ragged)
        return parse_batch(serialized, fields, ragged=ragged)

    def files(self, split: str) -> list[str]:
        """Returns the paths of a split's files, in order."""
        return [str(self.directory / file.path) for file in self.manifest.files(split)]

    def image_store_path(self, name: str = "images") -> str:
        """Returns the path of an image store of the data set on a disk of this machine.

        Rows are read from mapped memory, so a store on a remote file system is copied first, once,
        to $AMSTF_CACHE (by default ~/.cache/amstf), with a bar on a terminal.

        Args:
            name: Name of the store, `Field.store_name` of an image field.

        Raises:
            SampleError: If the manifest names no such store, lists those it has; or if the store
                cannot be copied.
        """
        if name not in self.manifest.images:
            known = ", ".join(self.manifest.images) or "none"
            raise SampleError(
                f"{self.directory} has no image store {name!r}; its stores are: {known}. "
                "Register one with amstf.data.set_image_store"
            )
        path = files.join(self.directory, self.manifest.images[name])
        if not files.is_remote(path):
            return path
        try:
            return files.local_copy(path)
        except OSError as error:
            raise SampleError(f"image store {name!r} cannot be copied here: {error}") from error

    def dataset(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int | None = None,
        repeat: bool = False,
        drop_remainder: bool = False,
        ragged: bool = False,
        fields: Iterable[str] | None = None,
        labels: Iterable[str] | None = None,
        only_inputs: bool = True,
        shard: tuple[int, ShardIndex] | None = None,
    ) -> tf.data.Dataset:
        """Returns the batches of a split.

        Unshuffled, samples come in the order they were written in (up to `MAX_OPEN_FILES` files;
        beyond that, in another order that is the same every time). Shuffled with a seed, two
        datasets made alike give equal batches; every pass over one has a new order.

        Args:
            split: Name of the split.
            batch_size: Samples per batch, B; of a split of groups, samples of a batch on average
                (the batches hold equally many groups).
            shuffle: Whether to shuffle, over files and a window of `SHUFFLE_BUFFER` samples.
            seed: Makes shuffling the same every time. Without one, files are read in whatever
                order is fastest.
            repeat: Whether to begin again at the end, for ever. ParameterServerStrategy needs it.
            drop_remainder: Whether to leave out a last batch that is smaller, so that B is static
                (of groups, G).
            ragged: Whether lists come as RaggedTensors instead of padded.
            fields: Names of the fields to parse, to save the time that the others cost; all that
                `only_inputs` gives if None. The labels come in any case with `only_inputs`.
            labels: Names of the labels that `only_inputs` gives; all of the schema if None.
            only_inputs: Whether to give what `model.fit` takes, a pair (inputs, label), instead of
                one dict with groups, labels and extras too.
            shard: (number of readers, index of this one): this reader's share of the *files*. The
                index is an int, a scalar tensor, or a function that computes one; a function runs
                inside the pipeline, so on the worker that reads.

        Returns:
            With `only_inputs` pairs of a dict and the label [B, 1] float32, of several labels a
            dict of name -> [B, 1], as models with several outputs want it; otherwise dicts. Values
            are as `amstf.data.parse_batch` says: ids [B] or [B, T] int64, padded with -1, floats
            [B, length] float32. Of a split of groups they are as `amstf.data.parse_groups` says:
            what is the user's once for each group, [G, ...], and with it which group an impression
            is of, `GROUP_INDEX` int64 [B]. The models take both; `per_impression` repeats.

        Raises:
            SampleError: If the split or a field does not exist, or the readers outnumber the files.

        Example:
            >>> import tempfile
            >>> from amstf.data import SampleWriter
            >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("y", "label")))
            >>> directory = tempfile.mkdtemp()
            >>> with SampleWriter(directory, schema, "train", num_shards=1) as writer:
            ...     writer.write({"user": 3, "y": 1.0})
            >>> [int(x["user"][0]) for x, y in Samples.open(directory).dataset("train", 32)]
            [3]
        """
        if batch_size < 1:
            raise SampleError(f"batch_size is {batch_size}; it must be at least 1")
        wanted = self._fields(fields, only_inputs)
        targets = self.label_fields(labels)
        deterministic = not shuffle or seed is not None

        shards = self.files(split)
        readers = min(len(shards), MAX_OPEN_FILES)
        paths = tf.data.Dataset.from_tensor_slices(shards)
        if shard is not None:
            paths = _share(paths, len(shards), split, *shard)
        if shuffle:
            paths = paths.shuffle(len(shards), seed=seed)
        records = paths.interleave(
            tf.data.TFRecordDataset,
            cycle_length=readers,
            # Records in turn give back the order of writing; where order does not matter, longer
            # turns cost less.
            block_length=16 if shuffle else 1,
            num_parallel_calls=min(readers, os.cpu_count() or 1),
            deterministic=deterministic,
        )
        if shuffle:
            window = self.records_of(split, SHUFFLE_BUFFER)
            window = min(window, max(1, self.num_records(split)))
            records = records.shuffle(window, seed=seed)
        if repeat:
            records = records.repeat()
        size = self.records_of(split, batch_size)
        batches = records.batch(size, drop_remainder=drop_remainder)

        def parse(serialized: tf.Tensor):  # type: ignore[no-untyped-def]
            if not only_inputs:
                return self.parse(split, serialized, wanted, ragged=ragged)
            batch = self.parse(split, serialized, (*wanted, *targets), ragged=ragged)
            return split_labels(batch, targets)

        batches = batches.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        options = tf.data.Options()
        # Which reader reads what is said by `shard` alone.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        options.deterministic = deterministic
        return batches.prefetch(tf.data.AUTOTUNE).with_options(options)

    def input_fields(self, names: Iterable[str] | None = None) -> tuple[Field, ...]:
        """Returns the input fields of these names, all of them if None.

        Raises:
            SampleError: If a name is of no field, or of one that is no input.
        """
        return self._fields(names, only_inputs=True)

    def label_fields(self, names: Iterable[str] | None = None) -> tuple[Field, ...]:
        """Returns the labels of these names, all of the schema if None.

        Raises:
            SampleError: If a name is of no label, or there is none.
        """
        known = {field.name: field for field in self.schema.labels}
        wanted = tuple(known) if names is None else tuple(names)
        if not wanted or any(name not in known for name in wanted):
            raise SampleError(
                f"labels is {', '.join(map(repr, wanted)) or 'empty'}; the labels of the data set "
                f"are: {', '.join(known)}"
            )
        return tuple(known[name] for name in wanted)

    def _fields(self, names: Iterable[str] | None, only_inputs: bool) -> tuple[Field, ...]:
        allowed = self.schema.inputs if only_inputs else self.schema.fields
        if names is None:
            return allowed
        wanted = []
        for name in names:
            if name not in self.schema:
                known = ", ".join(field.name for field in self.schema.fields)
                raise SampleError(f"fields names {name!r}; the fields of the data set are: {known}")
            field = self.schema[name]
            if only_inputs and field.kind not in INPUT_KINDS:
                raise SampleError(
                    f"fields names {name!r}, a {field.kind} field and no input; "
                    "leave it out or use only_inputs=False"
                )
            wanted.append(field)
        return tuple(wanted)


def split_labels(
    batch: dict[str, tf.Tensor], labels: tuple[Field, ...]
) -> tuple[dict[str, tf.Tensor], tf.Tensor | dict[str, tf.Tensor]]:
    """Returns inputs and target of a batch: one label as a tensor, several as a dict by name."""
    targets = {field.name: batch.pop(field.name) for field in labels}
    return batch, targets if len(targets) > 1 else targets[labels[0].name]


def _share(
    paths: tf.data.Dataset,
    num_files: int,
    split: str,
    num_readers: int,
    index: ShardIndex,
) -> tf.data.Dataset:
    if num_readers < 1 or num_readers > num_files:
        raise SampleError(
            f"shard: split {split!r} has {num_files} files, which cannot be shared among "
            f"{num_readers} readers; write the data set with num_shards >= {num_readers}"
        )
    if isinstance(index, int) and not 0 <= index < num_readers:
        raise SampleError(f"shard: index {index} is not one of 0 .. {num_readers - 1}")
    if callable(index):
        compute = index
        return tf.data.Dataset.from_tensors(0).flat_map(
            lambda _: paths.shard(num_readers, tf.cast(compute(), tf.int64))
        )
    return paths.shard(num_readers, tf.cast(index, tf.int64))
