"""Trains and measures one variant with one seed, in a process of a pool."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
import time
from typing import TYPE_CHECKING, Any

from amstf.metrics.auc import gauc
from launch.run_directory import ALL, NEW, RunConfig, RunDirectory

if TYPE_CHECKING:
    from launch import evaluation

TEST = "test"


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        config: What to train.
        run: Directory of the run.
        segment_steps: Steps between validations.
        new_item_impressions: An item counts as new if training showed it at most so often.
        measures_test: Whether the test split is measured; tuning does without.
        is_kept: Whether the checkpoints stay, for another run to start from.
    """

    config: RunConfig
    run: pathlib.Path
    segment_steps: int | None
    new_item_impressions: int
    measures_test: bool = True
    is_kept: bool = False


def prepare_process(threads: int) -> None:
    """Makes a process of the pool ready: TensorFlow, quiet, with so many threads."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def execute(job: Job) -> dict[str, Any]:
    """Does a job and returns what was measured.

    Returns:
        `validation_auc` of the best checkpoint; of the test split `auc`, `gauc`, `user_auc`,
        `log_loss` and `new_auc` (None where it is not defined); `steps`, `seconds`. Of several
        models that are trained together those of their mean, and `members`: name -> its own.

    Raises:
        AmstfError: As the training does.
        KeyboardInterrupt: After a checkpoint was kept.
    """
    import tf_keras as keras

    from launch import run_evaluation
    from launch.mutual_training import training_of

    started = time.monotonic()
    keras.backend.clear_session()
    run = RunDirectory(job.run)
    run.path.mkdir(parents=True, exist_ok=True)
    with (
        open(run.path / "output.txt", "a", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
    ):
        report = training_of(run, job.config, job.segment_steps).execute()
        members = {name: run.member(name) for name in job.config.members}

        def measures(one: RunDirectory, best: dict[str, float] | None) -> dict[str, Any]:
            result: dict[str, Any] = {
                "validation_auc": best and best["validation_auc"],
                "steps": report["steps"],
                "best_step": best and best["step"],
            }
            if job.measures_test:
                done = run_evaluation.evaluate(
                    one, TEST, new_item_impressions=job.new_item_impressions
                )
                metrics = done.report["metrics"]
                result |= {name: metrics[ALL][name] for name in ("auc", "gauc", "log_loss")}
                result["new_auc"] = metrics.get(NEW, {}).get("auc")
                result["user_auc"] = _user_auc(done.predictions)
            return result

        result = measures(run, report["best_validation"])
        of_members = {n: measures(one, report["members"][n]) for n, one in members.items()}
    if not job.is_kept:
        for one in (run, *members.values()):
            for checkpoints in (one.checkpoints, one.best):
                shutil.rmtree(checkpoints, ignore_errors=True)
    result["seconds"] = round(time.monotonic() - started, 1)
    return {**result, "members": of_members} if members else result


def _user_auc(predictions: evaluation.Predictions) -> float | None:
    if predictions.groups is None:
        return None
    mean = gauc(predictions.labels, predictions.scores, predictions.groups).mean_user_auc
    return None if math.isnan(mean) else mean
