"""launch.prepare criteo, avazu, crossmedia and table: their flags, and what they ask for."""

import dataclasses
import functools
import pathlib
from typing import Any

from absl import flags

from amstf.errors import ConfigError
from amstf.store import ImageStore
from launch import program
from launch.datasets import click_log, crossmedia, crossmedia_fields, table
from launch.datasets.avazu import AVAZU
from launch.datasets.click_log import ClickLogConfig
from launch.datasets.criteo import CRITEO
from launch.datasets.crossmedia import CrossMediaConfig

FLAGS = flags.FLAGS
_CLICK_LOGS = {"criteo": CRITEO, "avazu": AVAZU}
_DEFAULT = CrossMediaConfig()
_TABLE = table.TableConfig()
_OF_TABLES = ("group", "time", "item", "list_separator")

flags.DEFINE_list("samples", None, "crossmedia: text files of samples in order, plain or .gz.")
flags.DEFINE_string(
    "images",
    None,
    "crossmedia: prefix of the image files PREFIX.0 to PREFIX.1023; without, there are none and "
    "ids of images are ids like others. table: image store (launch.extract) of its ids of images.",
)
flags.DEFINE_list(
    "fields",
    None,
    "What models see; if not given, all there is, as what it looks like. crossmedia: features, "
    f"each NAME or NAME:KIND ({', '.join(crossmedia_fields.KINDS)}); ids in one whose name has img "
    "or image in it are ids of images. table: columns, each COLUMN, COLUMN:KIND or "
    f"COLUMN:KIND:SIDE; kinds are {', '.join(table.KINDS)}, sides user, ad, context.",
)
flags.DEFINE_bool(
    "image_ids",
    _DEFAULT.image_ids,
    "crossmedia: whether ids of images are ids with embeddings of their own, too.",
)
flags.DEFINE_list(
    "label_names",
    None,
    "crossmedia: names of the labels; by default click, label_1, label_2 ... table: columns of the "
    f"labels, the click first; by default {','.join(_TABLE.labels)}.",
)
flags.DEFINE_float(
    "label_threshold", None, "crossmedia, table: labels are 1 above this number, and 0 otherwise."
)
flags.DEFINE_integer(
    "min_count",
    ClickLogConfig.min_count,
    "criteo, avazu, table: values that training has less often share one id.",
)
flags.DEFINE_integer(
    "hash_size",
    ClickLogConfig.hash_size,
    "criteo, avazu, table: hash the values of each column into so many ids, and count nothing; 0: "
    f"do not. crossmedia: rows of each table of ids; if not given {CrossMediaConfig.hash_size:,}.",
)
flags.DEFINE_bool(
    "dynamic",
    ClickLogConfig.dynamic,
    "Ids without a vocabulary: models give each that training shows a row, in tables that grow. "
    "criteo, avazu, table: all values, as hashes of 64 bits, and nothing is counted. crossmedia: "
    "all ids, as they are. synthetic, movielens, tiktok: ids of users, items and images.",
)
flags.DEFINE_enum(
    "numbers",
    ClickLogConfig.numbers,
    click_log.NUMBERS,
    "criteo, table: what a number becomes. plain, log, standard (mean 0, variance 1) and "
    "log_standard: a float. buckets: an id, by quantiles. log_buckets: an id, by its squared "
    "logarithm.",
)
flags.DEFINE_integer(
    "buckets", ClickLogConfig.buckets, "criteo, table: most ids of a number with --numbers=buckets."
)
flags.DEFINE_integer(
    "embedding_width",
    ClickLogConfig.embedding_width,
    "criteo, avazu, crossmedia, table: floats of an embedding; if not given "
    f"{CrossMediaConfig.embedding_width} for crossmedia.",
)
flags.DEFINE_enum(
    "holdout",
    ClickLogConfig.holdout,
    click_log.HOLDOUTS,
    "criteo, avazu, crossmedia, table: which rows are the validation (10 %) and the test (10 %): "
    "random ones, or the last, which are the newest (crossmedia: groups, by their timestamps; "
    "table: by --time, if given).",
)
flags.DEFINE_integer(
    "folds",
    ClickLogConfig.folds,
    "criteo, avazu, table: parts for cross-validation, one of which is the test; the validation is "
    "10 % of the others. 0: none.",
)
flags.DEFINE_integer(
    "fold", ClickLogConfig.fold, "criteo, avazu, table: the part that is the test, from 0."
)
flags.DEFINE_string(
    "group",
    _TABLE.group,
    "table: column of the key whose impressions belong together, for GAUC and --group_by_user: "
    "that of the user, or of the page view.",
)
flags.DEFINE_string(
    "time", _TABLE.time, "table: column of times, numbers or dates, for --holdout=last."
)
flags.DEFINE_string("item", _TABLE.item, "table: column that says which item a row shows.")
flags.DEFINE_string(
    "list_separator", _TABLE.separator, "table: what is between the values of a list in a CSV file."
)


def _click_log(kind: str, directory: pathlib.Path) -> None:
    if FLAGS.source is None:
        raise ConfigError(f"{kind} needs --source; see {program.command_name()} --help")
    _refuse(
        kind,
        "standardise",
        "pca",
        "whiten",
        "combiner",
        "group_by_user",
        "images",
        "fields",
        *_OF_TABLES,
    )
    _check_dynamic("min_count", "hash_size")
    names = [field.name for field in dataclasses.fields(ClickLogConfig)]
    config = ClickLogConfig(**{name: FLAGS[name].value for name in names})
    click_log.prepare(
        _CLICK_LOGS[kind],
        config,
        _sources(),
        directory,
        num_shards=FLAGS.num_shards,
    )


def prepare_crossmedia(directory: pathlib.Path) -> None:
    """Fills the directory with the data set of CrossMedia's files that the flags name."""
    if not FLAGS.samples:
        raise ConfigError(f"crossmedia needs --samples; see {program.command_name()} --help")
    _refuse("crossmedia", "source", "min_count", "numbers", "buckets", "folds", "fold", *_OF_TABLES)
    _check_dynamic("hash_size")
    config = CrossMediaConfig(
        fields=crossmedia_fields.parse_fields(FLAGS.fields or ()),
        label_names=tuple(FLAGS.label_names or ()),
        label_threshold=FLAGS.label_threshold,
        image_ids=FLAGS.image_ids,
        **_given("hash_size", "dynamic", "embedding_width", "holdout", "seed"),
    )
    crossmedia.prepare(
        config,
        FLAGS.samples,
        FLAGS.images,
        directory,
        num_shards=FLAGS.num_shards,
        image_dtype=FLAGS.image_dtype or "float32",
        image_width=FLAGS.image_width if FLAGS["image_width"].present else None,
        group_size=_group_size(),
    )


def prepare_table(directory: pathlib.Path) -> None:
    """Fills the directory with the data set of the table that the flags name."""
    if not FLAGS.source:
        raise ConfigError(f"table needs --source; see {program.command_name()} --help")
    _refuse("table", "samples", "image_ids", "image_dtype", "standardise", "pca", "whiten")
    _check_dynamic("min_count", "hash_size")
    config = table.TableConfig(
        fields=table.parse_fields(FLAGS.fields or ()),
        label_threshold=FLAGS.label_threshold,
        group=FLAGS.group,
        time=FLAGS.time,
        item=FLAGS.item,
        separator=FLAGS.list_separator,
        **({"labels": tuple(FLAGS.label_names)} if FLAGS.label_names else {}),
    )
    if _group_size() is not None and not config.group:
        raise ConfigError("--group_by_user of a table needs --group, the column of the key")
    sources = _sources()
    store = ImageStore.open(FLAGS.images) if FLAGS.images else None
    names = [field.name for field in dataclasses.fields(ClickLogConfig)]
    click_log.prepare(
        table.table_log(config, sources, store is not None),
        ClickLogConfig(**_given(*names)),
        sources,
        directory,
        num_shards=FLAGS.num_shards,
        group_size=_group_size(),
        store=store,
    )


def _sources() -> list[str]:
    return [path for path in FLAGS.source.split(",") if path]


def _group_size() -> int | None:
    return FLAGS.group_size if FLAGS.group_by_user else None


def _given(*names: str) -> dict[str, Any]:
    """Returns the values of flags that are on the command line; others have their own defaults."""
    return {name: FLAGS[name].value for name in names if FLAGS[name].present}


def _refuse(kind: str, *names: str) -> None:
    if meaningless := [f"--{name}" for name in names if FLAGS[name].present]:
        raise ConfigError(f"{', '.join(meaningless)} has no meaning for {kind}; leave it out")


def _check_dynamic(*names: str) -> None:
    """Refuses flags that say which values get ids where each gets one."""
    if FLAGS.dynamic and (meaningless := [f"--{name}" for name in names if FLAGS[name].present]):
        raise ConfigError(
            f"{', '.join(meaningless)} has no meaning with --dynamic, by which each value has a "
            "row of its own; leave it out (launch.train --admission=after=N: from the Nth sight)"
        )


PREPARE = {
    **{kind: functools.partial(_click_log, kind) for kind in _CLICK_LOGS},
    "crossmedia": prepare_crossmedia,
    "table": prepare_table,
}
"""Kind -> what fills a directory with a data set of it."""
