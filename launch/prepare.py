"""Makes a data set: samples in three splits (train, validation, test) and an image store.

    python -m launch.prepare synthetic --out=DATASET [--render=PICTURES]
    python -m launch.prepare movielens --ratings=DIR --features=FILE.h5 --out=DATASET
    python -m launch.prepare tiktok --source=DIR --split=new_items --out=DATASET
    python -m launch.prepare criteo --source=FILE[,FILE...] --out=DATASET
    python -m launch.prepare avazu --source=FILE --out=DATASET
    python -m launch.prepare crossmedia --samples=data.txt --images=PREFIX --out=DATASET
    python -m launch.prepare table --source=FILE[,FILE...] --fields=... --out=DATASET

synthetic   Clicks from a known click model in which images carry taste. Items that appear only in
            the test show how a model does without history. Every sample holds its true click
            probability, so the summary says the best AUC that any model can reach. Needs nothing.
            With --render each item is drawn as a product picture, and launch.extract makes the
            images' features from these: the whole road from pixels.
movielens   MovieLens-100k: a rating of 4 or 5 is a click, the movie's poster the image, the movies
            that the user rated so before are the behaviours. The last 20 % of each user's ratings
            are the test, the 10 % before them the validation.
tiktok      Interactions with videos of which vectors of what is seen and heard are known; each is a
            click, and comes with 4 impressions without one that are drawn by popularity. The test
            shows either items that training does not, or a random part of all interactions.
criteo      Criteo's log as it comes: label, 13 numbers, 26 values, between tabs; .gz too.
avazu       Avazu's log as it comes: comma-separated; the hour becomes hour and day of the week.
            Both: values that training has --min_count times get ids, others of a field share one;
            or all are hashed (--hash_size), for which nothing is counted, or each has an id of its
            own (--dynamic). --folds and --fold cut the rows into parts, each of which is the test
            once.
crossmedia  The samples (text, one impression a line) and image files of CrossMedia, the system of
            the AMS paper; see docs/importing.md. Ids are hashed by the model, or get rows as they
            appear (--dynamic). Lines of one group
            key that follow each other are a group, of whom the user's part is stored once, unless
            --nogroup_by_user says otherwise. Groups are held out whole (--holdout).
table       A log of your own, CSV (.gz too) or Parquet: --fields says which columns are values,
            numbers, lists, images, of the user or of the ad, --label_names which are labels;
            see docs/importing.md. Values and numbers become ids and floats as those of criteo do.

--group_by_user stores impressions that are equal in all that is the user's (the earlier clicks too)
as one record, which holds the user's part once: smaller files, and a training that parses and
embeds it once. It changes the order of the samples, not what they hold. A user's clicks end such a
group; --page_size makes page views of several impressions that do not see each other's clicks.

The directory appears when all is done; a run that fails or is stopped leaves nothing under --out.
"""

import contextlib
import dataclasses
import pathlib

from absl import flags

from amstf.data import GROUP_SIZE, Samples
from amstf.errors import ConfigError
from amstf.schema import COMBINERS, IMAGE, Schema
from amstf.store import ImageStore
from launch import prepare_logs, program
from launch.datasets import feature_map, movielens, synthetic, tiktok
from launch.datasets.dynamic_ids import make_dynamic
from launch.datasets.halves import HALVES
from launch.datasets.new_dataset import new_dataset
from launch.datasets.pictures import LIST_FILE, Pictures
from launch.new_directory import new_directory

FLAGS = flags.FLAGS
KINDS = ("synthetic", "movielens", "tiktok", *prepare_logs.PREPARE)
_DEFAULT = synthetic.SyntheticConfig()

flags.adopt_module_key_flags(prepare_logs)
flags.DEFINE_string("out", None, "Directory of the data set to make.", required=True)
flags.DEFINE_bool("overwrite", False, "Whether to replace a data set that is there.")
flags.DEFINE_integer(
    "num_shards", 8, "Files per split; at least one for each worker that trains.", lower_bound=1
)
flags.DEFINE_enum(
    "image_dtype",
    None,
    ["float16", "float32", "uint8"],
    "Stored type of the images' features (uint8: with a scale for each image); if not given "
    "float16 for synthetic, float32 for others.",
)
flags.DEFINE_bool(
    "standardise",
    False,
    "Whether each feature gets mean 0 and variance 1 over the images that training shows.",
)
flags.DEFINE_integer(
    "pca",
    0,
    "Store this many principal components of the features instead, of the images that training "
    "shows; 0: the features.",
    lower_bound=0,
)
flags.DEFINE_bool(
    "whiten", False, "Whether each component of --pca gets variance 1, which trains sooner."
)
flags.DEFINE_enum(
    "combiner",
    None,
    COMBINERS,
    "How the embeddings of listed ids become one; if not given as the kind of data set has it.",
)
flags.DEFINE_bool(
    "group_by_user", False, "Whether impressions of one user are stored in groups (see above)."
)
flags.DEFINE_integer(
    "group_size",
    GROUP_SIZE,
    "Most impressions of a group, with --group_by_user; longer ones are cut.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "page_size",
    _DEFAULT.page_size,
    "Impressions of a page view, which share the user's earlier clicks as of its begin. synthetic: "
    "all pages have so many; movielens: consecutive ratings of a user, at most so many.",
    lower_bound=1,
)
flags.DEFINE_enum(
    "train_half",
    None,
    HALVES,
    "synthetic, movielens: leave out the other half in time of the training split.",
)
flags.DEFINE_string(
    "render",
    None,
    "synthetic: directory to draw the items in, as pictures; the data set has no features of "
    "images then until launch.extract makes them from the pictures.",
)
flags.DEFINE_integer(
    "picture_size", 224, "synthetic: pixels of a picture's side, with --render.", lower_bound=16
)
flags.DEFINE_string("ratings", None, "movielens: directory with u.data, u.user and u.item.")
flags.DEFINE_string(
    "features", None, "movielens: HDF5 file with `ids` (movie ids) and `features` [n, F]."
)
flags.DEFINE_bool(
    "only_with_image", False, "movielens: whether to leave out movies that have no features."
)
flags.DEFINE_string(
    "source",
    None,
    f"tiktok: directory with {tiktok.FILE}. criteo, avazu, table: the log's files in order, "
    "separated by commas.",
)
flags.DEFINE_enum(
    "split",
    tiktok.NEW_ITEMS,
    tiktok.SPLIT_KINDS,
    "tiktok: new_items: 20 % of the items are in the test only, 10 % in the validation only. "
    "known_items: interactions are split at random, 70/10/20.",
)
flags.DEFINE_list(
    "modalities", ["visual"], f"tiktok: feature stores to write: {','.join(tiktok.MODALITIES)}."
)
flags.DEFINE_integer("users", _DEFAULT.users, "synthetic: number of users.")
flags.DEFINE_integer("items", _DEFAULT.items, "synthetic: number of items, one image each.")
flags.DEFINE_integer(
    "impressions", _DEFAULT.impressions, "synthetic: samples of all splits together."
)
flags.DEFINE_integer("seed", _DEFAULT.seed, "all but movielens: the same seed makes the same data.")
flags.DEFINE_integer(
    "image_width",
    _DEFAULT.image_width,
    "synthetic: features per image (the VGG16 features of the DICM paper have 4096). crossmedia: "
    "found from the files; if given, checked.",
)
flags.DEFINE_integer(
    "text_width",
    _DEFAULT.text_width,
    "synthetic: features of an item's title, a second store that shows what the image does not; 0: "
    "items have no titles.",
)
flags.DEFINE_integer(
    "behaviours",
    None,
    f"Most earlier clicks that a sample holds; if not given {_DEFAULT.behaviours} for synthetic, "
    f"{tiktok.TiktokConfig.behaviours} for tiktok.",
)
flags.DEFINE_float(
    "new_items", _DEFAULT.new_items, "synthetic: share of the items that only the test shows."
)
flags.DEFINE_float(
    "new_validation_items",
    _DEFAULT.new_validation_items,
    "synthetic: share of the items that validation shows and training does not.",
)
flags.DEFINE_float(
    "new_item_impressions",
    _DEFAULT.new_item_impressions,
    "synthetic: share of the test's impressions, or of validation's, that show such an item.",
)
flags.DEFINE_float(
    "hidden_quality",
    _DEFAULT.hidden_quality,
    "synthetic: strength of the quality of an item that its image does not show.",
)
flags.DEFINE_float(
    "taste",
    _DEFAULT.taste,
    "synthetic: strength of the match of user and image, in standard deviations of the logit.",
)
flags.DEFINE_integer(
    "style_width",
    _DEFAULT.style_width,
    "synthetic: dimensions of style and taste; more of them are harder to learn.",
)
flags.DEFINE_float(
    "taste_drift",
    _DEFAULT.taste_drift,
    "synthetic: radians by which a user's tastes turn over the whole log; with more of it earlier "
    "clicks say what the user's id does not.",
)
flags.DEFINE_integer(
    "interests",
    _DEFAULT.interests,
    "synthetic: tastes of a user, the best of which counts; with several, attention is needed.",
)


def main(arguments: list[str]) -> int | None:
    """Makes the data set that the flags ask for and prints what it holds."""
    if len(arguments) != 1 or arguments[0] not in KINDS:
        got = arguments[0] if arguments else "nothing"
        raise ConfigError(
            f"say which data set to make: {' or '.join(KINDS)}; got {got}. "
            f"For example: {program.command_name()} synthetic --out=DATASET"
        )
    if arguments[0] == "crossmedia" and not FLAGS["group_by_user"].present:
        FLAGS.group_by_user = True  # Its samples come in groups.
    if FLAGS["group_size"].present and not FLAGS.group_by_user:
        raise ConfigError("--group_size has a meaning with --group_by_user only; give both")
    if FLAGS.render is not None:
        _check_render(arguments[0])
    with new_dataset(FLAGS.out, overwrite=FLAGS.overwrite) as directory:
        _PREPARE[arguments[0]](directory)
        if FLAGS.standardise or FLAGS.pca or FLAGS.whiten:
            feature_map.apply(
                directory, standardise=FLAGS.standardise, pca=FLAGS.pca, whiten=FLAGS.whiten
            )
        if FLAGS.combiner:
            _set_combiner(directory, FLAGS.combiner)
        if FLAGS.dynamic and arguments[0] not in prepare_logs.PREPARE:
            make_dynamic(directory)
    print(summary(FLAGS.out))
    return None


def summary(directory: str) -> str:
    """Returns a short description of a data set, for people."""
    samples = Samples.open(directory)
    info = samples.manifest.info
    size = sum(path.stat().st_size for path in pathlib.Path(directory).iterdir())
    lines = [f"{directory}: {info.get('source', 'samples')}, {size / 1e6:,.1f} MB", ""]
    lines.append(f"  {'split':<12}{'samples':>10}{'clicks':>9}")
    for split in samples.splits:
        impressions = samples.num_impressions(split)
        rate = _click_rate(samples, split)
        line = f"  {split:<12}{impressions:>10,}{rate:>9.1%}"
        if samples.is_grouped(split):
            groups = samples.num_records(split)
            line += f"   in {groups:,} groups, {impressions / groups:.1f} samples each"
        lines.append(line)
    below = len(lines)
    for name in samples.manifest.images:
        store = ImageStore.open(samples.image_store_path(name))
        line = f"  {name}: {len(store):,} of {store.width} features, {store.dtype}"
        if store.attributes.get("pca_width"):
            share, raw = store.attributes["explained_variance"], store.attributes["raw_width"]
            line += f" (components of {raw}, {share:.0%} of the variance)"
        lines.append(line)
    if missing := info.get("missing_images"):
        lines.append(
            f"  {missing['count']:,} images that samples name are in no store, {missing['among']} "
            "among them: train with --missing=learn (or zeros)"
        )
    best = info.get("best_reachable", {})
    for part in (name for name in best if name.startswith("test")):
        measures = [f"{m.upper()} {best[part][m]:.4f}" for m in ("auc", "gauc") if m in best[part]]
        lines.append(
            f"  best reachable on {part} ({best[part]['impressions']:,} samples): "
            f"{', '.join(measures) or 'one class only'}"
        )
    if lines[below:]:
        lines.insert(below, "")
    model = "dicm" if samples.schema.of_kind(IMAGE) else "deepfm"
    recipe = f"--preset={info['preset']}" if "preset" in info else f"--model={model}"
    command = f"train --dataset={directory} {recipe} --out=RUN"
    if pictures := info.get("pictures"):
        lines.append(f"  images: none yet; the items are drawn in {pictures}")
        # What a backbone gives has a large mean and small differences: models want it standardised.
        command = (
            f"extract --images={pictures} --out={pictures}.h5\n"
            f"        python -m launch.store convert {pictures}.h5 --standardise "
            f"--out={pathlib.Path(directory, 'images.h5')} --dataset={directory}"
        )
    lines += ["", f"  next: python -m launch.{command}"]
    return "\n".join(lines)


def _synthetic(directory: pathlib.Path) -> None:
    names = {field.name for field in dataclasses.fields(synthetic.SyntheticConfig)}
    given = {n: FLAGS[n].value for n in names & set(FLAGS) if FLAGS[n].value is not None}
    config = synthetic.SyntheticConfig(**given)
    with contextlib.ExitStack() as stack:
        pictures = None
        if FLAGS.render is not None:
            drawn = stack.enter_context(
                new_directory(
                    FLAGS.render,
                    what="a directory of drawn pictures",
                    marker=LIST_FILE,
                    overwrite=FLAGS.overwrite,
                    error=ConfigError,
                )
            )
            shown_as = pathlib.Path(FLAGS.render).absolute()
            pictures = Pictures(drawn, FLAGS.picture_size, shown_as)
        synthetic.prepare(
            config,
            directory,
            num_shards=FLAGS.num_shards,
            image_dtype=FLAGS.image_dtype or "float16",
            group_size=_group_size(),
            train_half=FLAGS.train_half or "",
            pictures=pictures,
        )


def _check_render(kind: str) -> None:
    if kind != "synthetic":
        raise ConfigError(f"--render draws the items of synthetic only; got {kind}")
    for name in ("standardise", "pca", "whiten", "image_dtype", "image_width"):
        if FLAGS[name].present:
            raise ConfigError(
                f"--{name} is about features of images, and with --render there are none before "
                "launch.extract makes them; leave it out"
            )


def _movielens(directory: pathlib.Path) -> None:
    for name in ("ratings", "features"):
        if FLAGS[name].value is None:
            raise ConfigError(f"movielens needs --{name}; see {program.command_name()} --help")
    movielens.prepare(
        FLAGS.ratings,
        FLAGS.features,
        directory,
        only_with_image=FLAGS.only_with_image,
        num_shards=FLAGS.num_shards,
        image_dtype=FLAGS.image_dtype or "float32",
        page_size=FLAGS.page_size,
        group_size=_group_size(),
        train_half=FLAGS.train_half or "",
    )


def _group_size() -> int | None:
    return FLAGS.group_size if FLAGS.group_by_user else None


def _tiktok(directory: pathlib.Path) -> None:
    if FLAGS.source is None:
        raise ConfigError(f"tiktok needs --source; see {program.command_name()} --help")
    config = tiktok.TiktokConfig(
        split=FLAGS.split,
        behaviours=tiktok.TiktokConfig.behaviours if FLAGS.behaviours is None else FLAGS.behaviours,
        modalities=tuple(FLAGS.modalities),
        seed=FLAGS.seed,
    )
    tiktok.prepare(
        config,
        FLAGS.source,
        directory,
        num_shards=FLAGS.num_shards,
        image_dtype=FLAGS.image_dtype or "float32",
        group_size=_group_size(),
    )


_PREPARE = {
    "synthetic": _synthetic,
    "movielens": _movielens,
    "tiktok": _tiktok,
    **prepare_logs.PREPARE,
}


def _set_combiner(directory: pathlib.Path, combiner: str) -> None:
    """Gives all listed ids of a data set a combiner: it is the models' matter, not the records'."""
    schema = Schema.load(directory)
    fields = tuple(
        dataclasses.replace(f, combiner=combiner) if f.is_list and f.kind != IMAGE else f
        for f in schema.fields
    )
    dataclasses.replace(schema, fields=fields).save(directory)


def _click_rate(samples: Samples, split: str) -> float:
    label = samples.schema.labels[0].name
    batches = samples.dataset(split, 4096, fields=[label], only_inputs=False)
    clicks = sum(float(batch[label].numpy().sum()) for batch in batches)
    return clicks / samples.num_impressions(split)


if __name__ == "__main__":
    program.run(main, argument_names=["KIND"])
