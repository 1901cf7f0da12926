"""Looks at image stores, checks them, and makes others of them.

    python -m launch.store info images.h5
    python -m launch.store verify images.h5
    python -m launch.store merge a.h5 b.h5 --out=all.h5
    python -m launch.store split images.h5 --out=parts.h5 --num_files=4
    python -m launch.store split images.h5 --out=some.h5 --ids=ids.txt
    python -m launch.store convert images.h5 --out=small.h5 --dtype=uint8
    python -m launch.store convert raw.h5 --out=DATASET/images.h5 --dataset=DATASET --standardise
    python -m launch.store sample images.h5 --out=sheet.png [--run=RUN]

info     How many images and features, of which type, how they were made.
verify   Reads all of it: checksums, features that are no numbers, images with zeros only or with
         the features of another one. Ends with 2 if the store is not sound.
merge    One store of several. An id that two have is an error, unless --duplicates says which to
         take.
split    The same images in several files, or those of a list of ids.
convert  Another type; and the layout that servers map, of a store that another program wrote.
         With --standardise or --pca other features: a linear map that is fitted on the images that
         the training split of --dataset shows. With --dataset the result is its image store.
sample   A contact sheet: some images, each with its nearest neighbours by raw features, or with
         --run or --export by the embeddings that a model makes of them.

A store of several files is named by a pattern in quotes: 'images-*.h5'.
"""

import pathlib
import sys

from absl import flags

from amstf.errors import ConfigError, StoreError
from launch import program

FLAGS = flags.FLAGS
COMMANDS = ("info", "verify", "merge", "split", "convert", "sample")

flags.DEFINE_string("out", None, "The store to write, ending in .h5; sample: the PNG file.")
flags.DEFINE_bool("overwrite", False, "Whether to replace what is there under --out.")
flags.DEFINE_enum(
    "dtype",
    None,
    ["float16", "float32", "uint8"],
    "convert, merge, split: stored type, if another one.",
)
flags.DEFINE_integer("num_files", 1, "split, convert, merge: files to write.", lower_bound=1)
flags.DEFINE_string("ids", None, "split: file with the ids to take, one in a line.")
flags.DEFINE_enum(
    "duplicates",
    "error",
    ["error", "first", "last"],
    "merge: which of two images of one id counts.",
)
flags.DEFINE_bool("mixed", False, "merge: whether features may have been made in different ways.")
flags.DEFINE_string(
    "images",
    None,
    "sample: the image files, as for launch.extract; if not given where the store says that they "
    "were.",
)
flags.DEFINE_string("run", None, "sample: compare embeddings of this run's model.")
flags.DEFINE_string("export", None, "sample: compare embeddings of this SavedModel.")
flags.DEFINE_string("dataset", None, "convert: data set whose image store the result is to be.")
flags.DEFINE_bool(
    "standardise",
    False,
    "convert: whether each feature gets mean 0 and variance 1 over the images that training shows.",
)
flags.DEFINE_integer(
    "pca", 0, "convert: store so many principal components instead; 0: the features.", lower_bound=0
)
flags.DEFINE_bool("whiten", False, "convert: whether each component of --pca gets variance 1.")
flags.DEFINE_string(
    "store",
    None,
    "convert: name of the store in the data set, if not images; sample: of the model's, if it has "
    "several.",
)
flags.DEFINE_list("queries", None, "sample: ids of the images to show, if not random ones.")
flags.DEFINE_integer("rows", 8, "sample: images to show, with neighbours.", lower_bound=1)
flags.DEFINE_integer("neighbours", 7, "sample: neighbours of each.", lower_bound=1)
flags.DEFINE_integer(
    "among",
    100_000,
    "sample: random images of the store that are compared, at most.",
    lower_bound=1,
)
flags.DEFINE_integer("tile", 128, "sample: pixels of a picture's side.", lower_bound=16)
flags.DEFINE_integer("seed", 0, "sample: of what is random.")


def main(arguments: list[str]) -> int | None:
    """Does what the arguments ask for."""
    if not arguments or arguments[0] not in COMMANDS:
        got = arguments[0] if arguments else "nothing"
        raise ConfigError(
            f"say what to do: {', '.join(COMMANDS)}; got {got}. "
            f"For example: {program.command_name()} info images.h5"
        )
    command, paths = arguments[0], arguments[1:]
    if not paths or (len(paths) > 1 and command != "merge"):
        many = "at least one store" if command == "merge" else "one store (or a pattern in quotes)"
        raise ConfigError(f"{command} takes {many}, got {len(paths)}")
    if command in ("merge", "split", "convert", "sample") and not FLAGS.out:
        raise ConfigError(f"{command} needs --out")
    from amstf.store import ImageStore

    stores = [ImageStore.open(path) for path in paths]
    if command == "convert" and (FLAGS.standardise or FLAGS.pca or FLAGS.whiten):
        _map(stores[0])
    elif command in ("merge", "split", "convert"):
        _rewrite(command, stores)
    else:
        {"info": _info, "verify": _verify, "sample": _sample}[command](paths[0], stores[0])
    return None


def _info(path, store) -> None:  # type: ignore[no-untyped-def]
    from launch.stores.description import describe

    print(f"{path}\n{describe(store)}")


def _verify(path, store) -> None:  # type: ignore[no-untyped-def]
    from launch.stores.soundness import verify

    with _bar("verifying", len(store)) as bar:
        found = verify(store, bar.update)
    print(f"{path}: {'NOT sound' if found.faults else 'sound'}\n{found}")
    if found.faults:
        raise StoreError(f"{path} is not sound: {found.faults[0]}")


def _rewrite(command, stores) -> None:  # type: ignore[no-untyped-def]
    from launch.stores.rewriting import Rewriting, rewrite

    if command == "split" and FLAGS.num_files == 1 and not FLAGS.ids:
        raise ConfigError("split needs --num_files=N, or --ids=FILE for a part of the images")
    wanted = Rewriting(
        out=pathlib.Path(FLAGS.out),
        dtype=FLAGS.dtype,
        num_files=FLAGS.num_files,
        ids=_read_ids(FLAGS.ids) if FLAGS.ids else None,
        duplicates=FLAGS.duplicates,
        overwrite=FLAGS.overwrite,
        mixed=FLAGS.mixed,
    )
    with _bar("copying", sum(len(store) for store in stores)) as bar:
        written, loss = rewrite(stores, wanted, bar.update)
    size = sum(file.bytes for file in written.files)
    name = FLAGS.out if len(written.files) == 1 else f"{len(written.files)} files of {FLAGS.out}"
    print(
        f"{name}: {len(written):,} images of {written.width:,} features, {written.dtype}, "
        f"{size / 1e6:,.1f} MB (from {sum(f.bytes for s in stores for f in s.files) / 1e6:,.1f} MB)"
    )
    if any(store.dtype != written.dtype for store in stores):
        print(f"  rounding to {written.dtype}: {loss}")

    if command == "convert" and FLAGS.dataset:
        _register(written)


def _map(store) -> None:  # type: ignore[no-untyped-def]
    if not FLAGS.dataset:
        raise ConfigError(
            "--standardise and --pca are fitted on what training shows: name a data set with "
            "--dataset"
        )
    from amstf.data import Samples
    from amstf.store import ImageStore
    from launch.datasets import feature_map

    out = pathlib.Path(FLAGS.out)
    if out.exists() and not FLAGS.overwrite:
        raise StoreError(f"{out} exists; choose another --out, or replace it with --overwrite")
    if feature_map.MAP in store.attributes:
        raise ConfigError(f"{store.paths[0]} holds mapped features already; give the raw ones")
    feature_map.apply_to_store(
        Samples.open(FLAGS.dataset),
        FLAGS.store or "images",
        store,
        out,
        standardise=FLAGS.standardise,
        pca=FLAGS.pca,
        whiten=FLAGS.whiten,
        dtype=FLAGS.dtype,
    )
    written = ImageStore.open(out)
    made = written.attributes
    print(
        f"{FLAGS.out}: {len(written):,} images of {written.width:,} features, {written.dtype}; "
        f"{made['explained_variance']:.0%} of the variance of {made['raw_width']:,}, fitted on "
        f"{made['fitted_on']}"
    )
    _register(written)


def _register(written) -> None:  # type: ignore[no-untyped-def]
    from launch.stores.registering import use_in_dataset

    use_in_dataset(written.paths[0], FLAGS.dataset, FLAGS.store or "images")
    print(f"  next: python -m launch.train --dataset={FLAGS.dataset} --model=dicm --out=RUN")


def _sample(path, store) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    from launch.extraction.image_list import list_images
    from launch.stores.contact_sheet import contact_sheet
    from launch.stores.neighbours import nearest

    out = pathlib.Path(FLAGS.out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {FLAGS.out}; the sheet's name must end in .png")
    if out.exists() and not FLAGS.overwrite:
        raise ConfigError(f"{out} exists; choose another --out, or replace it with --overwrite")
    if FLAGS.run and FLAGS.export:
        raise ConfigError("--run and --export both name a model; give one")
    images = FLAGS.images or store.attributes.get("images")
    if not images:
        raise ConfigError("the store does not say where its images are; give --images")
    path_of = list_images(str(images)).path_of()
    if not len(store):
        raise StoreError(f"{path} holds no image to show")
    rng = np.random.default_rng(FLAGS.seed)
    among = store.ids
    if len(among) > FLAGS.among:
        among = np.sort(rng.choice(among, FLAGS.among, replace=False))
    queries = _queries(store, rng)
    embed, by = None, "raw features"
    if FLAGS.run or FLAGS.export:
        from launch.stores.embedding import embedding_of

        embed = embedding_of(FLAGS.run, FLAGS.export, FLAGS.store, store.width)
        by = f"embeddings of {FLAGS.run or FLAGS.export}"
    with _bar("comparing", len(among)) as bar:
        rows = nearest(
            store, queries, FLAGS.neighbours, embed=embed, among=among, progress=bar.update
        )
    made = store.attributes
    backbone = made.get("backbone", "unknown backbone")
    layer = made.get("layer", "") + ", random weights" * bool(made.get("weights_are_random"))
    sheet = contact_sheet(
        rows,
        path_of,
        title=f"{pathlib.Path(path).name}: nearest images by {by}",
        subtitle=f"{backbone} {layer}, {store.width:,} features; cosine similarity among "
        f"{len(among):,} images; the image itself in blue on the left",
        size=FLAGS.tile,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    print(f"{out}: {len(rows)} images with {FLAGS.neighbours} neighbours each, by {by}")


def _queries(store, rng):  # type: ignore[no-untyped-def]
    import numpy as np

    if not FLAGS.queries:
        return rng.choice(store.ids, min(FLAGS.rows, len(store)), replace=False)
    if not all(text.isdecimal() and len(text) < 19 for text in FLAGS.queries):
        raise ConfigError(f"--queries: got {','.join(FLAGS.queries)}, wanted ids such as 3,17")
    queries = np.array([int(text) for text in FLAGS.queries], np.int64)
    if len(missing := store.missing(queries)):
        raise ConfigError(f"--queries: the store has no image {missing[0]}")
    return queries


def _read_ids(path: str):  # type: ignore[no-untyped-def]
    import numpy as np

    from amstf import files

    ids = []
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        if not line.strip().isdecimal() or len(line.strip()) > 18:
            raise ConfigError(f"{path}, line {number}: got {line!r}, wanted an image id")
        ids.append(int(line))
    return np.unique(np.array(ids, np.int64))


def _bar(what: str, total: int):  # type: ignore[no-untyped-def]
    from tqdm import tqdm

    # disable=None: silent where nobody watches.
    return tqdm(total=total, desc=what, unit="image", disable=None, leave=False, file=sys.stderr)


if __name__ == "__main__":
    program.run(main, argument_names=["COMMAND", "STORE..."])
