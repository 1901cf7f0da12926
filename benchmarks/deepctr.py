"""Our models of field interactions against DeepCTR 0.9.4's: AUC and training speed.

    scripts/setup_deepctr_venv.sh
    python -m benchmarks.deepctr --data=criteo --source=FILE[,FILE...] [--quick] [--keep]

The rows of a log are cut into folds by `launch.prepare --folds --fold`. For each fold one process
of each side trains every model on the same arrays: the same ids and floats, embedding width, hidden
layers (ReLU), cross layers, batches and Adam; DeepCTR has its own defaults otherwise (its
initializers, L2 of 1e-5 on embeddings, a linear part in DCN). So that the networks are the same,
numbers have no vectors in ours here. The epoch with the best AUC on the validation split counts, of
each side its own; AUC is that of the test, mean over folds. Differences are paired by fold, with a
95 % interval (Student's t).

Speed is that of whole `fit`s on cached batches, by the clock and by processor time (of all
threads). The two sides take turns, one `fit` each, so that a busy machine meets both; a ratio is
the median over all such pairs of all folds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from absl import flags

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np

from amstf import Samples
from amstf.errors import ConfigError
from amstf.metrics import auc
from amstf.schema import DENSE, SPARSE
from benchmarks import harness
from launch import program
from launch.datasets import click_log
from launch.datasets.avazu import AVAZU
from launch.datasets.criteo import CRITEO
from launch.experiments.statistics import paired_difference

_LOGS = {"criteo": CRITEO, "avazu": AVAZU}
_SIDES = ("ours", "deepctr")
_SIDE = pathlib.Path(__file__).with_name("deepctr_side.py")
_FEW_ROWS = 3000
_IN_SHORT = ("auc_ours", "auc_deepctr", "samples_per_s_ratio", "samples_per_processor_s_ratio")

_DATA = flags.DEFINE_enum("data", "criteo", sorted(_LOGS), "Which log.")
_SOURCE = flags.DEFINE_list("source", None, "Its files; by default rows that are drawn at random.")
_VENV = flags.DEFINE_string(
    "venv", "build/deepctr", "Where scripts/setup_deepctr_venv.sh has put DeepCTR."
)
_MIN_COUNT = flags.DEFINE_integer("min_count", 2, "Values that training has less often share one.")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        data: Which log.
        min_count: See `ClickLogConfig`.
        folds: Parts of the rows, each of which is the test once.
        models: Which.
        width: Floats of an embedding.
        hidden: Widths of the MLP.
        cross_layers: Layers of DCN's cross networks.
        batch_size: Samples of a step.
        learning_rate: Of Adam.
        epochs: Passes over the training split.
        timed_steps: Steps of a `fit` that is timed.
        repeats: Such fits of a process and model.
    """

    data: str
    min_count: int
    folds: int = 5
    models: tuple[str, ...] = ("deepfm", "dcn", "dcn_v2", "pnn", "fibinet")
    width: int = 8
    hidden: tuple[int, ...] = (128, 64)
    cross_layers: int = 3
    batch_size: int = 256
    learning_rate: float = 0.001
    epochs: int = 5
    timed_steps: int = 100
    repeats: int = 3


def main(arguments: list[str]) -> None:
    """Measures all models on all folds and prints a table."""
    del arguments
    config = Config(_DATA.value, _MIN_COUNT.value)
    if harness.FLAGS.quick:
        config = dataclasses.replace(
            config, folds=2, models=("deepfm", "dcn"), epochs=1, timed_steps=10, repeats=1
        )
    python = pathlib.Path(_VENV.value, "bin", "python")
    if not python.exists():
        raise ConfigError(
            f"--venv={_VENV.value} has no DeepCTR; run scripts/setup_deepctr_venv.sh {_VENV.value}"
        )
    report = harness.Report("deepctr" if config.data == "criteo" else "deepctr_avazu", config)
    with tempfile.TemporaryDirectory(prefix="deepctr") as work:
        sources = _SOURCE.value or [str(_drawn(config.data, pathlib.Path(work)))]
        found = [
            _fold(config, fold, sources, pathlib.Path(work), str(python))
            for fold in range(config.folds if not harness.FLAGS.quick else 1)
        ]
    print(f"{'':10}{'AUC':>9}{'DeepCTR':>9}{'difference':>20}{'samples/s':>12}{'DeepCTR':>10}"
          f"{'ratio':>7}{'processor':>10}")  # fmt: skip
    for model in config.models:
        result = _summary(model, config, found)
        report.results[model] = result
        report.ratios[model] = {name: result[name] for name in _IN_SHORT}
        print(
            f"{model:10}{result['auc_ours']:9.4f}{result['auc_deepctr']:9.4f}"
            f"{result['difference']:+12.4f} ± {result['margin'] or math.nan:.4f}"
            f"{result['samples_per_s_ours']:12,.0f}{result['samples_per_s_deepctr']:10,.0f}"
            f"{result['samples_per_s_ratio']:7.2f}{result['samples_per_processor_s_ratio']:10.2f}"
        )
    report.finish()


def _fold(
    config: Config, fold: int, sources: list[str], work: pathlib.Path, python: str
) -> dict[str, Any]:
    """Trains all models of both sides on a fold."""
    dataset = work / f"fold{fold}"
    click_log.prepare(
        _LOGS[config.data],
        click_log.ClickLogConfig(
            min_count=config.min_count,
            folds=config.folds,
            fold=fold,
            embedding_width=config.width,
        ),
        sources,
        dataset,
        num_shards=1,
    )
    samples = Samples.open(dataset)
    arrays = _arrays(samples)
    np.savez(work / f"fold{fold}.npz", **arrays)
    job = {
        **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)},
        "arrays": str(work / f"fold{fold}.npz"),
        "numbers": [field.name for field in samples.schema.of_kind(DENSE)],
        # The row of unknown ids is one of them, as DeepCTR wants it.
        "values": {f.name: f.num_ids + 1 for f in samples.schema.of_kind(SPARSE)},
        "seed": fold,
    }
    path = work / f"fold{fold}.json"
    path.write_text(json.dumps(job))
    with contextlib.ExitStack() as stack:
        sides = {}
        for side in _SIDES:
            print(f"fold {fold}: {side}", flush=True)
            sides[side] = _Side(side, python, path, stack)
        fits: dict[str, list[dict[str, float]]] = {}
        for model, _ in itertools.product(config.models, range(config.repeats)):
            for side in _SIDES:
                fits.setdefault(f"{model}/{side}", []).append(sides[side].ask(model))
    found: dict[str, Any] = {}
    for side, model in itertools.product(_SIDES, config.models):
        probabilities = np.load(work / f"fold{fold}-{side}.npz")
        aucs = [
            [
                auc(arrays[f"{split}/click"][:, 0], probabilities[f"{model}/{epoch}/{split}"])
                for split in ("validation", "test")
            ]
            for epoch in range(config.epochs)
        ]
        found[f"{model}/{side}"] = (max(aucs, key=lambda pair: pair[0])[1], fits[f"{model}/{side}"])
    return found


class _Side:
    """A process of one side, which has trained all models when this is made.

    Args:
        side: Which.
        python: Interpreter of DeepCTR's environment.
        job: The file to give it.
        stack: Ends the process.

    Raises:
        ConfigError: If it ends by itself.
    """

    def __init__(
        self, side: str, python: str, job: pathlib.Path, stack: contextlib.ExitStack
    ) -> None:
        command = {
            "ours": [sys.executable, "-m", "benchmarks.deepctr_side"],
            "deepctr": [python, "-I", str(_SIDE)],
        }[side]
        self._side = side
        self._errors = stack.enter_context(job.with_name(f"{job.stem}-{side}.log").open("w+"))
        self._process = subprocess.Popen(
            [*command, side, str(job)],
            # What amstf sets for itself would send DeepCTR to a Keras that it does not have.
            env={k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        stack.enter_context(self._process)
        stack.callback(self._process.kill)
        self._answer()

    def ask(self, model: str) -> dict[str, float]:
        """Trains a model once more and returns `seconds` and `processor_s`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why it ended.
            self._process.stdin.write(f"{model}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # DeepCTR prints too.
                return json.loads(line)
        self._errors.seek(0)
        raise ConfigError(f"{self._side} failed:\n{self._errors.read()[-2000:]}")


def _arrays(samples: Samples) -> dict[str, np.ndarray]:
    """Reads all splits into memory; an id that training does not know is the last one."""
    arrays: dict[str, np.ndarray] = {}
    for split in samples.splits:
        (batch,) = samples.dataset(split, samples.num_impressions(split), only_inputs=False)
        for field in samples.schema.fields:
            values = batch[field.name].numpy()
            if field.kind == SPARSE:
                values = np.where(values < field.num_ids, values, field.num_ids)
            else:
                values = values.reshape(-1, 1).astype(np.float32)
            arrays[f"{split}/{field.name}"] = values
    return arrays


def _summary(model: str, config: Config, found: list[dict[str, Any]]) -> dict[str, Any]:
    values = {side: [fold[f"{model}/{side}"] for fold in found] for side in _SIDES}
    ours, theirs = (dict(enumerate(v[0] for v in values[side])) for side in _SIDES)
    difference = paired_difference(ours, theirs)
    summary = {
        "auc_ours": statistics.mean(ours.values()),
        "auc_deepctr": statistics.mean(theirs.values()),
        "difference": difference.mean,
        "margin": None if math.isnan(difference.margin) else difference.margin,
        "aucs": {side: [v[0] for v in values[side]] for side in _SIDES},
    }
    samples = config.timed_steps * config.batch_size
    for name, clock in (("samples_per_s", "seconds"), ("samples_per_processor_s", "processor_s")):
        rates = {
            side: [samples / fit[clock] for v in values[side] for fit in v[1]] for side in _SIDES
        }
        summary |= {f"{name}_{side}": statistics.median(rates[side]) for side in _SIDES}
        pairs = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
        summary[f"{name}_ratio"] = statistics.median(pairs)
        summary[f"{name}_ratios"] = [round(pair, 2) for pair in pairs]
    return summary


def _drawn(data: str, work: pathlib.Path) -> pathlib.Path:
    """Writes rows in which values are drawn at random, to see that all runs."""
    if data != "criteo":
        raise ConfigError("--data=avazu needs --source; rows are drawn for criteo only")
    rng = np.random.default_rng(1)
    path = work / "drawn.tsv"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(_FEW_ROWS):
            numbers, values = rng.integers(0, 50, 13), rng.integers(0, 20, 26)
            click = int(rng.random() < 0.2 + 0.4 * (values[0] < 10))
            file.write("\t".join(map(str, [click, *numbers, *values])) + "\n")
    return path


if __name__ == "__main__":
    program.run(main)
