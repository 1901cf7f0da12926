"""Logs of clicks with many columns of values and numbers, as data sets: Criteo's, Avazu's, tables.

A log is files of rows, read in blocks and never as a whole, twice: the first time counts how
often values occur and how numbers are spread, over the training split alone, the second writes.
With hashed values and numbers that need no statistics there is no first time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from amstf.atomic_file import write_atomically
from amstf.data import SampleWriter, add_info, set_image_store
from amstf.errors import ConfigError, SampleError
from amstf.schema import Field, Schema
from amstf.store import ImageStore
from launch.datasets.columns import ANY_ID, ValueCounter, numbers
from launch.datasets.log_columns import (
    Column,
    group_column,
    image_column,
    label_column,
    lists,
    number_column,
    value_column,
)
from launch.datasets.log_files import Block, LogFormat, checked, read_blocks
from launch.datasets.missing_images import MissingImages
from launch.datasets.number_columns import (
    BUCKETINGS,
    BUCKETS,
    LOG_STANDARD,
    NUMBER_MAPS,
    NumberMap,
    NumberStatistics,
    UniformSample,
)

SPLITS = TRAIN, VALIDATION, TEST = ("train", "validation", "test")
SHARE = 0.1  # Of the validation, and of the test if there are no folds.
RANDOM, LAST = HOLDOUTS = ("random", "last")
NUMBERS = (*NUMBER_MAPS, *BUCKETINGS)
COLUMNS_FILE = "columns.json"
GROUP = "group_key"


@dataclasses.dataclass(frozen=True)
class ClickLogConfig:
    """How the rows of a log become samples.

    Attributes:
        min_count: Values that training has less often share one id.
        hash_size: Hash values into so many ids instead; 0: count them.
        dynamic: Give each value an id of its own, for dynamic tables, and count nothing.
        numbers: One of `NUMBERS`: floats, or ids of buckets.
        buckets: Most buckets of a number, with numbers = "buckets".
        embedding_width: Of all fields.
        holdout: "random" rows or the "last" ones are validation and test.
        folds: Parts of about equal size to cut the rows in at random, one of which is the test; 0:
            none.
        fold: Which of them, from 0.
        seed: Decides what is random.

    Raises:
        ConfigError: If a value is out of range.
    """

    min_count: int = 10
    hash_size: int = 0
    dynamic: bool = False
    numbers: str = LOG_STANDARD
    buckets: int = 20
    embedding_width: int = 12
    holdout: str = RANDOM
    folds: int = 0
    fold: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        lowest = {"min_count": 1, "hash_size": 0, "buckets": 2, "embedding_width": 1, "seed": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least {low}")
        for name, choices in (("numbers", NUMBERS), ("holdout", HOLDOUTS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"--{name} is {getattr(self, name)!r}; use {', '.join(choices)}")
        if self.dynamic and self.hash_size:
            raise ConfigError(
                f"--dynamic with --hash_size={self.hash_size}: dynamic tables have a row for each "
                "value, and hash none; choose one"
            )
        if self.folds and (self.folds < 2 or self.holdout != RANDOM):
            raise ConfigError(
                f"--folds is {self.folds} with --holdout={self.holdout}; folds are two or more, "
                "of random rows"
            )
        if not 0 <= self.fold < max(1, self.folds):
            raise ConfigError(f"--fold is {self.fold} of --folds={self.folds}; folds count from 0")


def _nothing(block: Block) -> dict[str, np.ndarray]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClickLog(LogFormat):
    """What is particular to a log, beside how its files look.

    Attributes:
        values: Columns of values that get ids -> the side that they belong to.
        lists: Columns of lists of such values -> likewise.
        numbers: Columns of numbers -> likewise.
        images: Columns of ids of images -> likewise.
        image_lists: Columns of lists of such ids -> likewise.
        labels: Columns of clicks, and what else is predicted.
        label_threshold: A label is 1 above it; None if labels are 0 and 1.
        group: Column of the key whose impressions belong together, the user's; "" for none.
        time: Column of times that say which rows are the last; "" for the order of the rows.
        item: Field that says which item an impression shows; "" for none.
        separator: What is between the values of a list in a text file.
        derived: Fields that `derive` makes.
        derived_from: Columns that it makes them of.
        derive: From a block to the values of `derived`, int64 [n] each; raises SampleError.
    """

    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Sequence[str] = ("click",)
    label_threshold: float | None = None
    group: str = ""
    time: str = ""
    item: str = ""
    separator: str = " "
    derived: Sequence[Field] = ()
    derived_from: Sequence[str] = ()
    derive: Callable[[Block], dict[str, np.ndarray]] = _nothing

    @property
    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        kinds = (self.numbers, self.values, self.lists, self.images, self.image_lists)
        others = [name for name in (self.group, self.time) if name]
        named = [*self.labels, *(n for kind in kinds for n in kind), *others, *self.derived_from]
        return list(dict.fromkeys(named))


def prepare(
    log: ClickLog,
    config: ClickLogConfig,
    sources: Sequence[str],
    directory: str | os.PathLike[str],
    *,
    num_shards: int = 8,
    group_size: int | None = None,
    store: ImageStore | None = None,
) -> dict[str, int]:
    """Writes a log as a data set.

    Args:
        log: Which.
        config: How its rows become samples.
        sources: Its files in order, as they come, as .gz, or as Parquet.
        directory: The data set directory to fill.
        num_shards: Files per split.
        group_size: Most impressions of a group; None stores each by itself.
        store: The images of a log that has ids of images; it stays where it is.

    Returns:
        The number of samples by split.

    Raises:
        SampleError: If a file is missing or holds something else; names the row.
    """
    checked(sources)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    splits = _Splits(log, config, sources)
    columns = _columns(log, config, sources, splits)
    schema = _schema(log, config, columns)
    missing = MissingImages(store)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(SampleWriter(directory, schema, split, num_shards, group_size))
            for split in SPLITS
        ]
        splits.restart()
        for block in read_blocks(log, sources, log.columns, "writing"):
            values = {column.field.name: column(block) for column in columns}
            values |= {name: ids.tolist() for name, ids in log.derive(block).items()}
            indices = splits.take(block).tolist()
            rows = zip(indices, zip(*values.values(), strict=True), strict=True)
            for place, (index, row) in enumerate(rows):
                try:
                    writers[index].write(dict(zip(values, row, strict=True)))
                except SampleError as error:
                    raise SampleError(f"{block.rows[place]}: {error}") from None
            for name in log.images:
                missing.add(values[name])
            for name in log.image_lists:
                missing.add([image for row in values[name] for image in row])
        counts = {split: w.num_written for split, w in zip(SPLITS, writers, strict=True)}
        check_splits(config.holdout, counts)
        for writer in writers:
            writer.close()
    described = {c.field.name: c.described for c in columns if c.described}
    write_atomically(directory / COLUMNS_FILE, json.dumps(described, ensure_ascii=False) + "\n")
    if store is not None:
        set_image_store(directory, store.paths[0])
    add_info(
        directory,
        source=log.title,
        click=f"column {log.labels[0]}",
        config=dataclasses.asdict(config),
        **missing.facts(),
    )
    return counts


def check_splits(holdout: str, counts: Mapping[str, int]) -> None:
    """Raises SampleError if a split is empty, which could not be trained on or measured."""
    empty = [split for split, count in counts.items() if not count]
    if empty:
        cure = "give more of them"
        if holdout == LAST:
            cure += ", or --holdout=random if times hardly differ"
        raise SampleError(
            f"of {sum(counts.values()):,} samples none is in {' and '.join(empty)}; {cure}"
        )


class _Splits:
    """Says which split each row belongs to, in order, the same each time."""

    def __init__(self, log: ClickLog, config: ClickLogConfig, sources: Sequence[str]) -> None:
        self._config = config
        self._time = log.time if config.holdout == LAST else ""
        self._num_rows = 0
        self._limits = np.empty(0)
        if self._time:
            times = UniformSample(seed=config.seed)
            for block in read_blocks(log, sources, [log.time], "measuring"):
                times.add(time_values(block, log.time))
            self._limits = times.quantiles(np.array([1 - 2 * SHARE, 1 - SHARE]))
        elif config.holdout == LAST:
            blocks = read_blocks(log, sources, log.labels[:1], "measuring")
            self._num_rows = sum(map(len, blocks))
        self.restart()

    def restart(self) -> None:
        """Begins with the first row again."""
        seed = self._config.seed
        # The folds are the same for whichever is the test.
        self._of_fold = np.random.default_rng([seed, 0])
        self._of_validation = np.random.default_rng([seed, 1, self._config.fold])
        self._next = 0

    def take(self, block: Block) -> np.ndarray:
        """Returns the splits of the next rows, indices into `SPLITS`, int64 [n]."""
        count = len(block)
        if self._time:
            times = time_values(block, self._time)
            return (times[:, None] > self._limits).sum(axis=1)
        if self._config.holdout == LAST:
            place = (self._next + np.arange(count)) / self._num_rows
            self._next += count
            return (place >= 1 - 2 * SHARE).astype(np.int64) + (place >= 1 - SHARE)
        parts = self._config.folds or round(1 / SHARE)
        is_test = self._of_fold.integers(parts, size=count) == self._config.fold
        # Of what the test leaves; without folds a tenth of all, as the test is.
        share = SHARE if self._config.folds else SHARE / (1 - SHARE)
        is_validation = self._of_validation.random(count) < share
        return np.where(is_test, 2, is_validation.astype(np.int64))


def time_values(block: Block, name: str) -> np.ndarray:
    """Returns times as numbers that grow with them, float64 [n].

    Raises:
        SampleError: Naming the row, if one is neither a number nor a date as of ISO 8601.
    """
    column = block.columns[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        with contextlib.suppress(pa.ArrowInvalid):  # Numbers then, or named below.
            column = column.cast(pa.timestamp("us"))
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    times = numbers(column, name, block.rows)
    if np.isnan(times).any():
        index = int(np.flatnonzero(np.isnan(times))[0])
        raise SampleError(f"{block.rows[index]}: column {name!r} is nothing, wanted a time")
    return times


def _columns(
    log: ClickLog, config: ClickLogConfig, sources: Sequence[str], splits: _Splits
) -> list[Column]:
    """Makes the columns, after counting what has to be known of the training split."""
    sides = {**log.values, **log.lists}
    counts_values = not (config.hash_size or config.dynamic)
    counters = {name: ValueCounter() for name in sides} if counts_values else {}
    number_map = NumberMap(config.numbers) if config.numbers in NUMBER_MAPS else None
    is_fitted = config.numbers == BUCKETS or (number_map and number_map.needs_statistics)
    spreads = {name: NumberStatistics() for name in log.numbers} if is_fitted else {}
    if counters or spreads:
        wanted = [log.labels[0], *counters, *spreads, *([log.time] if log.time else [])]
        for block in read_blocks(log, sources, list(dict.fromkeys(wanted)), "counting"):
            is_trained = splits.take(block) == 0
            for name, counter in counters.items():
                column = block.columns[name]
                if name in log.lists:
                    column = lists(block, name, log.separator)
                column = column.filter(pa.array(is_trained))
                counter.add(column.flatten() if name in log.lists else column)
            for name, spread in spreads.items():
                found = numbers(block.columns[name], name, block.rows)[is_trained]
                spread.add(number_map.unscaled(found) if number_map else found)
    columns = [label_column(name, log.label_threshold) for name in log.labels]
    width = config.embedding_width
    for name, side in log.numbers.items():
        spread = spreads.get(name)
        columns.append(number_column(name, side, config.numbers, config.buckets, width, spread))
    for name, side in sides.items():
        vocabulary = counters.pop(name).vocabulary(config.min_count) if counters else None
        separator = log.separator if name in log.lists else None
        hash_size = ANY_ID if config.dynamic else config.hash_size
        columns.append(value_column(name, side, vocabulary, hash_size, width, separator))
    columns += [image_column(name, side) for name, side in log.images.items()]
    columns += [image_column(n, side, log.separator) for n, side in log.image_lists.items()]
    if log.group:
        columns.append(group_column(log.group, GROUP))
    return columns


def _schema(log: ClickLog, config: ClickLogConfig, columns: Sequence[Column]) -> Schema:
    derived = tuple(
        dataclasses.replace(field, embedding_width=config.embedding_width) for field in log.derived
    )
    fields = [column.field for column in columns]
    labels = [field for field in fields if field.kind == "label"]
    others = [field for field in fields if field.kind != "label"]
    return Schema((*others, *derived, *labels), item=log.item or None)
