"""Files of logs of clicks, read as a stream: Parquet, and text with delimiters, plain or .gz."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from tqdm import tqdm

from amstf import files
from amstf.errors import SampleError
from launch.datasets.columns import Rows

PARQUET = (".parquet", ".pq")
_BLOCK_BYTES = 8 << 20
_BLOCK_ROWS = 1 << 16
_BEGINNING = 1 << 16  # Bytes that tell the delimiter.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogFormat:
    """How the files of a log look.

    Attributes:
        title: Its name, for people.
        form: How a file looks, for messages.
        names: Columns in order, if the text files have no header.
        delimiters: What may stand between two values; the first line of a file tells.
        has_quotes: Whether values may stand between double quotes.
    """

    title: str
    form: str
    names: Sequence[str] | None = None
    delimiters: str = ","
    has_quotes: bool = False


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of a log that lie beside each other.

    Attributes:
        rows: Where they are from.
        columns: Name -> values, null for none: of text files text, of Parquet of their types.
    """

    rows: Rows
    columns: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_blocks(
    log: LogFormat, sources: Sequence[str], wanted: Sequence[str], doing: str
) -> Iterator[Block]:
    """Reads the files in blocks of rows.

    Args:
        log: How they look.
        sources: The files in order; Parquet if the name ends so, gzip if it ends with .gz.
        wanted: The columns to read.
        doing: What the bar of the bytes read says.

    Raises:
        SampleError: If a file is missing, of another kind, or lacks a column; names it.
    """
    total = sum(files.size(path) for path in checked(sources))
    with tqdm(None, doing, total, disable=None, unit="B", unit_scale=True) as progress:
        for path in sources:
            if path.endswith(PARQUET):
                yield from _blocks_of_parquet(log, path, wanted, progress)
                continue
            delimiter = _delimiter(log, path)
            with open(path, "rb") as raw:
                yield from _blocks_of_text(log, path, raw, delimiter, wanted, progress)


def column_types(log: LogFormat, path: str) -> dict[str, pa.DataType]:
    """Returns the columns of a file with their types; of a text file those that its beginning has.

    Raises:
        SampleError: If it is missing or of another kind.
    """
    checked([path])
    with reading(log, path):
        if path.endswith(PARQUET):
            schema = pyarrow.parquet.read_schema(path)
        else:
            options = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
            with open(path, "rb") as raw:
                schema = _open_text(log, path, raw, _delimiter(log, path), options).schema
        return dict(zip(schema.names, schema.types, strict=True))


def checked(sources: Sequence[str]) -> Sequence[str]:
    """Returns the names of files that are there; raises SampleError."""
    if not sources:
        raise SampleError("no file is named; give --source=FILE[,FILE...]")
    for path in sources:
        if not os.path.isfile(path):
            raise SampleError(f"{path} is not a file; --source names the files of the log")
    return sources


@contextlib.contextmanager
def reading(log: LogFormat, path: str) -> Iterator[None]:
    """Says what is wrong with a file in one line."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        shown = reason if len(reason) <= 200 else reason[:197] + "..."
        raise SampleError(f"{path} is no {log.title} ({shown}); wanted {log.form}") from None


def _stream(path: str, raw: BinaryIO) -> Any:
    return pa.CompressedInputStream(raw, "gzip") if path.endswith(".gz") else raw


def _delimiter(log: LogFormat, path: str) -> str:
    """Returns the delimiter that the beginning of a file has most of."""
    with open(path, "rb") as raw, reading(log, path):
        beginning = _stream(path, raw).read(_BEGINNING).partition(b"\n")[0]
    return max(log.delimiters, key=lambda delimiter: beginning.count(delimiter.encode()))


def _open_text(
    log: LogFormat,
    path: str,
    raw: BinaryIO,
    delimiter: str,
    options: pyarrow.csv.ConvertOptions,
) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        _stream(path, raw),
        pyarrow.csv.ReadOptions(
            column_names=list(log.names) if log.names else None, block_size=_BLOCK_BYTES
        ),
        pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char='"' if log.has_quotes else False),
        options,
    )


def _blocks_of_text(
    log: LogFormat,
    path: str,
    raw: BinaryIO,
    delimiter: str,
    wanted: Sequence[str],
    progress: tqdm,
) -> Iterator[Block]:
    first, done = 1 if log.names else 2, 0  # A header is a row too.
    with reading(log, path):
        reader = _open_text(
            log,
            path,
            raw,
            delimiter,
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=list(wanted),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    while True:
        with reading(log, path):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        yield Block(Rows(path, first), columns)
        first += batch.num_rows
        progress.update(raw.tell() - done)
        done = raw.tell()


def _blocks_of_parquet(
    log: LogFormat, path: str, wanted: Sequence[str], progress: tqdm
) -> Iterator[Block]:
    size, first = files.size(path), 1
    with reading(log, path), pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for name in wanted:
            if name not in names:
                raise pa.ArrowKeyError(f"it has no column {name!r}, but {', '.join(names)}")
        batches = file.iter_batches(_BLOCK_ROWS, columns=list(wanted))
        num_rows = file.metadata.num_rows
        for batch in batches:
            batch.validate(full=True)  # Text that is no UTF-8 would be found where it hurts.
            yield Block(Rows(path, first), {name: batch[name] for name in wanted})
            first += batch.num_rows
            progress.update(round(size * batch.num_rows / max(1, num_rows)))
