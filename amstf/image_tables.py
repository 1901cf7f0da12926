"""Tables of image embeddings beside an export: for the key-value store of a ranking server."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import h5py
import numpy as np

from amstf.errors import ExportError

INSIDE = "inside"
PARQUET = "parquet"
HDF5 = "hdf5"
TABLES = (INSIDE, PARQUET, HDF5)
TABLE_DTYPES = ("float32", "float16")

_SUFFIXES = {PARQUET: ".parquet", HDF5: ".h5"}
_ROWS = 1 << 16  # Of a row group of Parquet: a reader needs no more than that in memory.


def check_table(table: str, dtype: str) -> None:
    """Raises ExportError if there is no such kind of table or type of its floats."""
    if table not in TABLES:
        raise ExportError(f"table is {table!r}; use one of {', '.join(TABLES)}")
    if dtype not in TABLE_DTYPES:
        raise ExportError(f"table_dtype is {dtype!r}; use one of {', '.join(TABLE_DTYPES)}")


def file_name(store: str, kind: str) -> str:
    """Returns the name of a store's table, "parquet" or "hdf5"."""
    return f"image_embeddings_{store}{_SUFFIXES[kind]}"


def as_dtype(embeddings: np.ndarray, dtype: str) -> np.ndarray:
    """Returns embeddings [n, D] in the type of a table.

    Raises:
        ExportError: If a number is beyond the range of float16, about 65,504.
    """
    with np.errstate(over="ignore"):
        result = embeddings.astype(dtype)
    if not np.isfinite(result).all():
        raise ExportError(
            f"an embedding holds a number of {np.abs(embeddings).max():.3g}, which {dtype} cannot "
            "hold; use --table_dtype=float32"
        )
    return result


def write_table(
    directory: pathlib.Path, store: str, kind: str, ids: np.ndarray, embeddings: np.ndarray
) -> pathlib.Path:
    """Writes a table as a file.

    Args:
        directory: Where to.
        store: Name of the image store, which becomes the file's name.
        kind: `PARQUET` (columns `id` and `embedding`, a list of D floats) or `HDF5` (datasets
            `ids` [n] and `embeddings` [n, D]).
        ids: int64 [n], ascending.
        embeddings: float32 or float16 [n, D].

    Returns:
        The path of the file.
    """
    path = directory / file_name(store, kind)
    if kind == HDF5:
        with h5py.File(path, "w") as file:
            file["ids"], file["embeddings"] = ids, embeddings
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = embeddings.shape[1]
    value = pa.float16() if embeddings.dtype == np.float16 else pa.float32()
    schema = pa.schema([("id", pa.int64()), ("embedding", pa.list_(value, width))])
    with pq.ParquetWriter(path, schema) as writer:
        for begin in range(0, len(ids), _ROWS):
            part = np.ascontiguousarray(embeddings[begin : begin + _ROWS]).reshape(-1)
            rows = pa.FixedSizeListArray.from_arrays(pa.array(part, value), width)
            columns = [pa.array(ids[begin : begin + _ROWS]), rows]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def read_table(path: pathlib.Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Reads the file of `write_table` part by part.

    Yields:
        Ids [k] and embeddings [k, D].

    Example:
        >>> import tempfile
        >>> ids, embeddings = np.array([3, 7]), np.array([[1.0], [2.0]], np.float16)
        >>> directory = pathlib.Path(tempfile.mkdtemp())
        >>> path = write_table(directory, "images", PARQUET, ids, embeddings)
        >>> [(part[0].tolist(), part[1].tolist()) for part in read_table(path)]
        [([3, 7], [[1.0], [2.0]])]
    """
    if path.suffix == _SUFFIXES[HDF5]:
        with h5py.File(path) as file:
            for begin in range(0, len(file["ids"]), _ROWS):
                where = slice(begin, begin + _ROWS)
                yield file["ids"][where], file["embeddings"][where]
        return
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(_ROWS):
        rows = batch.column("embedding")
        flat = rows.flatten().to_numpy(zero_copy_only=False)
        yield batch.column("id").to_numpy(), flat.reshape(len(rows), -1)
