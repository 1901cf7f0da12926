"""Baseline and DICM on MovieLens-100k with posters, alone and on a local cluster, several seeds.

    python -m benchmarks.movielens --movielens=DIR --out=OUT

Prepares the data, trains each model with each seed as `python -m launch.train` does, evaluates on
the test split, and prints a table: mean and standard deviation over seeds, and the difference to
the baseline, paired by seed. What is there is not done again, so the command continues after an
interruption. The last line is one JSON object.

DIR holds u.data, u.user, u.item and the feature file; the project has no right to ship them.
"""

import json
import pathlib
import statistics
import subprocess
import sys

from absl import flags

from amstf.errors import AmstfError, ConfigError
from launch import program

FLAGS = flags.FLAGS
flags.DEFINE_string("movielens", None, "Directory with MovieLens-100k and features.", required=True)
flags.DEFINE_string(
    "features",
    "features_efficientnet_lite0_tfnorm.h5",
    "Name of the feature file in that directory.",
)
flags.DEFINE_string("out", None, "Directory for data, runs and results.", required=True)
flags.DEFINE_integer("seeds", 3, "Seeds of each model, from 0.", lower_bound=1)
flags.DEFINE_integer(
    "cold", 5, "An item is cold if training showed it at most so often.", lower_bound=0
)

BASELINE = "embedding_mlp"
MODELS = {
    BASELINE: ["--model=embedding_mlp"],
    "dicm_sum": ["--model=dicm", "--aggregator=sum"],
    "dicm_attentive": ["--model=dicm", "--aggregator=attentive"],
}
# Chosen on the validation split, the same way for baseline and DICM: see the page of results.
SETTINGS = [
    "--batch_size=256",
    "--epochs=10",
    "--patience=6",
    "--segment_steps=70",
    "--learning_rate=0.003",
    "--dropout=0.3",
    "--tower_dropout=0.3",
]
PLACES = {"local": [], "2x2": ["--cluster=2x2"]}
METRICS = {"AUC": ("all", "auc"), "GAUC": ("all", "gauc"), "AUC cold": ("new items", "auc")}


def run(*command: str) -> None:
    """Runs a program of `launch`; its output goes to this terminal."""
    print("$ python -m " + " ".join(command), flush=True)
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if code == program.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise AmstfError(f"{command[0]} failed with exit code {code}, see above")


def one_run(out: pathlib.Path, model: str, place: str, seed: int) -> dict[str, float]:
    """Trains and evaluates one model once, and returns its metrics in points of 0.01."""
    directory = out / f"{model}-{place}-{seed}"
    result = directory / "evaluation-test.json"
    if not result.exists():
        data = f"--dataset={out / 'data'}"
        where = [data, f"--out={directory}", f"--seed={seed}"]
        run("launch.train", *where, *MODELS[model], *SETTINGS, *PLACES[place])
        run("launch.evaluate", f"--run={directory}", f"--new_item_impressions={FLAGS.cold}")
    metrics = json.loads(result.read_text())["metrics"]
    return {name: 100 * metrics[part][key] for name, (part, key) in METRICS.items()}


def spread(values: list[float]) -> str:
    """Returns mean and standard deviation for people."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def main(arguments: list[str]) -> None:
    """Runs everything that has no result yet, then prints the table."""
    del arguments
    source, out = pathlib.Path(FLAGS.movielens), pathlib.Path(FLAGS.out)
    if not (source / "u.data").exists():
        raise ConfigError(f"--movielens: {source} holds no u.data; name the directory of ml-100k")
    if not (out / "data").exists():
        prepared = [f"--ratings={source}", f"--features={source / FLAGS.features}"]
        run("launch.prepare", "movielens", *prepared, f"--out={out / 'data'}", "--only_with_image")
    seeds = range(FLAGS.seeds)
    results = {
        f"{model}, {place}": [one_run(out, model, place, seed) for seed in seeds]
        for model in MODELS
        for place in PLACES
    }
    print(f"\n| {FLAGS.seeds} seeds, points of 0.01 | " + " | ".join(METRICS) + " |")
    print("| --- |" + " --- |" * len(METRICS))
    for name, rows in results.items():
        model, place = name.split(", ")
        cells = [spread([row[metric] for row in rows]) for metric in METRICS]
        print(f"| {name} | " + " | ".join(cells) + " |")
        if model != BASELINE:
            pairs = list(zip(rows, results[f"{BASELINE}, {place}"], strict=True))
            cells = [spread([row[m] - base[m] for row, base in pairs]) for m in METRICS]
            print("| … minus baseline, paired | " + " | ".join(cells) + " |")
    print(json.dumps({"settings": SETTINGS, "cold": FLAGS.cold, "results": results}))


if __name__ == "__main__":
    program.run(main)
