"""Trains several click models together, each of which learns from the others as well.

    python -m launch.mutual --members=RUN_A,RUN_B,RUN_C --out=OUT
    python -m launch.mutual --models=din,dicm,dicm --dataset=DATASET --out=OUT
    python -m launch.mutual --members=RUN_A,RUN_B --epochs=0 --out=OUT

Each model minimises its own loss and its disagreement with the others (arXiv 2406.12087). With
--members they begin with the best weights of saved runs (launch.train, or members of another OUT),
which is what helps; with --models, or --scratch, with random ones. --epochs=0 trains nothing: OUT
is then the averaging ensemble of the runs as they are.

OUT is a run, the mean of the models' probabilities; OUT/members/NAME is a run for each model alone.
launch.evaluate, launch.export and launch.report take either. Where to train (--cluster, TF_CONFIG),
how a run goes on and how it ends: as launch.train, see its --help. What a model is comes from its
own run; flags about that are for --models alone.
"""

import dataclasses

from absl import flags

from amstf.errors import ConfigError
from launch import program, train
from launch.interaction import settings_of
from launch.run_directory import (
    AGREEMENTS,
    CHIEF,
    EVALUATOR,
    FULL_START,
    MODELS,
    MUTUAL,
    VALIDATIONS,
    RunConfig,
    RunDirectory,
)

FLAGS = flags.FLAGS

# Flags of launch.train that mean another thing here, or nothing.
for _name in (
    "dataset", "model", "preset", "warm_start", "warm_start_mode", "epochs", "validation",
):  # fmt: skip
    delattr(FLAGS, _name)

flags.DEFINE_list("members", None, "Runs to begin with, separated by commas.")
flags.DEFINE_list(
    "models",
    None,
    f"Kinds of models that begin with random weights, each of {', '.join(MODELS)}. The flags say "
    "how each is made; a kind that is there twice gets another --seed, and an option of "
    "--interaction is for those that have it.",
)
flags.DEFINE_bool("scratch", False, "--members: take what the runs are, and not their weights.")
flags.DEFINE_string(
    "dataset", None, "Directory of the data set; of --members by default the one they have seen."
)
flags.DEFINE_integer(
    "epochs", RunConfig.epochs, "Passes over the training split; 0: none.", lower_bound=0
)
flags.DEFINE_enum(
    "agreement",
    RunConfig.agreement,
    AGREEMENTS,
    "How far two models are from each other. squared: of their probabilities, as in the paper. "
    "logit: squared, of their logits. kl: Kullback-Leibler divergence.",
)
flags.DEFINE_float(
    "mutual_weight", RunConfig.mutual_weight, "Weight of that in the loss.", lower_bound=0.0
)
flags.DEFINE_integer(
    "mutual_warm_up",
    RunConfig.mutual_warm_up,
    "Updates of the optimizer over which the weight grows from 0.",
    lower_bound=0,
)
flags.DEFINE_enum(
    "validation",
    CHIEF,
    [name for name in VALIDATIONS if name != EVALUATOR],
    "Who validates. chief: the chief, while the workers rest. none: nobody.",
)

# Of the training, so they may be others than in the member's run; by default they are the same.
_OF_TRAINING = (
    "learning_rate", "learning_rate_decay", "decay_steps", "dropout", "tower_dropout",
    "image_dropout", "missing",
)  # fmt: skip
# Of what a model is.
_OF_MODEL = (
    "hidden", "interaction", "activation", "tower", "tower_activation", "separate_towers",
    "aggregator", "images", "labels", "image_products", "unit_images", "id_l2", "id_gate",
    "id_gate_fields", "id_dropout", "id_dropout_fields",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Trains, or serves, or starts a cluster that trains."""
    del arguments
    train.serve_if_asked()
    if bool(FLAGS.members) == bool(FLAGS.models):
        raise ConfigError("give --members, saved runs, or --models, kinds of models; one of them")
    members = _members_of_runs() if FLAGS.members else _members_of_models()
    first = next(iter(members.values()))
    config = train.config_of_flags(
        dataset=FLAGS.dataset or first.dataset,
        model=MUTUAL,
        interaction=(),
        members=members,
        agreement=FLAGS.agreement,
        mutual_weight=FLAGS.mutual_weight,
        mutual_warm_up=FLAGS.mutual_warm_up,
    )
    if FLAGS.members and not _is_given("batch_size"):
        config = dataclasses.replace(config, batch_size=first.batch_size)
    return train.run(config, "launch.mutual")


def _members_of_runs() -> dict[str, RunConfig]:
    structural = [f"--{name}" for name in _OF_MODEL if _is_given(name)]
    if structural:
        raise ConfigError(
            f"{', '.join(structural)}: what a member is comes from its own run; leave it out, or "
            "use --models"
        )
    given = {name: getattr(FLAGS, name) for name in _OF_TRAINING if _is_given(name)}
    configs: dict[str, RunConfig] = {}
    for path in FLAGS.members:
        config = RunDirectory(path).read_config()
        if config.model == MUTUAL:
            raise ConfigError(
                f"--members: {path} is a run of launch.mutual; name some of its models: "
                + ",".join(str(RunDirectory(path).member(name).path) for name in config.members)
            )
        if path in configs:
            raise ConfigError(f"--members names {path} twice; equal models learn nothing new")
        start = {"warm_start": path, "warm_start_mode": FULL_START}
        if FLAGS.scratch:
            start = {"warm_start": "", "warm_start_mode": ""}
        configs[path] = dataclasses.replace(config, **start, **given)
    datasets = dict.fromkeys(config.dataset for config in configs.values())
    if len(datasets) > 1 and not FLAGS.dataset:
        raise ConfigError(
            f"--members were trained on several data sets, {', '.join(datasets)}; say which to "
            "train on: --dataset"
        )
    return _named(list(configs.values()))


def _members_of_models() -> dict[str, RunConfig]:
    if FLAGS.scratch or not FLAGS.dataset:
        wrong = "--scratch is for --members" if FLAGS.scratch else "--models needs --dataset"
        raise ConfigError(f"{wrong}; see: python -m launch.mutual --help")
    before: dict[str, int] = {}
    configs = []
    for model in FLAGS.models:
        config = train.config_of_flags(
            dataset=FLAGS.dataset,
            model=model,
            interaction=settings_of(model, FLAGS.models, FLAGS.interaction or ()),
        )
        times = before[model] = before.get(model, -1) + 1
        configs.append(dataclasses.replace(config, seed=config.seed + times))
    return _named(configs)


def _named(configs: list[RunConfig]) -> dict[str, RunConfig]:
    """Names members by their models: din, dicm, din_2."""
    named: dict[str, RunConfig] = {}
    for config in configs:
        times = sum(other.model == config.model for other in named.values())
        named[f"{config.model}_{times + 1}" if times else config.model] = config
    return named


def _is_given(flag: str) -> bool:
    """Whether a flag is on the command line."""
    return bool(FLAGS[flag].present)


if __name__ == "__main__":
    program.run(main)
