"""Extracts raw features from image files: the fixed part of the image model, into a store.

    python -m launch.extract --images=PICTURES --out=images.h5
    python -m launch.extract --images=list.csv --out=images.h5 --backbone=resnet50:avg_pool
    python -m launch.extract --images='PICTURES/*.jpg' --out=images.h5 --backbone=my_model.keras

Reads JPEG, PNG, WebP, GIF and BMP of every kind (CMYK, 16 bits, greyscale, with alpha, animated),
and runs them through a backbone: VGG16 up to its first fully connected layer unless you say
otherwise. A file that cannot be read is left out and listed beside the store, in images.broken.csv
(with --broken=fail it ends the run).

The same command goes on where a killed run stopped, and adds what is new when there are more images
(an id that the store has is not looked at again). --weights=random needs no file: features of an
untrained network, for trials; the store says so.
"""

import math
import os
import pathlib
import sys

from absl import flags

from amstf import files
from amstf.errors import ConfigError
from launch import program
from launch.extraction.decoding import DECODER, FITS

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "images",
    None,
    "A directory of images, a pattern in quotes, or a CSV file with the columns id,path. Without "
    "CSV the id is the number that a file's name ends with.",
    required=True,
)
flags.DEFINE_string("out", None, "The store to make or to add to, ending in .h5.", required=True)
flags.DEFINE_string(
    "backbone",
    "vgg16:fc1",
    "Application of Keras and its layer (without one: what the classifier gets); or path of a "
    "SavedModel or Keras file, with :LAYER if it is not the last one.",
)
flags.DEFINE_string(
    "weights",
    None,
    "Weights of the application: a file, a directory with the file under Keras' name, or `random` "
    "for trials; if not given Keras' own copy in ~/.keras/models, or its download.",
)
flags.DEFINE_list(
    "backbone_arguments", None, "Further arguments of the application, e.g. alpha=0.25."
)
flags.DEFINE_integer(
    "image_size", None, "Height and width of its input, if not the backbone's own.", lower_bound=1
)
flags.DEFINE_enum(
    "fit",
    "stretch",
    FITS,
    "How a picture becomes a square: stretched, cut on its longer side, or with white added.",
)
flags.DEFINE_enum(
    "pooling",
    "average",
    ["average", "max", "flatten"],
    "How the output of a layer [height, width, channels] becomes one vector.",
)
flags.DEFINE_enum(
    "preprocessing",
    None,
    ["none", "unit", "tf", "torch", "caffe"],
    "Pixels 0 to 255 as they are; divided by 255; or as Keras has it for its models. If not given "
    "the application's own, and none for files.",
)
flags.DEFINE_enum(
    "dtype",
    "float16",
    ["float16", "float32", "uint8"],
    "Stored type; uint8 has a scale for each image and takes a quarter of float32.",
)
flags.DEFINE_enum("broken", "skip", ["skip", "fail"], "What a file that cannot be read does.")
flags.DEFINE_bool("overwrite", False, "Whether to make a store that is there anew.")
flags.DEFINE_string("dataset", None, "Data set whose image store this is to be, once it is made.")
flags.DEFINE_string("store", "images", "Name of the store in the data set, with --dataset.")
flags.DEFINE_integer("batch_size", 32, "Images that the backbone gets at a time.", lower_bound=1)
flags.DEFINE_integer(
    "threads", None, "Images decoded at a time; if not given as many as cores.", lower_bound=1
)


def main(arguments: list[str]) -> int | None:
    """Extracts what the flags ask for and prints what came of it."""
    del arguments
    from launch.extraction.image_list import list_images

    files.refuse_remote(FLAGS.out, "--out", ConfigError)
    out = pathlib.Path(FLAGS.out).absolute()
    if out.suffix not in (".h5", ".hdf5"):
        raise ConfigError(f"--out is {FLAGS.out}; its name must end in .h5")
    if FLAGS.dataset:
        from amstf.data.manifest import Manifest

        Manifest.load(FLAGS.dataset)
    images = list_images(FLAGS.images)
    # TensorFlow takes seconds to import, and wrong paths should be answered at once.
    from launch.extraction.backbone import BackboneOptions, make_backbone
    from launch.extraction.extraction import Settings, extract

    backbone = make_backbone(
        BackboneOptions(
            name=FLAGS.backbone,
            weights=FLAGS.weights,
            image_size=FLAGS.image_size,
            arguments=_arguments(FLAGS.backbone_arguments or []),
            pooling=FLAGS.pooling,
            preprocessing=FLAGS.preprocessing,
        )
    )
    settings = Settings(
        out=out,
        dtype=FLAGS.dtype,
        fit=FLAGS.fit,
        stop_at_broken=FLAGS.broken == "fail",
        overwrite=FLAGS.overwrite,
        batch_size=FLAGS.batch_size,
        threads=FLAGS.threads or len(os.sched_getaffinity(0)),
        facts={
            "made_by": "launch.extract",
            "images": os.path.abspath(FLAGS.images),
            "decoder": DECODER,
        },
    )
    result = extract(images, backbone, settings, progress=_bar)
    if FLAGS.dataset:
        from launch.stores.registering import use_in_dataset

        use_in_dataset(out, FLAGS.dataset, FLAGS.store)
    print(result.summary(FLAGS.out))
    if FLAGS.dataset:
        print(f"  next: python -m launch.train --dataset={FLAGS.dataset} --model=dicm --out=RUN")
    else:
        print(f"  next: python -m launch.store sample {FLAGS.out} --out=sheet.png")
    return None


def _arguments(pairs: list[str]) -> dict[str, float | int | str]:
    """Reads name=value pairs; numbers become numbers."""
    arguments: dict[str, float | int | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--backbone_arguments: got {pair!r}, wanted such as alpha=0.25")
        try:
            number = float(text)
        except ValueError:
            arguments[name] = text
            continue
        if not math.isfinite(number):
            raise ConfigError(f"--backbone_arguments: {name} is {text}, wanted a finite number")
        arguments[name] = int(number) if text.lstrip("+-").isdecimal() else number
    return arguments


def _bar(total: int, done: int):  # type: ignore[no-untyped-def]
    from tqdm import tqdm

    # disable=None: silent where nobody watches.
    return tqdm(
        total=total, initial=done, desc="extracting", unit="image", disable=None, file=sys.stderr
    )


if __name__ == "__main__":
    program.run(main)
