"""The evaluator of a run: a process beside the cluster that measures each new checkpoint.

It runs as the task `evaluator` of TF_CONFIG (`python -m launch.train`), needs the files of the run
and of the data set only, and ends when the chief has. See docs/design/evaluation.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from typing import Any

import tensorflow as tf

from amstf.data import Samples
from launch import checkpoints, click_model, curves, evaluation, evaluation_log, program
from launch.json_files import read_json, write_json
from launch.run_directory import INTERRUPTED, RunConfig, RunDirectory
from launch.step_logger import VALIDATION_METRICS, History

_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    path: str
    saved_at: float | None

    @property
    def step(self) -> int:
        return int(self.path.rpartition("-")[2])


class Evaluator:
    """Follows the checkpoints of a run until its training has ended.

    Writes RUN/evaluations.csv and RUN/tensorboard/evaluator.

    Args:
        run: The run; its training may begin later.
        config: What the chief was asked to train.
        in_place_of_chief: Whether the chief leaves validation to this process, which then keeps
            RUN/best and completes the report.

    Raises:
        ConfigError: If the data set has no validation split.
    """

    def __init__(self, run: RunDirectory, config: RunConfig, in_place_of_chief: bool) -> None:
        self.run = run
        self._config = config
        self._in_place_of_chief = in_place_of_chief
        self._samples = Samples.open(config.dataset)
        evaluation.check_has_validation(self._samples)
        self._report_at_start = self._read_report()
        self._skipped: set[_Checkpoint] = set()
        self._score: evaluation.Scorer | None = None

    def execute(self) -> int:
        """Evaluates checkpoints until the chief has ended and the last one is done.

        Returns:
            The exit code: 0, or `EXIT_INTERRUPTED` if the training was interrupted.

        Raises:
            AmstfError: On input that cannot be used, or if the run is one of other flags.
        """
        print(f"evaluator: waiting for checkpoints in {self.run.checkpoints}", flush=True)
        while True:
            # Before the checkpoints: the report is written after the last of them.
            report = self._final_report()
            while (checkpoint := self._next_checkpoint()) is not None:
                self._evaluate(checkpoint)
            if report is not None:
                return self._finish(report)
            time.sleep(_POLL_SECONDS)

    def _next_checkpoint(self) -> _Checkpoint | None:
        state = tf.train.get_checkpoint_state(str(self.run.checkpoints))
        if state is None:
            return None
        if self._score is None:
            self._score = self._prepare()  # Takes seconds, in which checkpoints come and go.
            return self._next_checkpoint()
        listed = itertools.zip_longest(
            state.all_model_checkpoint_paths, state.all_model_checkpoint_timestamps
        )
        done = {row["step"] for row in evaluation_log.read(self.run.evaluations)}
        found = (_Checkpoint(*item) for item in listed)
        return next((c for c in found if c.step not in done and c not in self._skipped), None)

    def _evaluate(self, checkpoint: _Checkpoint) -> None:
        assert self._score is not None
        started = time.monotonic()
        try:
            checkpoints.restore(tf.train.Checkpoint(model=self._model), checkpoint.path)
        except checkpoints.CheckpointError as error:
            self._skipped.add(checkpoint)
            print(f"warning: {error}: skipped", file=sys.stderr, flush=True)
            return
        metrics = evaluation.measure(
            evaluation.predict(self._score, self._samples, evaluation.VALIDATION)
        )
        step = checkpoint.step
        is_best = self._in_place_of_chief and metrics.auc > self._best_auc
        if is_best:
            # Before the row: a checkpoint with a row is never looked at again.
            self._best.save(checkpoint_number=step)
            self._best_auc = metrics.auc
        with self._writer.as_default(step=step):
            for name in VALIDATION_METRICS:
                tf.summary.scalar(f"validation/{name}", getattr(metrics, name))
        self._writer.flush()
        evaluation_log.add(self.run.evaluations, step, metrics)
        print(
            f"step {step}: AUC {metrics.auc:.4f}, GAUC {metrics.gauc:.4f}, log loss "
            f"{metrics.log_loss:.4f}, calibration {metrics.calibration:.4f}; "
            f"{metrics.impressions:,} impressions in {time.monotonic() - started:.1f} s"
            + (", best so far" if is_best else ""),
            flush=True,
        )

    def _prepare(self) -> evaluation.Scorer:
        """Makes the model; only now, since the chief's own flags are in RUN with a checkpoint."""
        self.run.check(self._config)
        self._model = click_model.make_run_model(self.run, self._samples)
        self._writer = tf.summary.create_file_writer(str(self.run.tensorboard / "evaluator"))
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=self._model), str(self.run.best), max_to_keep=1
        )
        before = [row.get("auc", math.nan) for row in evaluation_log.read(self.run.evaluations)]
        before += History(self.run.history).column("validation_auc")[1]
        self._best_auc = max((auc for auc in before if not math.isnan(auc)), default=-math.inf)
        return evaluation.scorer(self._model)

    def _read_report(self) -> dict[str, Any] | None:
        return read_json(self.run.report, "a run") if self.run.report.exists() else None

    def _final_report(self) -> dict[str, Any] | None:
        """Returns the report of the training that this process follows, once it is there."""
        report = self._read_report()
        if report is None or report != self._report_at_start:
            return report
        asked = {**json.loads(self._config.to_json()), "image_width": None}
        is_done = report["ended"] != INTERRUPTED
        return report if is_done and {**report["config"], "image_width": None} == asked else None

    def _finish(self, report: dict[str, Any]) -> int:
        if report["ended"] == INTERRUPTED:
            print("evaluator: the training was interrupted", flush=True)
            return program.EXIT_INTERRUPTED
        if self._in_place_of_chief:
            history = History(self.run.history)
            for row in evaluation_log.unseen(self.run.evaluations, history):
                values = {f"validation_{n}": row[n] for n in VALIDATION_METRICS if n in row}
                history.add(step=row["step"], seconds=report["seconds"], **values)
            curves.draw(history, self.run.curves, str(self.run.path))
            write_json(self.run.report, {**report, **history.validations()})
        print(f"evaluator: the training has ended ({report['ended']})", flush=True)
        return 0
