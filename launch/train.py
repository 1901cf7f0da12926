"""Trains a click model: on this machine, on a local cluster, or as a task of a cluster.

    python -m launch.train --dataset=DATASET --model=dicm --out=RUN
    python -m launch.train --dataset=DATASET --model=dicm --out=RUN --cluster=2x2

Without --cluster one process does everything. --cluster=WxS starts W workers and S parameter
servers as processes of this machine, trains on them and stops them. With TF_CONFIG in the
environment the program takes its role from it: start the same command on every machine, as chief,
worker, ps or evaluator, on a file system that all of them see.

RUN gets checkpoints, TensorBoard logs, history.csv, curves.png and report.json. The same command
again continues where it stopped. Ctrl-C keeps a checkpoint and ends with exit code 130. What died
of a --cluster is started again; elsewhere exit code 138 asks for it (docs/design/launch.md).
"""

import math
import os
import sys
from typing import Any

from absl import flags

from amstf.config import MERGES, MISSING_POLICIES, PLACEMENTS, WIRE_DTYPES, AmsConfig
from amstf.errors import ConfigError
from launch import (
    chief_process,
    flag_values,
    native_logs,
    network_flags,
    presets,
    program,
    server,
    tf_config,
)
from launch.json_files import read_json
from launch.local_cluster import LocalCluster, parse_cluster
from launch.local_evaluator import LocalEvaluator
from launch.run_directory import (
    AGGREGATORS,
    CHIEF,
    EVALUATOR,
    IMAGES,
    LABELS,
    MODELS,
    NONE,
    VALIDATIONS,
    WARM_STARTS,
    RunConfig,
    RunDirectory,
)
from launch.store_servers import check_are_in_cluster

FLAGS = flags.FLAGS

flags.adopt_module_key_flags(network_flags)
flags.DEFINE_string("dataset", None, "Directory of the data set (launch.prepare).", required=True)
flags.DEFINE_enum(
    "model",
    None,
    MODELS,
    "lr: logistic regression. embedding_mlp: embeddings and an MLP. din: attention over the ids of "
    "behaviours. prerank: two towers and an inner product. dicm: embedding_mlp that sees images. "
    "deepfm, dcn, dcn_v2, pnn, fibinet: networks that multiply fields (docs/zoo.md). "
    "Needed here or in --preset.",
)
flags.DEFINE_string(
    "preset",
    None,
    "Recipe of training, a name or the path of a PRESET.py: sets flags that are not on the command "
    f"line. {presets.summary()}",
)
flags.DEFINE_enum(
    "images",
    None,
    IMAGES,
    "Images that the model sees, whichever model it is: none, the ad's, those of the user's "
    "behaviours, or both. By default both with dicm and none with the others.",
)
flags.DEFINE_enum(
    "labels",
    RunConfig.labels,
    LABELS,
    "Of a data set with several labels: predict all, each by a head of its own, or the first.",
)
flags.DEFINE_string("out", None, "Directory of the run.", required=True)
flags.DEFINE_string(
    "cluster", None, "Workers x parameter servers to start on this machine, for example 2x2."
)
flags.DEFINE_integer("epochs", RunConfig.epochs, "Passes over the training split.", lower_bound=1)
flags.DEFINE_integer(
    "batch_size", RunConfig.batch_size, "Samples per step and worker.", lower_bound=1
)
flags.DEFINE_float(
    "learning_rate", RunConfig.learning_rate, "Learning rate of Adam.", lower_bound=0.0
)
flags.DEFINE_enum(
    "aggregator",
    RunConfig.aggregator,
    AGGREGATORS,
    "images: pooling of the behaviour images. attentive and multi_query ask by the ad's image, "
    "multi_query by the ad's ids too; concat keeps the order and the schema's max_length.",
)
flags.DEFINE_enum(
    "missing",
    RunConfig.missing,
    MISSING_POLICIES,
    "images: what one that the store lacks does: end the training, have the embedding zero, or one "
    "that is learnt for all of these, which the export gives to images that it does not know.",
)
flags.DEFINE_enum(
    "placement",
    "servers",
    PLACEMENTS,
    "images, cluster: where images are embedded. servers: where they are stored (AMS). workers: "
    "raw features are pulled (store-in-server, for comparison).",
)
flags.DEFINE_enum(
    "merge",
    "none",
    MERGES,
    "images, cluster: which requests of the workers a server embeds together. none: each by "
    "itself. async: those that meet within --merge_wait_ms. sync: one mini-batch of every worker a "
    "round, and one update a round with the mean gradient.",
)
flags.DEFINE_float(
    "merge_wait_ms", 5.0, "merge=async: how long a request waits for others.", lower_bound=0.0
)
flags.DEFINE_integer(
    "sync_every",
    1,
    "images, cluster: rounds between two exchanges of the embedding model between the servers; "
    "1 is exact, n moves n times less.",
    lower_bound=1,
)
flags.DEFINE_enum(
    "wire_dtype",
    "float32",
    WIRE_DTYPES,
    "images, cluster: type in which image embeddings and their gradients cross; bfloat16 halves "
    "the bytes.",
)
flags.DEFINE_float(
    "worker_timeout_ms",
    10_000.0,
    "images, cluster: when a worker that gives no sign is left out of a round. Longer than the "
    "slowest step.",
    lower_bound=1.0,
)
flags.DEFINE_list(
    "image_servers", None, "Indices of the parameter servers that hold images; all by default."
)
flags.DEFINE_integer(
    "min_shard_bytes",
    AmsConfig.min_shard_bytes,
    "On a cluster: a table of ids of more bytes is split over the parameter servers; 0: none is.",
    lower_bound=0,
)
flags.DEFINE_float(
    "id_l2",
    RunConfig.id_l2,
    "L2 of the embeddings of ids that a batch has, divided by how often each occurs in training "
    "(mini-batch aware regularisation of DIN).",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "id_gate",
    RunConfig.id_gate,
    "Scale embeddings of ids by n / (n + this), n being how often the id occurs in training, so "
    "that an id which was hardly seen says little; 0: do not.",
    lower_bound=0.0,
)
flags.DEFINE_list(
    "id_gate_fields", None, "id_gate: its fields; by default those of one id of side ad."
)
flags.DEFINE_float(
    "id_dropout",
    RunConfig.id_dropout,
    "Probability that in training an id counts as unknown, for which there is one embedding. An id "
    "that training has not seen counts as unknown then too.",
    lower_bound=0.0,
    upper_bound=0.99,
)
flags.DEFINE_list(
    "id_dropout_fields", None, "id_dropout: its fields; by default those of one id of side ad."
)
flags.DEFINE_float(
    "image_dropout",
    RunConfig.image_dropout,
    "images: probability that in training a sample's images are dropped, all of them.",
    lower_bound=0.0,
    upper_bound=0.99,
)
flags.DEFINE_bool(
    "image_products",
    RunConfig.image_products,
    "images: whether the network also sees the product of the ad's image and the behaviours'.",
)
flags.DEFINE_bool(
    "unit_images",
    RunConfig.unit_images,
    "images: whether the network sees embeddings of images at length 1.",
)
flags.DEFINE_float(
    "learning_rate_decay",
    RunConfig.learning_rate_decay,
    "Factor of the learning rate every --decay_steps; 1: it stays.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_integer(
    "decay_steps",
    RunConfig.decay_steps,
    "learning_rate_decay: updates of the optimizer between two falls of the learning rate. On a "
    "cluster each worker's step is one, with --merge=sync each round.",
    lower_bound=1,
)
flags.DEFINE_string(
    "warm_start",
    None,
    "Directory of a run whose best weights a new run begins with. A run that goes on from its own "
    "checkpoint does not begin again.",
)
flags.DEFINE_enum(
    "warm_start_mode",
    None,
    WARM_STARTS,
    "warm_start: which weights. partial, the default: all but those that belong to ids, so that "
    "the ids may be others. full: all. images: those of the embedding model of images; the run may "
    "be of another model. extend: all of a smaller model, to which this one adds images (to "
    "embedding_mlp or din) or attention (aggregator attentive_mean, to mean); it begins with that "
    "run's predictions.",
)
flags.DEFINE_integer("seed", RunConfig.seed, "Seed of initial weights and shuffling.")
flags.DEFINE_integer(
    "patience",
    RunConfig.patience,
    "Validations without a better AUC until training stops; 0: never.",
    lower_bound=0,
)
flags.DEFINE_enum(
    "validation",
    CHIEF,
    VALIDATIONS,
    "Who validates. chief: the chief, while the workers rest. evaluator: a process of its own, the "
    "task evaluator of TF_CONFIG; with --cluster it is started too. none: nobody.",
)
flags.DEFINE_integer(
    "segment_steps",
    None,
    "Steps between checkpoints and validations; by default four times a pass.",
    lower_bound=1,
)
flags.DEFINE_float(
    "connect_timeout_s",
    600.0,
    "Chief under TF_CONFIG: seconds to wait for workers and servers that are not there.",
    lower_bound=0.0,
)
flags.DEFINE_integer(
    "max_restarts",
    10,
    "With --cluster: times that a worker that died is started again, and that everything is when a "
    "server or the chief died.",
    lower_bound=0,
)


def main(arguments: list[str]) -> int:
    """Trains, or serves, or starts a cluster that trains."""
    del arguments
    serve_if_asked()
    if FLAGS.preset:
        own = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.argv[0])]
        presets.apply(FLAGS.preset, FLAGS, own)
    if FLAGS.model is None:
        raise ConfigError("flag --model is missing; see: python -m launch.train --help")
    config = config_of_flags(
        dataset=FLAGS.dataset,
        model=FLAGS.model,
        preset=FLAGS.preset or "",
        warm_start=FLAGS.warm_start or "",
        warm_start_mode=FLAGS.warm_start_mode or "",
    )
    return run(config, "launch.train")


def serve_if_asked() -> None:
    """Serves, and does not come back, if TF_CONFIG says that this is a worker or a server."""
    role = _role()
    if role is not None and role.type in ("worker", "ps"):
        server.serve(role)


def run(config: RunConfig, module: str) -> int:
    """Trains in the role that TF_CONFIG and --cluster give this process.

    Args:
        config: What to train.
        module: The program, with whose command line a cluster's chief is started again.

    Returns:
        The exit code.
    """
    role = _role()
    if role is not None and role.type == EVALUATOR:
        from launch.evaluator import Evaluator

        return Evaluator(RunDirectory(FLAGS.out), config, FLAGS.validation != CHIEF).execute()
    if FLAGS.cluster and role is None:
        return _on_local_cluster(config, _command(module))
    if role is not None and chief_process.is_needed():
        return chief_process.run(role, _command(module), FLAGS.connect_timeout_s)
    cluster = ""
    if role is not None:
        tf_config.check_port_is_free(role)
        os.environ["TF_CONFIG"] = tf_config.build(role.cluster, "chief", 0)
        workers, servers = len(role.cluster["worker"]), len(role.cluster["ps"])
        cluster = f"{workers} workers, {servers} servers"
    # After the flags: a wrong one is said at once, TensorFlow takes seconds.
    from launch.mutual_training import training_of

    if cluster:
        native_logs.filter_to_the_end()
    out = RunDirectory(FLAGS.out)
    report = training_of(out, config, FLAGS.segment_steps, cluster, FLAGS.validation).execute()
    print(_summary(report, out), flush=True)
    return 0


def _role() -> tf_config.ClusterRole | None:
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    return tf_config.without_evaluator(tf_config.parse(text))


def config_of_flags(**others: Any) -> RunConfig:
    """Returns the configuration that the flags ask for, with what `others` say beside them."""
    if FLAGS.patience and FLAGS.validation == NONE:
        raise ConfigError("--patience needs validations, --validation=none makes none; drop one")
    return RunConfig(
        **{**network_flags.values(), **others},
        aggregator=FLAGS.aggregator,
        images=FLAGS.images or "",
        labels=FLAGS.labels,
        id_l2=FLAGS.id_l2,
        id_gate=FLAGS.id_gate,
        id_gate_fields=tuple(FLAGS.id_gate_fields or ()),
        id_dropout=FLAGS.id_dropout,
        id_dropout_fields=tuple(FLAGS.id_dropout_fields or ()),
        image_dropout=FLAGS.image_dropout,
        image_products=FLAGS.image_products,
        unit_images=FLAGS.unit_images,
        learning_rate_decay=FLAGS.learning_rate_decay,
        decay_steps=FLAGS.decay_steps,
        missing=FLAGS.missing,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.epochs,
        learning_rate=FLAGS.learning_rate,
        seed=FLAGS.seed,
        patience=FLAGS.patience,
        ams=AmsConfig(
            placement=FLAGS.placement,
            image_servers=flag_values.image_servers(FLAGS.image_servers),
            merge=FLAGS.merge,
            merge_wait_ms=FLAGS.merge_wait_ms,
            sync_every=FLAGS.sync_every,
            wire_dtype=FLAGS.wire_dtype,
            worker_timeout_ms=FLAGS.worker_timeout_ms,
            min_shard_bytes=FLAGS.min_shard_bytes,
        ),
    )


def _on_local_cluster(config: RunConfig, command: list[str]) -> int:
    workers, servers = parse_cluster(FLAGS.cluster)
    check_are_in_cluster(config.store_servers, servers)
    run = RunDirectory(FLAGS.out)
    run.check(config)
    print(f"starting {workers} workers and {servers} servers; logs in {run.logs}", flush=True)
    max_restarts = FLAGS.max_restarts
    with LocalCluster(workers, servers, run.logs) as cluster:
        if FLAGS.validation != EVALUATOR:
            return cluster.run_chief(command, max_restarts=max_restarts)
        with LocalEvaluator(cluster, command) as evaluator:
            code = cluster.run_chief(command, max_restarts=max_restarts) or evaluator.wait()
    if not code:
        print("evaluator: " + _best_line(read_json(run.report, "a run")["best_validation"]))
    return code


def _command(module: str) -> list[str]:
    return [sys.executable, "-m", module, *sys.argv[1:]]


def _summary(report: dict, run: RunDirectory) -> str:
    from launch import dynamic_tables, impressions

    lines = [
        f"{report['ended']}: {report['steps']:,} steps, {report['samples']:,} samples in "
        f"{report['seconds']:.0f} s ({report['samples_per_second'] or 0:,.0f} a second); "
        + impressions.sentence(report["samples"], report["impressions_trained"])
    ]
    # With an evaluator the best may still come: then it is said when the evaluator has ended.
    if FLAGS.validation == CHIEF and report["best_validation"]:
        lines.append(_best_line(report["best_validation"]))
    for name, best in report.get("members", {}).items():
        if best:
            lines.append(f"  {name}: {_best_line(best)}")
    for name, counters in report["images"].items():
        lines.append(
            f"{name}: {counters['ids_looked_up']:,} images looked up, "
            f"{counters['ids_missing']:,} missing"
        )
    if "dynamic_tables" in report:
        lines.append(dynamic_tables.sentence(report["dynamic_tables"]))
    lines += [
        f"curves: {run.curves}   report: {run.report}",
        "next: python -m launch.evaluate --run="
        + ",".join(map(str, [run.path, *(run.member(n).path for n in report.get("members", {}))])),
    ]
    return "\n".join(lines)


def _best_line(best: dict | None) -> str:
    if not best:
        return "no checkpoint could be evaluated"
    values = {name: best.get(f"validation_{name}", math.nan) for name in ("auc", "gauc")}
    # There is no GAUC without users.
    shown = [f"{k.upper()} {v:.4f}" for k, v in values.items() if k == "auc" or not math.isnan(v)]
    return f"best validation: {', '.join(shown)} at step {best['step']:.0f}"


if __name__ == "__main__":
    program.run(main)
