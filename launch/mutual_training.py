"""Trains the models of a run of launch.mutual together, each of which is then a run of its own.

RUN itself is the averaging ensemble. RUN/members/NAME is what launch.train would have left of the
model NAME: its configuration, its best checkpoint by its own validation AUC, its last one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from amstf.errors import ConfigError
from amstf.strategy import whole_weights
from launch import click_model, curves, evaluation, occurrences, warm_start
from launch.json_files import write_json
from launch.run_directory import CHIEF, EVALUATOR, MUTUAL, RunConfig, RunDirectory
from launch.step_logger import VALIDATION_METRICS, History
from launch.training import TRAIN, Training
from models import MutualLearning

_ENSEMBLE = ""  # Beside the members, which have names.


def training_of(
    run: RunDirectory,
    config: RunConfig,
    segment_steps: int | None = None,
    cluster: str = "",
    validation: str = CHIEF,
) -> Training:
    """Returns the training of a run, whichever kind it is; see `Training`."""
    kind = MutualTraining if config.model == MUTUAL else Training
    return kind(run, config, segment_steps, cluster, validation)


class MutualTraining(Training):
    """One training of several models together; takes what `Training` takes.

    Raises:
        ConfigError: If an evaluator should validate, which knows of one model only.
    """

    _model: MutualLearning
    _validator: MutualLearning

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if self.validation == EVALUATOR:
            raise ConfigError("--validation=evaluator is for one model; several need the chief")
        self._members = {name: self.run.member(name) for name in self.config.members}
        self._member_histories: dict[str, History] = {}
        self._member_best: dict[str, tf.train.CheckpointManager] = {}

    def _compile(self) -> dict[str, Any]:
        members = self._model.members
        optimizers = {
            name: click_model.make_optimizer(self.config.members[name]) for name in members
        }
        self._model.compile(optimizers)
        for name, optimizer in optimizers.items():
            optimizer.build(members[name].trainable_variables)
        return {}  # The model has the models, and these their optimizers.

    def _begin(self) -> None:
        self._warm_start = {}
        for name, config in self.config.members.items():
            member = self._model.members[name]
            try:
                started = warm_start.apply(member, self.samples.schema, config)
            except ConfigError as error:
                raise ConfigError(f"member {name}: {error}") from error
            if started:
                self._warm_start[name] = started._asdict()
                print(f"{name}: {started}", flush=True)
            occurrences.count(member, self.samples, TRAIN)
        for run in self._members.values():
            # Of a training that failed before its first checkpoint.
            run.history.unlink(missing_ok=True)

    def _fit(self, first_step: int) -> None:
        for name, run in self._members.items():
            run.path.mkdir(parents=True, exist_ok=True)
            run.config.write_text(self.config.members[name].to_json())
            self.samples.schema.save(run.path)
            self._member_histories[name] = History(run.history)
            self._member_best[name] = self._manager(name, run.best)
        self._score = tf.function(self._scores_of_members, reduce_retracing=True)
        if not self.total_steps and not first_step:
            self._end_segment(0)  # The runs as they are, as an ensemble.
        super()._fit(first_step)

    def _manager(self, name: str, path: Any) -> tf.train.CheckpointManager:
        member = tf.train.Checkpoint(model=self._model.members[name])
        return tf.train.CheckpointManager(member, str(path), max_to_keep=1)

    def _scores_of_members(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Predicts the first label, by each model and by all together."""
        each = self._validator.predict_members(inputs, training=False)
        first = self.samples.schema.labels[0].name
        of_first = {n: p[first] if isinstance(p, dict) else p for n, p in each.items()}
        return {_ENSEMBLE: tf.add_n(list(of_first.values())) / len(of_first), **of_first}

    def _validate(self, step: int) -> None:
        assert self._logger is not None
        if self._validator is not self._model:
            self._validator.set_weights(whole_weights(self._model))
        first = self.samples.schema.labels[0].name
        outputs = dict.fromkeys((_ENSEMBLE, *self._members), first)
        predictions = evaluation.predict_labels(
            self._score, self.samples, evaluation.VALIDATION, label_of=outputs
        )
        for name, run in self._members.items():
            metrics = evaluation.measure(predictions[name])
            history = self._member_histories[name]
            is_best = metrics.auc > max(history.column("validation_auc")[1], default=-math.inf)
            history.add(
                step=step,
                seconds=self._logger.seconds,
                **{f"validation_{key}": getattr(metrics, key) for key in VALIDATION_METRICS},
            )
            curves.draw(history, run.curves, str(run.path), curves.EVERY_S)
            if is_best:
                self._member_best[name].save(checkpoint_number=step)
        self._keep_validation(step, evaluation.measure(predictions[_ENSEMBLE]))

    def _is_past_its_best(self) -> bool:
        """While one model still becomes better, all go on."""
        histories = self._member_histories.values()
        return super()._is_past_its_best() and all(map(self._has_stopped_rising, histories))

    def _write_report(self, ended: str) -> dict[str, Any]:
        validations = {name: h.validations() for name, h in self._member_histories.items()}
        best = {name: of_member["best_validation"] for name, of_member in validations.items()}
        report = super()._write_report(ended, members=best)
        shared = ("ended", "cluster", "versions", "machine", "when", "steps", "samples", "seconds")
        for name, run in self._members.items():
            if name not in validations:
                continue
            self._manager(name, run.checkpoints).save(checkpoint_number=report["steps"])
            curves.draw(self._member_histories[name], run.curves, str(run.path))
            content = {
                **{key: report[key] for key in (*shared, "impressions_trained", "validation")},
                "samples_per_second": report["samples_per_second"],
                "config": dataclasses.asdict(self.config.members[name]),
                "trained_with": [other for other in self._members if other != name],
                "images": {},
                **validations[name],
            }
            if name in (self._warm_start or {}):
                content["warm_start"] = self._warm_start[name]
            write_json(run.report, content)
        return report
