"""Files of scores: CSV or Parquet, part by part."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from amstf.errors import ConfigError

CSV = ".csv"
PARQUET = ".parquet"

Write = Callable[[np.ndarray], None]


def kind_of(out: pathlib.Path, form: str) -> str:
    """Returns which kind of file to write: what `form` says, or the file's name.

    Args:
        out: The file.
        form: "auto", "csv" or "parquet".

    Example:
        >>> kind_of(pathlib.Path("scores.parquet"), "auto"), kind_of(pathlib.Path("x"), "csv")
        ('.parquet', '.csv')
    """
    return PARQUET if form == "parquet" or (form == "auto" and out.suffix == PARQUET) else CSV


def check_can_write(kind: str) -> None:
    """Raises ConfigError if a package is missing, before hours of scoring."""
    if kind == PARQUET:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"Parquet needs pyarrow ({error}); pip install -r requirements.txt, or name a .csv"
            ) from error


@contextlib.contextmanager
def open_scores(path: pathlib.Path, kind: str, columns: Sequence[str]) -> Iterator[Write]:
    """Opens a file of scores; gives a function that adds scores [k, L] with their numbers."""
    count = 0
    if kind == CSV:
        with open(path, "w", encoding="ascii") as file:
            file.write(",".join(["record", *columns]) + "\n")

            def add_lines(scores: np.ndarray) -> None:
                nonlocal count
                for k, row in enumerate(scores, count):
                    file.write(",".join([str(k), *(f"{p:.9g}" for p in row)]) + "\n")
                count += len(scores)

            yield add_lines
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("record", pa.int64()), *((name, pa.float32()) for name in columns)])
    with pq.ParquetWriter(path, schema) as writer:

        def add_rows(scores: np.ndarray) -> None:
            nonlocal count
            numbers = np.arange(count, count + len(scores))
            arrays = [pa.array(values) for values in (numbers, *np.ascontiguousarray(scores.T))]
            writer.write_table(pa.table(arrays, schema=schema))
            count += len(scores)

        yield add_rows
