"""Training on a local cluster whose processes are killed all the time, beside a calm one.

    python -m benchmarks.chaos [--cache=DIR] [--seed=N] [--quick]

Trains DICM with `python -m launch.train --cluster=3x2` on the synthetic data set: a few times in
peace, then while every 20 to 40 seconds a worker, a server or the chief is killed (`kill -9`),
whichever the seed says. Then: does it end by itself, was each impression trained once a pass, is
the AUC on the test split that of the calm runs, and what does each kind of failure cost?

A calm run took 36 minutes on 2 cores and the disturbed one 41; with --epochs=2 it is 1/8 of that.

What is in the cache is not done again, so the command continues after an interruption. The last
line is one JSON object.
"""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from amstf.errors import AmstfError
from benchmarks import killer
from benchmarks.harness import Report, table
from launch import program
from launch.programs import run
from launch.run_directory import RunDirectory
from launch.run_rows import read_rows

FLAGS = flags.FLAGS
flags.DEFINE_string("cache", None, "Directory for data and runs; a temporary one by default.")
flags.DEFINE_integer("seed", 1, "Of the kills: when, and what.")
flags.DEFINE_integer("epochs", None, "Passes, if not as many as take half an hour.", lower_bound=1)
flags.DEFINE_integer("calm_runs", None, "Trainings in peace, if not as many as usual.")


@dataclasses.dataclass(frozen=True)
class Config:
    """The training and what happens to it.

    Attributes:
        prepare: Flags of `launch.prepare synthetic`.
        train: Flags of every training.
        workers: Workers (W).
        servers: Parameter servers (S).
        pause: Least and greatest time between two kills, seconds.
        calm_runs: Trainings in peace, each with another seed; their AUCs say what noise is.
    """

    prepare: tuple[str, ...] = ("--impressions=1600000", "--image_width=256")
    train: tuple[str, ...] = (
        "--model=dicm", "--epochs=16", "--validation=none", "--segment_steps=60",
    )  # fmt: skip
    workers: int = 3
    servers: int = 2
    pause: tuple[float, float] = (20.0, 40.0)
    calm_runs: int = 2


QUICK = Config(
    prepare=("--impressions=40000", "--image_width=32"),
    train=(
        "--model=dicm", "--tower=16,4", "--hidden=16", "--epochs=6", "--validation=none",
        "--segment_steps=20", "--batch_size=64",
    ),
    workers=2,
    servers=1,
    pause=(8.0, 14.0),
    calm_runs=1,
)  # fmt: skip


def train(
    data: pathlib.Path, out: pathlib.Path, seed: int, config: Config, chaos: bool
) -> list[killer.Kill]:
    """Trains and evaluates once, unless that is done; keeps what was killed, and returns it."""
    result, kept = out / "evaluation-test.json", out / "kills.json"
    if not result.exists():
        command = [
            "launch.train", f"--dataset={data}", f"--out={out}", *config.train, f"--seed={seed}",
            f"--cluster={config.workers}x{config.servers}", "--max_restarts=10000",
        ]  # fmt: skip
        print("$ python -m " + " ".join(command), flush=True)
        out.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with open(out / "output.txt", "ab") as output:
            launcher = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=output, stderr=output
            )
        random = killer.seeded(FLAGS.seed) if chaos else None
        kills = killer.watch(launcher, RunDirectory(out), random, config.pause)
        if launcher.returncode:
            end = (out / "output.txt").read_text().splitlines()[-30:]
            raise AmstfError("\n".join([f"the training ended with {launcher.returncode}:", *end]))
        done = {
            "kills": [dataclasses.asdict(kill) for kill in kills],
            "seconds": time.monotonic() - started,
        }
        kept.write_text(json.dumps(done) + "\n")
        run("launch.evaluate", f"--run={out}", "--checkpoint=last")
    return [killer.Kill(**kill) for kill in json.loads(kept.read_text())["kills"]]


def numbers_of(out: pathlib.Path) -> dict[str, float]:
    """What a finished training says of itself."""
    report = json.loads((out / "report.json").read_text())
    evaluation = json.loads((out / "evaluation-test.json").read_text())
    return {
        "auc": evaluation["metrics"]["all"]["auc"],
        "impressions_expected": report["samples"],
        "impressions_seen": report["impressions_trained"],
        "steps": report["steps"],
        "seconds": json.loads((out / "kills.json").read_text())["seconds"],
    }


def main(arguments: list[str]) -> None:
    """Runs what has no result yet, then prints the tables."""
    del arguments
    config = QUICK if FLAGS.quick else Config()
    if FLAGS.calm_runs:
        config = dataclasses.replace(config, calm_runs=FLAGS.calm_runs)
    if FLAGS.epochs:
        train = (*config.train, f"--epochs={FLAGS.epochs}")
        config = dataclasses.replace(config, train=train)
    with tempfile.TemporaryDirectory() as temporary:
        size = "quick" if FLAGS.quick else f"{FLAGS.epochs or 'all'}-epochs"
        cache = pathlib.Path(FLAGS.cache or temporary) / size
        _main(cache, config)


def _main(cache: pathlib.Path, config: Config) -> None:
    data = cache / "data"
    if not data.exists():
        run("launch.prepare", "synthetic", f"--out={data}", *config.prepare)
    report = Report("chaos", config)
    calm = []
    for seed in range(config.calm_runs):
        out = cache / f"calm-{seed}"
        train(data, out, seed, config, chaos=False)
        calm.append(numbers_of(out))
    out = cache / f"chaos-{FLAGS.seed}"
    kills = train(data, out, 0, config, chaos=True)
    chaos = numbers_of(out)
    rate = statistics.median(steady_rate(cache / f"calm-{s}") for s in range(config.calm_runs))
    lost = killer.seconds_lost(kills, rate, chaos["seconds"], int(chaos["steps"]))

    rows = [
        [f"calm, seed {seed}", one["seconds"], 0, one["impressions_seen"], f"{one['auc']:.4f}"]
        for seed, one in enumerate(calm)
    ]
    rows.append(
        ["chaos, seed 0", chaos["seconds"], len(kills), chaos["impressions_seen"],
         f"{chaos['auc']:.4f}"]
    )  # fmt: skip
    print(f"\nimpressions expected, each once a pass: {chaos['impressions_expected']:,}")
    print(table(["training", "seconds", "kills", "impressions", "test AUC"], rows), end="\n\n")
    print(
        table(
            ["killed", "times", "seconds lost, median", "least", "most"],
            [[kind, len(v), statistics.median(v), min(v), max(v)] for kind, v in lost.items() if v],
        )
    )
    aucs = [one["auc"] for one in calm]
    report.results = {"calm": calm, "chaos": chaos, "seconds_lost": lost, "calm_steps_per_s": rate}
    report.ratios = {
        "kills": len(kills),
        "kills_by_kind": {kind: len(values) for kind, values in lost.items()},
        "impressions_expected": chaos["impressions_expected"],
        "impressions_seen": chaos["impressions_seen"],
        "auc_calm": statistics.mean(aucs),
        "auc_calm_deviation": statistics.stdev(aucs) if len(aucs) > 1 else None,
        "auc_chaos": chaos["auc"],
        "minutes": chaos["seconds"] / 60,
        "seconds_lost": {
            kind: statistics.median(values) for kind, values in lost.items() if values
        },
    }
    report.finish()


def steady_rate(out: pathlib.Path) -> float:
    """Steps a second of a calm training, start and end left out."""
    _, rows = read_rows(out / "history.csv")
    return (rows[-1]["step"] - rows[0]["step"]) / (rows[-1]["seconds"] - rows[0]["seconds"])


if __name__ == "__main__":
    program.run(main)
