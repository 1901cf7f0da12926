"""Trains the model of a run: `model.fit` in segments, with checkpoints and validation in between.

Batch hooks and checkpoints inside an epoch do nothing useful under ParameterServerStrategy; the end
of `fit` is its only barrier. So each call of `fit` is a short segment here. The batches of all
passes have one order, so the number of steps done is the position in the data.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import sys
import time
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import AdvancedModelServerStrategy, Samples, SharedBatches, ops
from amstf.config import SYNC
from amstf.data import record_errors
from amstf.dynamic import IncrementalCheckpoints
from amstf.errors import ConfigError, SampleError
from amstf.layers import dynamic_embeddings, follow_tables
from amstf.schema import IMAGE
from amstf.strategy import num_split, whole_weights
from launch import (
    checkpoints,
    click_model,
    curves,
    dynamic_tables,
    evaluation,
    evaluation_log,
    fresh_thread,
    impressions,
    interrupts,
    native_logs,
    occurrences,
    warm_start,
)
from launch.json_files import write_json
from launch.run_directory import (
    CHIEF,
    EVALUATOR,
    INTERRUPTED,
    NO_IMAGES,
    NONE,
    RunConfig,
    RunDirectory,
)
from launch.step_logger import History, StepLogger
from launch.worker_watch import WorkerWatch

TRAIN = "train"
VALIDATION = evaluation.VALIDATION
KEPT_CHECKPOINTS = 3


class _Stopped(Exception):
    """Validation has not become better for `patience` validations."""


class Training:
    """One training of one run, on a cluster or in this process.

    Args:
        run: Where everything goes; a run that is there is continued.
        config: What to train.
        segment_steps: Steps between checkpoints and validations; None chooses four a pass, at most
            2,000 steps.
        cluster: "2 workers, 2 servers", or "" for one process.
        validation: Who validates, one of `VALIDATIONS`.

    Attributes:
        total_steps: Steps of the whole training: each sample once in each pass.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        segment_steps: int | None = None,
        cluster: str = "",
        validation: str = CHIEF,
    ) -> None:
        self.run = run
        self.validation = validation
        self.cluster = cluster
        self.samples = Samples.open(config.dataset)
        self._stores = click_model.open_stores_of(config, self.samples)
        self.config = click_model.with_image_width(config, self._stores)
        self._check_images()
        if not self.samples.num_impressions(TRAIN):
            raise SampleError(f"{config.dataset}: the split {TRAIN!r} has no samples")
        self._batches = SharedBatches(
            self.samples,
            TRAIN,
            config.batch_size,
            seed=config.seed,
            fields=self._input_fields(),
            labels=click_model.labels_of(config, self.samples.schema),
        )
        steps_per_pass = self._batches.steps_per_pass
        wanted = segment_steps or min(math.ceil(steps_per_pass / 4), 2000)
        segments_per_pass = math.ceil(steps_per_pass / wanted)
        self._segment_steps = math.ceil(steps_per_pass / segments_per_pass)
        self.total_steps = steps_per_pass * config.epochs
        self._steps_per_update = 1
        self._has_validation = validation != NONE and evaluation.has_validation(self.samples)
        if validation == EVALUATOR:
            evaluation.check_has_validation(self.samples)
        self._logger: StepLogger | None = None
        self._warm_start: dict[str, Any] | None = None  # Of a run that begins in this process.

    def execute(self) -> dict[str, Any]:
        """Trains until the end and writes the report.

        Returns:
            The report, as in RUN/report.json.

        Raises:
            AmstfError: On input that cannot be used; what was trained before is kept.
            KeyboardInterrupt: After the state was kept.
        """
        self.run.begin(self.config)
        self.samples.schema.save(self.run.path)
        with native_logs.quieted():
            self._strategy = self._make_strategy()
            if self.config.ams.merge == SYNC and self.cluster:
                # A round is one step of every worker and one update. In segments of whole rounds
                # nobody waits for a worker that has no step left, but at the very end.
                workers = self._strategy.num_workers
                self._steps_per_update = workers
                self._segment_steps = math.ceil(self._segment_steps / workers) * workers
        with self._strategy.scope():
            self._model = click_model.make_model(self.config, self.samples.schema, self._stores)
            dynamic_tables.set_up(self._model, self.config)
            weights = {"model": self._model, **self._compile()}
            self._impressions = impressions.count(self._model)
        self._validator = self._make_validator()
        self._score = evaluation.scorer(self._validator)
        tables = [layer.table for layer in dynamic_embeddings(self._model)]
        full_every = self.config.full_checkpoint_every if tables else 1
        self._newest = tf.train.CheckpointManager(
            tf.train.Checkpoint(**weights, impressions=self._impressions),
            str(self.run.checkpoints),
            max_to_keep=IncrementalCheckpoints.checkpoints_to_keep(KEPT_CHECKPOINTS, full_every),
        )
        self._saver = IncrementalCheckpoints(self._newest, tables, full_every)
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=self._model), str(self.run.best), max_to_keep=1
        )
        first_step = 0
        if newest := checkpoints.restore_newest(tf.train.Checkpoint(**weights), self._newest):
            first_step = checkpoints.step_of(newest)
            expected = self._batches.samples_before(first_step)
            impressions.restore(self._impressions, newest, otherwise=expected)
        else:
            self._begin()
        self._history = History(self.run.history)
        self._workers = self._make_worker_watch()
        print(self._introduction(first_step), flush=True)
        ended = "finished"
        with StepLogger(
            self._model,
            self._history,
            self.run.tensorboard,
            self.config.batch_size,
            self.total_steps,
            first_step,
            self._steps_per_update,
            self._counters,
            self._workers,
        ) as self._logger:
            try:
                with interrupts.recognised():
                    self._fit(first_step)
            except _Stopped:
                ended = "stopped early: the validation AUC had stopped rising"
            except KeyboardInterrupt:
                kept = fresh_thread.call(self._keep_interrupted)
                print(f"\ncheckpoint kept: {kept}; run the same command to continue", flush=True)
                raise
        return self._write_report(ended)

    def _compile(self) -> dict[str, Any]:
        """Makes the model ready for `fit`; returns what checkpoints hold besides it, by name."""
        optimizer = click_model.make_optimizer(self.config)
        self._model.compile(optimizer, "binary_crossentropy")
        # Now and not in the first step, so that a checkpoint restores the slots at once.
        optimizer.build(self._model.trainable_variables)
        return {"optimizer": optimizer}

    def _begin(self) -> None:
        """Gives the weights of a new run what they begin with besides random numbers."""
        if started := warm_start.apply(self._model, self.samples.schema, self.config):
            self._warm_start = started._asdict()
            print(started, flush=True)
        occurrences.count(self._model, self.samples, TRAIN)

    def _keep_interrupted(self) -> str:
        """Keeps a checkpoint and a report of a training that was interrupted; returns its path."""
        assert self._logger is not None
        # A full one: rows of steps that are running would be in no increment.
        kept = self._saver.save(checkpoint_number=self._logger.step(), full=True)
        self._write_report(INTERRUPTED)
        return kept

    def _end_segment(self, step: int) -> None:
        """Keeps a checkpoint and validates; called when all steps of a segment have run."""
        assert self._logger is not None
        self._logger.end_segment()
        dynamic_tables.evict(self._model, self.config)
        self._saver.save(checkpoint_number=step)
        if not self._has_validation:
            return
        if self.validation == CHIEF:
            self._validate(step)
        past_its_best = self._is_past_its_best()
        curves.draw(self._history, self.run.curves, str(self.run.path), curves.EVERY_S)
        if past_its_best:
            raise _Stopped

    def _validate(self, step: int) -> None:
        assert self._logger is not None
        if self._validator is not self._model:
            self._validator.set_weights(whole_weights(self._model))
        predictions = evaluation.predict(self._score, self.samples, VALIDATION)
        self._keep_validation(step, evaluation.measure(predictions))

    def _keep_validation(self, step: int, metrics: evaluation.Metrics) -> None:
        """Logs what was validated, and keeps the weights if they are the best so far."""
        assert self._logger is not None
        before = self._history.column("validation_auc")[1]
        self._logger.log_validation(dataclasses.asdict(metrics))
        if metrics.auc > max(before, default=-math.inf):
            self._best.save(checkpoint_number=step)

    def _is_past_its_best(self) -> bool:
        if self.validation == EVALUATOR:
            assert self._logger is not None
            for row in evaluation_log.unseen(self.run.evaluations, self._history):
                self._logger.log_validation(row, int(row["step"]))
        return self._has_stopped_rising(self._history)

    def _has_stopped_rising(self, history: History) -> bool:
        values = history.column("validation_auc")[1]
        return bool(values) and 0 < self.config.patience <= len(values) - 1 - int(np.argmax(values))

    def _fit(self, first_step: int) -> None:
        assert self._logger is not None
        if first_step < self.total_steps and self._is_past_its_best():
            raise _Stopped
        with record_errors(self.samples, TRAIN), ops.image_errors():
            step = first_step
            while step < self.total_steps:
                end = (step // self._segment_steps + 1) * self._segment_steps
                steps = min(end, self.total_steps) - step
                self._batches.position = step
                data = self._batches if self.cluster else self._batches.local()
                self._logger.begin_segment(steps)
                self._model.fit(data, steps_per_epoch=steps, verbose=0)
                step += steps
                self._end_segment(step)

    def _input_fields(self) -> list[str]:
        """A model without images does not wait for image ids to be parsed."""
        unused = (IMAGE,) if self.config.images == NO_IMAGES else ()
        return [field.name for field in self.samples.schema.inputs if field.kind not in unused]

    def _make_strategy(self) -> tf.distribute.Strategy:
        if not self.cluster:
            return tf.distribute.get_strategy()
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return AdvancedModelServerStrategy(resolver, self.config.ams)

    def _make_worker_watch(self) -> WorkerWatch | None:
        if not isinstance(self._strategy, AdvancedModelServerStrategy):
            return None
        return WorkerWatch(self._strategy, self.config.batch_size)

    def _make_validator(self) -> keras.Model:
        """The model to predict with in this process: a copy when the variables are on servers."""
        if not self.cluster or self.validation != CHIEF:
            return self._model
        validator = click_model.make_model(self.config, self.samples.schema, self._stores)
        follow_tables(validator, self._model)
        return validator

    def _check_images(self) -> None:
        """Refuses a store that holds no image."""
        for name, store in self._stores.items():
            if not len(store):
                raise ConfigError(f"the image store {name!r} ({store.paths[0]}) holds no image")

    def _introduction(self, first_step: int) -> str:
        where = f"on a cluster of {self.cluster}" if self.cluster else "in this process"
        images = "".join(
            f", {len(store):,} images of {store.width} {store.dtype}"
            for store in self._stores.values()
        )
        line = (
            f"{self.config.title} {where}: {self.samples.num_impressions(TRAIN):,} samples"
            f"{images}, {self._model.count_params():,} weights"
        )
        if split := num_split(self._model):
            line += f", {split} tables split over the servers"
        return line + (f"\ncontinuing at step {first_step}" if first_step else "")

    def _counters(self) -> dict[str, dict[str, int]]:
        """What each image server has counted, their sum, and the table of rounds."""
        if not isinstance(self._strategy, AdvancedModelServerStrategy) or not self._stores:
            return {}
        return self._strategy.ams.named_counters()

    def _write_report(self, ended: str, **more: Any) -> dict[str, Any]:
        assert self._logger is not None
        rows = self._history.rows
        steps, seconds = self._logger.step(), rows[-1]["seconds"] if rows else 0.0
        samples = self._batches.samples_before(steps)
        servers = self._counters()
        report = {
            "ended": ended,
            "config": dataclasses.asdict(self.config),
            "cluster": self.cluster or "none: one process",
            "versions": _versions(),
            "machine": {"system": platform.platform(), "cores": len(os.sched_getaffinity(0))},
            "when": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "steps": steps,
            "samples": samples,
            "impressions_trained": int(self._impressions.numpy()),
            "seconds": seconds,
            "samples_per_second": samples / seconds if seconds else None,
            "validation": self.validation,
            **self._history.validations(),
            "images": click_model.image_counters(self._model, bool(servers)),
            **more,
        }
        if self._warm_start:
            report["warm_start"] = self._warm_start
        if servers:
            report["image_servers"] = servers
        if tables := dynamic_tables.counters(self._model):
            report["dynamic_tables"] = tables
        if self._workers is not None:
            report["workers"] = self._workers.report()
        curves.draw(self._history, self.run.curves, str(self.run.path))
        # Last: an evaluator that sees it completes both.
        write_json(self.run.report, report)
        return report


def _versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "tf_keras": keras.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }
