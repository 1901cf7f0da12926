"""What rarer exchanges of E cost in AUC: DICM on a local cluster, several seeds, several data sets.

    python -m benchmarks.sync_every --runs=DIR [--movielens=DIR] [--quick]

Trains as `python -m launch.train --merge=async --sync_every=N` does and evaluates on the test
split. Seed noise is the yardstick: of the baseline (sync_every=1) in the same run. What is there is
not done again, so the command continues after an interruption. The last line is one JSON object.

The synthetic data set is made here. MovieLens-100k with features of its posters takes part if its
directory is given; the project has no right to ship it.
"""

import dataclasses
import json
import pathlib
import statistics

from absl import flags

from amstf.errors import ConfigError
from benchmarks.harness import Report, table
from launch import program
from launch.programs import run

FLAGS = flags.FLAGS
flags.DEFINE_string("runs", None, "Directory for data and runs.", required=True)
flags.DEFINE_string("movielens", None, "Directory with MovieLens-100k and features.")

FEATURES = "features_efficientnet_lite0_tfnorm.h5"
TRAINING = {
    "synthetic": (),
    # Chosen on the validation split; see docs/results/movielens.md.
    "movielens": (
        "--epochs=10", "--patience=6", "--segment_steps=70", "--learning_rate=0.003",
        "--dropout=0.3", "--tower_dropout=0.3",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs.

    Attributes:
        seeds: Runs of each setting.
        sync_every: Rounds between two exchanges; the first is the baseline.
        flags: Of every training.
    """

    seeds: int = 3
    sync_every: tuple[int, ...] = (1, 8)
    flags: tuple[str, ...] = ("--model=dicm", "--cluster=2x2", "--merge=async")


QUICK = Config(seeds=1, flags=(*Config.flags, "--epochs=1"))


def prepare(runs: pathlib.Path) -> dict[str, pathlib.Path]:
    """Makes the data sets that are not there yet."""
    found = {"synthetic": runs / "synthetic" / "data"}
    if not found["synthetic"].exists():
        run("launch.prepare", "synthetic", f"--out={found['synthetic']}")
    if FLAGS.movielens:
        source = pathlib.Path(FLAGS.movielens)
        if not (source / "u.data").exists():
            raise ConfigError(
                f"--movielens: {source} holds no u.data; name the directory of ml-100k"
            )
        found["movielens"] = runs / "movielens" / "data"
        if not found["movielens"].exists():
            given = [f"--ratings={source}", f"--features={source / FEATURES}"]
            out = f"--out={found['movielens']}"
            run("launch.prepare", "movielens", *given, out, "--only_with_image")
    return found


def auc_of(data: pathlib.Path, name: str, every: int, seed: int, config: Config) -> float:
    """Trains and evaluates once; the AUC on the test split."""
    out = data.parent / f"every-{every}-seed-{seed}-of-{config.seeds}"
    result = out / "evaluation-test.json"
    if not result.exists():
        chosen = [*TRAINING[name], *config.flags, f"--sync_every={every}", f"--seed={seed}"]
        run("launch.train", f"--dataset={data}", f"--out={out}", *chosen)
        run("launch.evaluate", f"--run={out}")
    return json.loads(result.read_text())["metrics"]["all"]["auc"]


def main(arguments: list[str]) -> None:
    """Runs what has no result yet, then prints the table."""
    del arguments
    config = QUICK if FLAGS.quick else Config()
    report = Report("sync_every", config)
    rows = []
    for name, data in prepare(pathlib.Path(FLAGS.runs)).items():
        aucs = {
            every: [auc_of(data, name, every, seed, config) for seed in range(config.seeds)]
            for every in config.sync_every
        }
        report.results[name] = {str(every): values for every, values in aucs.items()}
        base = aucs[config.sync_every[0]]
        noise = statistics.stdev(base) if len(base) > 1 else 0.0
        for every, values in aucs.items():
            mean = statistics.mean(values)
            spread = f"{min(values):.4f} to {max(values):.4f}"
            difference = mean - statistics.mean(base)
            rows.append([name, every, f"{mean:.4f}", spread, f"{difference:+.4f}"])
            report.ratios.setdefault("auc_difference", {})[f"{name} {every}"] = difference
        report.ratios.setdefault("seed_deviation", {})[name] = noise
    print(table(["data", "sync_every", "AUC", "over seeds", "difference"], rows))
    report.finish()


if __name__ == "__main__":
    program.run(main)
