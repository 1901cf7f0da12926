"""launch.prepare crossmedia: its flags, and what they ask for."""

import pathlib

from absl import flags

from amstf.errors import ConfigError
from launch import program
from launch.datasets import crossmedia
from launch.datasets.crossmedia_fields import KINDS, parse_fields

FLAGS = flags.FLAGS
_DEFAULT = crossmedia.CrossMediaConfig()

flags.DEFINE_list("samples", None, "crossmedia: text files of samples in order, plain or .gz.")
flags.DEFINE_string(
    "images",
    None,
    "crossmedia: prefix of the image files PREFIX.0 to PREFIX.1023. Without, there are none and "
    "ids of images are ids like others.",
)
flags.DEFINE_list(
    "fields",
    None,
    f"crossmedia: features to take, each NAME or NAME:KIND ({', '.join(KINDS)}); if not given, all "
    "of them, of the kinds that their text tells. Ids in a feature whose name has img or image in "
    "it are ids of images.",
)
flags.DEFINE_bool(
    "image_ids",
    _DEFAULT.image_ids,
    "crossmedia: whether ids of images are ids with embeddings of their own, too.",
)
flags.DEFINE_list(
    "label_names", None, "crossmedia: names of the labels; by default click, label_1, label_2 ..."
)
flags.DEFINE_float(
    "label_threshold", None, "crossmedia: labels are 1 above this number, and 0 otherwise."
)


def prepare(directory: pathlib.Path) -> None:
    """Fills the directory as the flags say."""
    if not FLAGS.samples:
        raise ConfigError(f"crossmedia needs --samples; see {program.command_name()} --help")
    if FLAGS["folds"].present or FLAGS["fold"].present:
        raise ConfigError("--folds has no meaning for crossmedia; leave it out")
    given = {
        name: FLAGS[name].value
        for name in ("hash_size", "embedding_width", "holdout", "seed")
        if FLAGS[name].present
    }
    config = crossmedia.CrossMediaConfig(
        fields=parse_fields(FLAGS.fields or ()),
        label_names=tuple(FLAGS.label_names or ()),
        label_threshold=FLAGS.label_threshold,
        image_ids=FLAGS.image_ids,
        **given,
    )
    crossmedia.prepare(
        config,
        FLAGS.samples,
        FLAGS.images,
        directory,
        num_shards=FLAGS.num_shards,
        image_dtype=FLAGS.image_dtype or "float32",
        image_width=FLAGS.image_width if FLAGS["image_width"].present else None,
        group_size=FLAGS.group_size if FLAGS.group_by_user else None,
    )
