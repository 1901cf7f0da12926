"""Flags of launch.train about the network: its layers, the embedding model of images."""

from typing import Any

from absl import flags

from launch import dynamic_rules, flag_values
from launch.interaction import help_text
from launch.run_directory import ACTIVATIONS, TOWER_ACTIVATIONS, RunConfig

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "hidden",
    list(map(str, RunConfig.hidden)),
    "Widths of the MLP; of each tower with prerank, the last being that of the embeddings; lr has "
    "none.",
)
flags.DEFINE_list("interaction", None, help_text())
flags.DEFINE_float(
    "dropout",
    RunConfig.dropout,
    "Dropout of the MLP in training.",
    lower_bound=0.0,
    upper_bound=0.99,
)
flags.DEFINE_list(
    "tower",
    list(map(str, RunConfig.tower)),
    "images: widths of the embedding model; the last is an image's.",
)
flags.DEFINE_float(
    "tower_dropout",
    RunConfig.tower_dropout,
    "images: dropout of the embedding model.",
    lower_bound=0.0,
    upper_bound=0.99,
)
flags.DEFINE_enum(
    "activation",
    None,
    ACTIVATIONS,
    "Activation of the layers of the MLP and of the embedding model; if not given each model's "
    "own, PReLU for most.",
)
flags.DEFINE_enum(
    "tower_activation",
    None,
    TOWER_ACTIVATIONS,
    "images: activation of each layer of the embedding model, the last too; if not given that of "
    "--activation. linear with one width is a projection of the features.",
)
flags.DEFINE_bool(
    "separate_towers",
    RunConfig.separate_towers,
    "images: whether each image store has an embedding model of its own. By default two stores of "
    "one width share one, if the ad's only image is in one and the behaviours' in the other.",
)
flags.DEFINE_list(
    "store_servers",
    None,
    "images, cluster: parameter servers that hold an image store, each STORE:SERVER, for example "
    "user_images:0,ad_images:1; by default those of --image_servers. Without a cluster unused.",
)
flags.DEFINE_integer(
    "dynamic_memory",
    RunConfig.dynamic_memory,
    "dynamic fields: MiB that their tables may take on each server (in this process without a "
    "cluster), all together, with optimizer slots and index; a new id then gets the row of one "
    "that was not seen for long. 0: no limit.",
    lower_bound=0,
)
flags.DEFINE_list(
    "admission",
    None,
    "dynamic fields: which ids that training sees get a row, by default all at once; "
    + dynamic_rules.help_text(dynamic_rules.ADMISSION),
)
flags.DEFINE_list(
    "eviction",
    None,
    "dynamic fields: which rows die before each checkpoint (see --segment_steps), by default none; "
    + dynamic_rules.help_text(dynamic_rules.EVICTION),
)
flags.DEFINE_integer(
    "full_checkpoint_every",
    RunConfig.full_checkpoint_every,
    "dynamic fields: of so many checkpoints (see --segment_steps) one has all rows of their "
    "tables, the others those that training touched since the one before. 1: all have all.",
    lower_bound=1,
)


def values() -> dict[str, Any]:
    """Returns what the flags say, as attributes of `RunConfig`."""
    return {
        "hidden": flag_values.widths("hidden", FLAGS.hidden),
        "interaction": tuple(FLAGS.interaction or ()),
        "dropout": FLAGS.dropout,
        "tower": flag_values.widths("tower", FLAGS.tower),
        "tower_dropout": FLAGS.tower_dropout,
        "activation": FLAGS.activation or "",
        "tower_activation": FLAGS.tower_activation or "",
        "separate_towers": FLAGS.separate_towers,
        "store_servers": tuple(FLAGS.store_servers or ()),
        "dynamic_memory": FLAGS.dynamic_memory,
        "admission": tuple(FLAGS.admission or ()),
        "eviction": tuple(FLAGS.eviction or ()),
        "full_checkpoint_every": FLAGS.full_checkpoint_every,
    }
