"""Runs an experiment: several variants of a training, several seeds, one table and one figure.

    python -m launch.experiment images --data=synthetic --runs=DIR
    python -m launch.experiment aggregators --data=movielens --runs=DIR --shared=DIR --keep

images         which images help: none, the ad's, those of behaviours, both (Table 3 of the paper)
aggregators    how the images of behaviours are aggregated (Table 4)
base_networks  LR, Embedding&MLP, DIN without and with images (Figure 5)
warm_up        starting from the model of earlier data: nothing, all but ids, all (Table 5)
prerank        two towers without and with images (Table 8)
tuning         settings, by the validation split alone
mutual         models trained together, from scratch and after training alone (arXiv 2406.12087)
mutual_zoo     the same with the models of that paper, on Criteo's and Avazu's logs
signal         ways to make a small signal in images pay: narrow, pre-trained, regularised E
added_images   images added to a trained model of ids, beside that model trained on
content        vectors of videos, for new and for known items
content_aggregators  how the vectors of a user's videos are aggregated
dynamic        ids without a vocabulary, of users, items and images
dynamic_logs   the same of all values of Criteo's and Avazu's logs

Trains and measures what has no result yet, in this experiment or in another one on the same data,
several runs at a time, and prints the table. With --keep, results, table and figure go to
docs/experiments/ (NAME-DATA.json, NAME.md, NAME-DATA.png), elsewhere into --runs. After an
interruption the same command goes on.
"""

import os
import pathlib
import platform
import shlex
import time

from absl import flags

from amstf.errors import ConfigError
from launch import program
from launch.experiments.comparisons import EXPERIMENTS
from launch.experiments.data import DATA
from launch.experiments.plan import Experiment

FLAGS = flags.FLAGS
_KEPT = pathlib.Path(__file__).parent.parent / "docs" / "experiments"

flags.DEFINE_enum("data", "synthetic", list(DATA), "Data set.")
flags.DEFINE_string("runs", None, "Directory for data sets and runs.", required=True)
flags.DEFINE_string(
    "shared",
    None,
    "Directory with data that the project may not ship: movielens/, tiktok/, criteo/, avazu/.",
)
flags.DEFINE_integer("seeds", 5, "Seeds of each variant, from 0.", lower_bound=1)
flags.DEFINE_integer("parallel", None, "Runs at a time; by default one per core.", lower_bound=1)
flags.DEFINE_bool("keep", False, "Whether the results go to docs/experiments/.")
flags.DEFINE_bool("run", True, "--norun: only draw table and figure of the results that are there.")


def main(arguments: list[str]) -> None:
    """Runs the experiment and shows the table."""
    if len(arguments) != 1 or arguments[0] not in EXPERIMENTS:
        got = arguments[0] if arguments else "nothing"
        raise ConfigError(f"say which experiment to run: {', '.join(EXPERIMENTS)}; got {got}")
    name = arguments[0]
    experiment = EXPERIMENTS[name]
    if FLAGS.data not in experiment.data:
        raise ConfigError(
            f"experiment {name} is not meant for --data={FLAGS.data}; it is for "
            f"{', '.join(experiment.data)}"
        )
    from launch.experiments import page, runner
    from launch.experiments.results import Results

    runs = pathlib.Path(FLAGS.runs)
    out = _KEPT if FLAGS.keep else runs
    seeds = range(FLAGS.seeds)
    results = Results(out / f"{name}-{FLAGS.data}.json")
    plan = runner.Plan(
        name=name,
        experiment=experiment,
        data=FLAGS.data,
        seeds=seeds,
        runs=runs,
        shared=pathlib.Path(FLAGS.shared) if FLAGS.shared else None,
    )
    cores = len(os.sched_getaffinity(0))
    if FLAGS.run:
        paths = sorted(out.glob(f"*-{FLAGS.data}.json"))
        others = [Results(path) for path in paths if path != results.path]
        before = list(results.runs)
        done = runner.run_missing(plan, results, FLAGS.parallel or cores, others)
        if done or results.runs != before:
            results.describe(
                experiment=experiment.title,
                data=DATA[FLAGS.data].title,
                prepared="python -m launch.prepare "
                + shlex.join(DATA[FLAGS.data].prepare)
                + " --out=DATASET",
                **_prepared_otherwise(experiment),
                machine=f"{platform.platform()}, {cores} cores",
                when=time.strftime("%Y-%m-%d"),
                **runner.facts_of(plan),
            )
    if not results.runs:
        raise ConfigError(f"{results.path} holds no results yet; leave out --norun")
    figure = out / f"{name}-{FLAGS.data}.png"
    command = f"python -m launch.experiment {name} --data={FLAGS.data} --runs=DIR --seeds=" + str(
        FLAGS.seeds
    )
    if DATA[FLAGS.data].needs_shared:
        command += " --shared=DIR"
    page.draw(experiment, FLAGS.data, seeds, results, figure)
    text = page.section(name, experiment, FLAGS.data, seeds, results, command)
    page.write_section(out / f"{name}.md", experiment.title, FLAGS.data, text)
    print(page.table(experiment, FLAGS.data, seeds, results))
    print(f"\nresults: {results.path}   page: {out / f'{name}.md'}   figure: {figure}")


def _prepared_otherwise(experiment: Experiment) -> dict[str, dict[str, list[str]]]:
    """Returns the flags of `launch.prepare` in which data of variants differ, if they do."""
    changes = {
        name: [
            f"without --{flag}" if value is None else f"--{flag}={value}"
            for flag, value in variant.prepare.items()
        ]
        for name, variant in experiment.variants.items()
        if variant.prepare
    }
    return {"prepared_otherwise": changes} if changes else {}


if __name__ == "__main__":
    program.run(main, argument_names=["NAME"])
