"""Training N models together against N separate trainings: time and memory.

    python -m benchmarks.mutual [--quick] [--keep]

Ways, each a process of its own:

  joint      `models.MutualLearning` of all models: a batch is read and parsed once for all
  NAME       that model alone, on the same batches with the same optimizer

Time is that of whole `fit`s after one that is not timed (tracing, page cache): of each way the
fastest, which neighbours on the machine disturb least, and the processor time of all. Memory is the
peak of the process, TensorFlow included, as a machine that trains has to offer it, and what of it
the training adds. The ratios are those of the joint training to the sum of the separate ones.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported

from amstf import Samples, SharedBatches
from amstf.optimizers import Adam
from benchmarks import harness
from launch import program
from launch.click_model import make_model, open_stores_of
from launch.datasets import synthetic
from launch.run_directory import MUTUAL, RunConfig

JOINT = "joint"
_WAY = flags.DEFINE_string("way", None, "Used by the benchmark itself: measure one.")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        models: What is trained together; each further one of a kind has another seed.
        impressions: Samples of the data set, 77 % of which are trained on.
        behaviours: Behaviours of a user, at most (T).
        image_width: Features of an image (F).
        batch_size: Samples of a step (B).
        steps: Steps of a `fit`.
        repeats: Timed `fit`s of each process.
        rounds: Processes of each way, in turn.
    """

    models: tuple[str, ...] = ("embedding_mlp", "din", "embedding_mlp", "dicm")
    impressions: int = 60_000
    behaviours: int = 32
    image_width: int = 64
    batch_size: int = 512
    steps: int = 90
    repeats: int = 3
    rounds: int = 2


QUICK = Config(impressions=8_000, steps=10, repeats=1, rounds=1)


def run_configs(config: Config, dataset: str) -> dict[str, RunConfig]:
    """Returns the models by name, and the whole as `JOINT`."""
    common: dict[str, Any] = {"batch_size": config.batch_size, "aggregator": "multi_query"}
    members = {
        f"{model}_{seed}": RunConfig(dataset, model, seed=seed, **common)
        for seed, model in enumerate(config.models)
    }
    return {JOINT: RunConfig(dataset, MUTUAL, members=members, **common), **members}


def measure_one(config: Config, dataset: str, way: str) -> dict[str, Any]:
    """Trains one way in this process; returns seconds of each `fit` and memory in MB."""
    before = harness.peak_mb()
    run = run_configs(config, dataset)[way]
    samples = Samples.open(dataset)
    # A model without images does not wait for image ids to be parsed, as in launch.train.
    fields = [f.name for f in samples.schema.inputs if run.images != "none" or f.kind != "image"]
    batches = SharedBatches(samples, "train", config.batch_size, fields=fields)
    model = make_model(run, samples.schema, open_stores_of(run, samples))
    if way == JOINT:
        model.compile({name: Adam() for name in run.members})
    else:
        model.compile(Adam(), "binary_crossentropy")
    data = batches.local()

    processor: list[float] = []

    def fit() -> None:
        start = time.process_time()
        model.fit(data, steps_per_epoch=config.steps, verbose=0)
        processor.append(time.process_time() - start)

    timing = harness.measure(fit, repeats=config.repeats)
    peak = harness.peak_mb()
    return {
        "seconds": timing.seconds,
        "processor_s": processor[-config.repeats :],
        "peak_mb": peak,
        "growth_mb": peak - before,
    }


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    if _WAY.value:
        values, dataset, way = json.loads(_WAY.value)
        print(json.dumps(measure_one(Config(**values), dataset, way)))
        return
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("mutual", config)
    with tempfile.TemporaryDirectory() as dataset:
        synthetic.prepare(
            synthetic.SyntheticConfig(
                users=1000,
                items=5000,
                impressions=config.impressions,
                image_width=config.image_width,
                behaviours=config.behaviours,
            ),
            pathlib.Path(dataset),
            num_shards=4,
            image_dtype="float16",
        )
        ways = list(run_configs(config, dataset))
        measured: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(config.rounds):
            for way in ways:
                measured[way].append(_in_a_process(config, dataset, way))
    rows, seconds, processor, peaks, growths = [], {}, {}, {}, {}
    for way, found in measured.items():
        timing = harness.Timing(tuple(s for one in found for s in one["seconds"]))
        seconds[way], peaks[way] = timing.spread[0], max(one["peak_mb"] for one in found)
        processor[way] = statistics.median(s for one in found for s in one["processor_s"])
        growths[way] = max(one["growth_mb"] for one in found)
        memory = {"peak_mb": peaks[way], "growth_mb": growths[way]}
        report.results[way] = {**timing.as_json(), "processor_s": processor[way], **memory}
        rate = round(config.steps * config.batch_size / seconds[way])
        times = [*timing.spread, timing.median, processor[way]]
        rows.append([way, *times, rate, peaks[way], growths[way]])
    report.ratios = {
        "time_ratio_joint_over_separate": _joint_over_separate(seconds),
        "processor_time_ratio": _joint_over_separate(processor),
        "memory_ratio": _joint_over_separate(peaks),
        "memory_ratio_without_tensorflow": _joint_over_separate(growths),
    }
    head = ["way", "min s", "max s", "median s", "processor s", "samples/s", "peak MB", "growth MB"]
    print(harness.table(head, rows))
    report.finish()


def _in_a_process(config: Config, dataset: str, way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.mutual"]
    command += [f"--way={json.dumps([dataclasses.asdict(config), dataset, way])}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _joint_over_separate(values: dict[str, float]) -> float:
    return values[JOINT] / sum(value for way, value in values.items() if way != JOINT)


if __name__ == "__main__":
    program.run(main)
