"""Shows a training that runs: a live line on the terminal, TensorBoard, and a history file.

Under ParameterServerStrategy a step is scheduled long before it runs, and batch hooks of Keras fire
at the scheduling. So nothing hangs on hooks here: a thread reads the optimizer's step counter and
the loss metric now and then, which is right with and without a cluster.
"""

from __future__ import annotations

import csv
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
import tqdm

from launch import fresh_thread
from launch.run_rows import read_rows
from launch.worker_watch import WorkerWatch

_POLL_SECONDS = 1.0
_CONSISTENT_READS = 5
_COUNTERS_SECONDS = 5.0  # Between two sets of TensorBoard points of servers and workers.
_PLAIN_LINE_SECONDS = 10.0  # Between lines where stdout is no terminal: a log that can be read.

VALIDATION_METRICS = ("auc", "gauc", "log_loss", "calibration")

HISTORY_COLUMNS = (
    "step",
    "seconds",
    "loss",
    "samples_per_second",
    *(f"validation_{name}" for name in VALIDATION_METRICS),
)


class History:
    """The rows of a run's history, in a CSV file that grows over restarts.

    Args:
        path: The file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._columns: Sequence[str] = HISTORY_COLUMNS
        self.rows: list[dict[str, float]] = []
        if path.exists():
            columns, self.rows = read_rows(path)
            # A file of an earlier version has fewer columns, and keeps them.
            self._columns = columns or HISTORY_COLUMNS

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Returns the steps at which a column has values, and the values."""
        rows = [row for row in self.rows if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def add(self, **values: float) -> None:
        """Adds a row and writes it at once."""
        is_new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            if is_new:
                writer.writeheader()
            # Nine digits: a step above a million must stay itself.
            writer.writerow({name: f"{value:.9g}" for name, value in values.items()})
        self.rows.append(values)

    def validations(self) -> dict[str, dict[str, float] | None]:
        """Returns the validation with the best AUC and the last one, as in RUN/report.json."""
        rows = [row for row in self.rows if "validation_auc" in row]
        best = max(rows, key=lambda row: row["validation_auc"], default=None)
        return {"best_validation": best, "last_validation": rows[-1] if rows else None}


class StepLogger:
    """Follows the steps of `fit` from a thread of its own.

    Args:
        model: The model; its optimizer counts the steps and its first metric is the mean loss.
        history: Where rows go.
        tensorboard: Directory of the event file.
        batch_size: Samples per step.
        total_steps: Steps until the end, those of earlier calls included.
        first_step: Steps that earlier calls have done.
        steps_per_update: Steps of workers that one update of the weights takes in.
        counters: Reads what servers have counted, by server and name; for TensorBoard.
        workers: Follows the workers of a cluster; None without one.
    """

    def __init__(
        self,
        model: keras.Model,
        history: History,
        tensorboard: pathlib.Path,
        batch_size: int,
        total_steps: int,
        first_step: int = 0,
        steps_per_update: int = 1,
        counters: Callable[[], Mapping[str, Mapping[str, int]]] | None = None,
        workers: WorkerWatch | None = None,
    ) -> None:
        self._model = model
        self._history = history
        self._batch_size = batch_size
        self._total_steps = total_steps
        self._steps_per_update = steps_per_update
        self._counters = counters
        self._workers = workers
        self._counted_at = -math.inf
        self._writer = tf.summary.create_file_writer(str(tensorboard))
        self._seconds_before = history.rows[-1]["seconds"] if history.rows else 0.0
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()  # Between the polling thread and `log_validation`.
        self._thread = threading.Thread(target=self._follow, name="step-logger", daemon=True)
        self._first_step = first_step
        self._first_update = int(model.optimizer.iterations.numpy())
        self._last = (self._first_step, self._started)
        self._stepping_since: tuple[int, float] | None = None
        self._loss_seen = (0.0, 0.0)
        self._last_line = self._started
        self._shown: dict[str, str] = {}
        self._bar: Any = None

    def __enter__(self) -> StepLogger:
        self._started = time.monotonic()
        self._last = (self._first_step, self._started)
        if sys.stdout.isatty():
            self._bar = tqdm.tqdm(
                total=self._total_steps * self._batch_size,
                initial=self._first_step * self._batch_size,
                unit=" samples",
                unit_scale=True,
                dynamic_ncols=True,
                file=sys.stdout,
            )
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if exception[0] is None:
            self._poll()
        if self._bar is not None:
            self._bar.close()
        fresh_thread.call(self._writer.close)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those of earlier calls included."""
        return self._seconds_before + time.monotonic() - self._started

    def step(self) -> int:
        """Steps done so far."""
        updates = int(self._model.optimizer.iterations.numpy()) - self._first_update
        # The last round of synchronous training may be of fewer workers.
        return min(self._first_step + updates * self._steps_per_update, self._total_steps)

    def begin_segment(self, steps: int) -> None:
        """Says that `fit` begins so many steps, all of which end before `end_segment`."""
        if self._workers is not None:
            with self._lock:
                self._workers.begin_segment(steps)

    def end_segment(self) -> None:
        """Takes the last loss of a segment; after it `fit` sets the metric back."""
        self._poll()
        with self._lock:
            self._loss_seen = (0.0, 0.0)
            if self._workers is not None:
                self._workers.end_segment()

    def log_validation(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Shows and keeps the metrics of a validation.

        Args:
            metrics: The numbers of a `launch.evaluation.Metrics` by name.
            step: Of the checkpoint that an evaluator measured, which has a TensorBoard of its own;
                None: measured here and now.
        """
        kept = {name: metrics[name] for name in VALIDATION_METRICS if name in metrics}
        with self._lock:
            now = self.step()
            self._history.add(
                step=now if step is None else step,
                seconds=self.seconds,
                **{f"validation_{name}": value for name, value in kept.items()},
            )
            if step is None:
                self._to_tensorboard(now, {f"validation/{n}": value for n, value in kept.items()})
            at = "" if step is None else f" (step {step})"
            self._shown["validation AUC"] = f"{metrics['auc']:.4f}{at}"
            self._show(now, force=step is None)

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self._poll()
            except tf.errors.OpError:
                # A server that is gone or busy: `fit` itself says so, with the cause.
                continue

    def _poll(self) -> None:
        with self._lock:
            if self._workers is not None:
                for line in self._workers.poll():
                    self._say(line)
            step, now = self.step(), time.monotonic()
            last_step, last_time = self._last
            if step <= last_step:
                return
            self._stepping_since = self._stepping_since or (step, now)
            loss = self._mean_loss()
            rate = (step - last_step) * self._batch_size / (now - last_time)
            self._last = (step, now)
            values = {"samples_per_second": rate}
            if loss is not None:
                values["loss"] = loss
                self._shown["loss"] = f"{loss:.4f}"
            self._history.add(step=step, seconds=self.seconds, **values)
            self._to_tensorboard(step, {f"train/{name}": value for name, value in values.items()})
            if now - self._counted_at >= _COUNTERS_SECONDS:
                self._counted_at = now
                self._to_tensorboard(step, self._cluster_scalars())
            self._show(step)

    def _cluster_scalars(self) -> dict[str, float]:
        """What servers have counted and how fast workers are, by name in TensorBoard."""
        scalars = {
            f"servers/{server}/{name}": value
            for server, counted in (self._counters() if self._counters else {}).items()
            for name, value in counted.items()
        }
        return {**scalars, **(self._workers.scalars() if self._workers else {})}

    def _mean_loss(self) -> float | None:
        """Mean loss of the steps since the last poll."""
        metrics = self._model.metrics
        if not metrics:
            return None
        for _ in range(_CONSISTENT_READS):
            # Workers go on adding between the two reads: take a pair that belongs together.
            count = float(metrics[0].count.numpy())
            total = float(metrics[0].total.numpy())
            if float(metrics[0].count.numpy()) == count:
                break
        else:
            return None
        seen_total, seen_count = self._loss_seen
        self._loss_seen = (total, count)
        return (total - seen_total) / (count - seen_count) if count > seen_count else None

    def _say(self, line: str) -> None:
        """Prints a line of its own to stderr, above the live line."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _to_tensorboard(self, step: int, values: Mapping[str, float]) -> None:
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def _show(self, step: int, force: bool = False) -> None:
        workers = self._workers.text() if self._workers is not None else ""
        if self._bar is not None:
            shown = {**self._shown, "workers": workers} if workers else self._shown
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step * self._batch_size - self._bar.n)
            return
        now = time.monotonic()
        if not force and now - self._last_line < _PLAIN_LINE_SECONDS and step < self._total_steps:
            return
        self._last_line = now
        line = f"step {step}/{self._total_steps}"
        line += "".join(f"  {name} {value}" for name, value in self._shown.items())
        # The first step traces and connects: it would make a bad forecast.
        first_step, since = self._stepping_since or (step, now)
        if step > first_step:
            rate = (step - first_step) / (now - since)
            left = tqdm.tqdm.format_interval(max(self._total_steps - step, 0) / rate)
            line += f"  {rate * self._batch_size:,.0f} samples/s"
            line += f" (workers {workers})" if workers else ""
            line += f"  {left} left"
        print(line, flush=True)
