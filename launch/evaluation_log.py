"""RUN/evaluations.csv: what the evaluator measured, and how the chief gets to know it."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import time

from amstf.atomic_file import write_atomically
from launch.evaluation import Metrics
from launch.run_rows import read_rows
from launch.step_logger import History

_METRICS = tuple(field.name for field in dataclasses.fields(Metrics))
COLUMNS = ("step", "unix_time", *_METRICS)

Row = dict[str, float]


def read(path: pathlib.Path) -> list[Row]:
    """Returns the rows in the order of evaluation; a metric that is not defined is left out."""
    return read_rows(path)[1] if path.exists() else []


def add(path: pathlib.Path, step: int, metrics: Metrics) -> None:
    """Adds the row of a checkpoint; there is one writer."""
    # The file is replaced: neither the chief nor a crash finds half a row in it.
    content = io.StringIO(path.read_text() if path.exists() else "")
    is_new = not content.seek(0, io.SEEK_END)
    writer = csv.DictWriter(content, COLUMNS, lineterminator="\n")
    if is_new:
        writer.writeheader()
    writer.writerow({"step": step, "unix_time": int(time.time()), **metrics.to_json()})
    write_atomically(path, content.getvalue())


def unseen(path: pathlib.Path, history: History) -> list[Row]:
    """Returns the rows with an AUC whose checkpoints a history does not have yet."""
    seen = set(history.column("validation_auc")[0])
    return [row for row in read(path) if "auc" in row and row["step"] not in seen]
