"""Logs of clicks with many columns of values and numbers, as data sets: Criteo's and Avazu's.

A log is text files of rows, read in blocks and never as a whole, twice: the first time counts how
often values occur and how numbers are spread, over the training split alone, the second writes.
With hashed values and numbers that need no statistics there is no first time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.data import SampleWriter, add_info
from amstf.errors import ConfigError, SampleError
from amstf.schema import Field, Schema
from launch.datasets.columns import (
    BUCKETINGS,
    BUCKETS,
    LOG_BUCKET_IDS,
    LOG_STANDARD,
    NUMBER_MAPS,
    Bucketing,
    NumberMap,
    NumberStatistics,
    Rows,
    ValueCounter,
    Vocabulary,
    hash_ids,
    log_bucket_ids,
    numbers,
)

SPLITS = TRAIN, VALIDATION, TEST = ("train", "validation", "test")
SHARE = 0.1  # Of the validation, and of the test if there are no folds.
RANDOM, LAST = HOLDOUTS = ("random", "last")
NUMBERS = (*NUMBER_MAPS, *BUCKETINGS)
COLUMNS_FILE = "columns.json"
_BLOCK_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class ClickLogConfig:
    """How the rows of a log become samples.

    Attributes:
        min_count: Values that training has less often share one id.
        hash_size: Hash values into so many ids instead; 0: count them.
        numbers: One of `NUMBERS`: floats, or ids of buckets.
        buckets: Most buckets of a number, with numbers = "buckets".
        embedding_width: Of all fields.
        holdout: "random" rows or the "last" ones are validation and test.
        folds: Parts of equal size to cut the rows in at random, one of which is the test; 0: none.
        fold: Which of them, from 0.
        seed: Decides what is random.

    Raises:
        ConfigError: If a value is out of range.
    """

    min_count: int = 10
    hash_size: int = 0
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
        if self.folds and (self.folds < 2 or self.holdout != RANDOM):
            raise ConfigError(
                f"--folds is {self.folds} with --holdout={self.holdout}; folds are two or more, "
                "of random rows"
            )
        if not 0 <= self.fold < max(1, self.folds):
            raise ConfigError(f"--fold is {self.fold} of --folds={self.folds}; folds count from 0")


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of a log that lie beside each other.

    Attributes:
        rows: Where they are from.
        columns: Name -> values as text, null for none.
    """

    rows: Rows
    columns: Mapping[str, pa.Array]


def _nothing(block: Block) -> dict[str, np.ndarray]:
    return {}


@dataclasses.dataclass(frozen=True)
class ClickLog:
    """What is particular to a log.

    Attributes:
        title: Its name, for people.
        form: How a file looks, for messages.
        values: Columns of values that get ids -> the side that they belong to.
        numbers: Columns of numbers.
        label: Column of clicks.
        names: Columns in order, if the files have no header.
        delimiters: What may stand between two values; the first line of a file tells.
        derived: Fields that `derive` makes.
        derived_from: Columns that it makes them of.
        derive: From a block to the values of `derived`, int64 [n] each; raises SampleError.
    """

    title: str
    form: str
    values: Mapping[str, str]
    numbers: Sequence[str] = ()
    label: str = "click"
    names: Sequence[str] | None = None
    delimiters: str = ","
    derived: Sequence[Field] = ()
    derived_from: Sequence[str] = ()
    derive: Callable[[Block], dict[str, np.ndarray]] = _nothing


def prepare(
    log: ClickLog,
    config: ClickLogConfig,
    sources: Sequence[str],
    directory: str | os.PathLike[str],
    *,
    num_shards: int = 8,
) -> dict[str, int]:
    """Writes a log as a data set.

    Args:
        log: Which.
        config: How its rows become samples.
        sources: Its files in order, as they come or as .gz.
        directory: The data set directory to fill.
        num_shards: Files per split.

    Returns:
        The number of samples by split.

    Raises:
        SampleError: If a file is missing or holds something else; names the row.
    """
    if not sources:
        raise SampleError(f"{log.title}: no file is named; give --source=FILE[,FILE...]")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    splits = _Splits(config, _count_rows(log, sources) if config.holdout == LAST else 0)
    maps = _fit(log, config, sources, splits)
    schema = _schema(log, config, maps)
    counts = dict.fromkeys(SPLITS, 0)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(SampleWriter(directory, schema, split, num_shards))
            for split in SPLITS
        ]
        splits.restart()
        for block in _blocks(log, sources, "writing"):
            columns = {log.label: _labels(log, block).tolist()}
            columns |= {name: maps[name](block).tolist() for name in maps}
            columns |= {name: ids.tolist() for name, ids in log.derive(block).items()}
            indices = splits.take(len(columns[log.label])).tolist()
            for index, row in zip(indices, zip(*columns.values(), strict=True), strict=True):
                writers[index].write(dict(zip(columns, row, strict=True)))
        for split, writer in zip(SPLITS, writers, strict=True):
            counts[split] = writer.num_written
    described = {name: one.described for name, one in maps.items()}
    write_atomically(directory / COLUMNS_FILE, json.dumps(described, ensure_ascii=False) + "\n")
    add_info(
        directory,
        source=log.title,
        click=f"column {log.label}",
        config=dataclasses.asdict(config),
    )
    return counts


@dataclasses.dataclass
class _Column:
    """A column of the log as a field: how it is stored, and what that is, as JSON."""

    field: Field
    map: Callable[[Block], np.ndarray]
    described: dict[str, object]

    def __call__(self, block: Block) -> np.ndarray:
        return self.map(block)


class _Splits:
    """Says which split each row belongs to, in order, the same each time."""

    def __init__(self, config: ClickLogConfig, num_rows: int) -> None:
        self._config = config
        self._num_rows = num_rows
        self.restart()

    def restart(self) -> None:
        """Begins with the first row again."""
        seed = self._config.seed
        # The folds are the same for whichever is the test.
        self._of_fold = np.random.default_rng([seed, 0])
        self._of_validation = np.random.default_rng([seed, 1, self._config.fold])
        self._next = 0

    def take(self, count: int) -> np.ndarray:
        """Returns the splits of the next rows, indices into `SPLITS`, int64 [n]."""
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


def _fit(
    log: ClickLog, config: ClickLogConfig, sources: Sequence[str], splits: _Splits
) -> dict[str, _Column]:
    """Counts what has to be known of the training split, and makes the columns' maps."""
    counters = {} if config.hash_size else {name: ValueCounter() for name in log.values}
    number_map = NumberMap(config.numbers) if config.numbers in NUMBER_MAPS else None
    is_fitted = config.numbers == BUCKETS or (number_map and number_map.needs_statistics)
    spreads = {name: NumberStatistics() for name in log.numbers} if is_fitted else {}
    if counters or spreads:
        for block in _blocks(log, sources, "counting"):
            is_trained = splits.take(len(block.columns[log.label])) == 0
            for name, counter in counters.items():
                counter.add(block.columns[name].filter(pa.array(is_trained)))
            for name, spread in spreads.items():
                found = numbers(block.columns[name], name, block.rows)[is_trained]
                spread.add(number_map.unscaled(found) if number_map else found)
    columns: dict[str, _Column] = {}
    for name in log.numbers:
        columns[name] = _number_column(name, config, spreads.get(name))
    for name, side in log.values.items():
        vocabulary = counters[name].vocabulary(config.min_count) if counters else None
        columns[name] = _value_column(name, side, config, vocabulary)
        counters.pop(name, None)  # It may be large.
    return columns


def _number_column(name: str, config: ClickLogConfig, spread: NumberStatistics | None) -> _Column:
    def read(block: Block) -> np.ndarray:
        return numbers(block.columns[name], name, block.rows)

    described: dict[str, object] = {"numbers": config.numbers}
    if config.numbers in NUMBER_MAPS:
        number_map = NumberMap(config.numbers)
        if spread is not None:
            number_map = number_map.fitted(spread)
            described |= {"mean": number_map.mean, "deviation": number_map.deviation}
        return _Column(Field(name, "dense"), lambda block: number_map(read(block)), described)
    size, ids = LOG_BUCKET_IDS, log_bucket_ids
    if spread is not None:
        bucketing = Bucketing(tuple(spread.limits(config.buckets).tolist()))
        size, ids = bucketing.size, bucketing.ids
        described["limits"] = bucketing.limits
    field = Field(name, "sparse", vocabulary_size=size, embedding_width=config.embedding_width)
    return _Column(field, lambda block: ids(read(block)), described)


def _value_column(
    name: str, side: str, config: ClickLogConfig, vocabulary: Vocabulary | None
) -> _Column:
    size = config.hash_size if vocabulary is None else vocabulary.size
    field = Field(
        name,
        "sparse",
        side=side,
        vocabulary_size=size,
        embedding_width=config.embedding_width,
    )
    if vocabulary is None:
        return _Column(
            field, lambda block: hash_ids(block.columns[name], size), {"hash_size": size}
        )
    return _Column(
        field, lambda block: vocabulary.ids(block.columns[name]), {"values": vocabulary.values}
    )


def _schema(log: ClickLog, config: ClickLogConfig, maps: Mapping[str, _Column]) -> Schema:
    derived = tuple(
        dataclasses.replace(field, embedding_width=config.embedding_width) for field in log.derived
    )
    fields = (*(column.field for column in maps.values()), *derived, Field(log.label, "label"))
    return Schema(fields)


def _labels(log: ClickLog, block: Block) -> np.ndarray:
    labels = numbers(block.columns[log.label], log.label, block.rows)
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        index = int(wrong[0])
        shown = block.columns[log.label][index].as_py()
        raise SampleError(f"{block.rows[index]}: column {log.label!r} is {shown!r}, wanted 0 or 1")
    return labels


def _count_rows(log: ClickLog, sources: Sequence[str]) -> int:
    return sum(
        len(block.columns[log.label]) for block in _blocks(log, sources, "measuring", [log.label])
    )


def _blocks(
    log: ClickLog, sources: Sequence[str], doing: str, wanted: Sequence[str] | None = None
) -> Iterator[Block]:
    """Reads the files in blocks, with a bar of the bytes read."""
    wanted = wanted or list(
        dict.fromkeys([log.label, *log.numbers, *log.values, *log.derived_from])
    )
    total = sum(files.size(path) for path in _checked(sources))
    with tqdm(None, doing, total, disable=None, unit="B", unit_scale=True) as progress:
        for path in sources:
            delimiter = _delimiter(log, path)
            with open(path, "rb") as raw:
                yield from _blocks_of(log, path, raw, delimiter, wanted, progress)


def _checked(sources: Sequence[str]) -> Sequence[str]:
    for path in sources:
        if not os.path.isfile(path):
            raise SampleError(f"{path} is not a file; --source names the files of the log")
    return sources


def _stream(path: str, raw: BinaryIO) -> Any:
    return pa.CompressedInputStream(raw, "gzip") if path.endswith(".gz") else raw


def _delimiter(log: ClickLog, path: str) -> str:
    """Returns the delimiter that the beginning of a file has most of."""
    with open(path, "rb") as raw, _reading(log, path):
        beginning = _stream(path, raw).read(1 << 16).partition(b"\n")[0]
    return max(log.delimiters, key=lambda delimiter: beginning.count(delimiter.encode()))


def _blocks_of(
    log: ClickLog,
    path: str,
    raw: BinaryIO,
    delimiter: str,
    wanted: Sequence[str],
    progress: tqdm,
) -> Iterator[Block]:
    first, done = 1 if log.names else 2, 0  # A header is a row too.
    with _reading(log, path):
        reader = pyarrow.csv.open_csv(
            _stream(path, raw),
            pyarrow.csv.ReadOptions(
                column_names=list(log.names) if log.names else None, block_size=_BLOCK_BYTES
            ),
            pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=list(wanted),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    while True:
        with _reading(log, path):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield Block(Rows(path, first), dict(zip(batch.schema.names, batch.columns, strict=True)))
        first += batch.num_rows
        progress.update(raw.tell() - done)
        done = raw.tell()


@contextlib.contextmanager
def _reading(log: ClickLog, path: str) -> Iterator[None]:
    """Says what is wrong with a file in one line."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        shown = reason if len(reason) <= 200 else reason[:197] + "..."
        raise SampleError(f"{path} is no {log.title} ({shown}); wanted {log.form}") from None
