"""Exports a trained model as a SavedModel that any TensorFlow loads and TF Serving serves.

    python -m launch.export --run=RUN --out=EXPORT

Writes stock TensorFlow ops only: the image embeddings of the store become a table in the model, the
images themselves are not needed any more; dynamic tables become static hash tables with the rows as
they are now. Then checks itself: a fresh process without this project's code scores samples of the
data set, which must agree with the model to 1e-5 (5e-3 with a float16 table). The directory appears
when all is done; a run that fails or is stopped leaves nothing under --out.

Signatures:
  serving_default  serialized tf.train.Examples as `examples` -> click_probability
  predict          the fields of a sample by name (lists padded with -1) -> click_probability
  score_ads        the fields of one user, those of N ads -> click_probability [N, 1]
  embed_images     raw `features` of images that are not in the table -> embeddings
Of several labels each has an output, LABEL_probability. A prerank model has its towers too:
  user_embedding   the fields of user and context -> user_embedding
  ad_embedding     the fields of the ad -> ad_embedding
  score_ads        user_embedding [B, D], ad_embeddings [N, D] -> click_probability [B, N]

With --table=parquet or hdf5 the embeddings are a file beside the model, for a key-value store of
the ranking server; requests then bring them along, as FIELD_embedding. A model card (model_card.md
and .json in assets.extra) says what the model is, how good, and has checksums of all files.

    python -m launch.export --run=RUN --out=NEW --since=OLD

also writes NEW/assets.extra/delta.h5: what changed since the export OLD was made. Another process
that has OLD loaded follows with `amstf.delta.apply_delta(loaded, path)`.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from amstf.errors import ExportError
from launch import program
from launch.new_directory import new_directory
from launch.run_directory import RunDirectory

if TYPE_CHECKING:
    from amstf.delta import DeltaSummary

FLAGS = flags.FLAGS
REQUEST_FILE = "assets.extra/predict_request.json"
DELTA_FILE = "assets.extra/delta.h5"

flags.DEFINE_string("run", None, "Directory of the training run.", required=True)
flags.DEFINE_string("out", None, "Directory of the SavedModel to make.", required=True)
flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which weights: best by validation AUC, or the last."
)
flags.DEFINE_string("dataset", None, "Data set, if it is not where the run was trained on it.")
flags.DEFINE_list(
    "signatures",
    None,
    "Signatures to write, all by default. What they do not read stays out: with "
    "--signatures=ad_embedding the SavedModel is the ad's tower alone.",
)
flags.DEFINE_enum(
    "table",
    "inside",
    ["inside", "parquet", "hdf5"],
    "Where the embeddings of the store's images are: in the model, or in a file beside it.",
)
flags.DEFINE_enum(
    "table_dtype",
    "float32",
    ["float32", "float16"],
    "Type of their floats. float16 halves the table and moves predictions a little; the check "
    "says how much.",
)
flags.DEFINE_string(
    "since", None, "An earlier export of the model: also write what changed since, as a delta."
)
flags.DEFINE_bool("overwrite", False, "Whether to replace an export that is there.")
flags.DEFINE_string("check_split", "test", "Split whose samples the check scores.")
flags.DEFINE_integer("check_samples", 1024, "Samples that the check scores.", lower_bound=1)


def main(arguments: list[str]) -> int | None:
    """Exports the run that the flags name, checks the export and prints what it holds."""
    del arguments
    run = RunDirectory(FLAGS.run)
    run.read_config()
    with new_directory(
        FLAGS.out,
        what="a SavedModel",
        marker="saved_model.pb",
        overwrite=FLAGS.overwrite,
        error=ExportError,
    ) as work:
        # TensorFlow takes seconds to import, and wrong paths should be answered at once.
        from amstf.data import Samples
        from amstf.delta import write_delta
        from amstf.export import export, read_description
        from amstf.schema import Schema
        from amstf.signatures import PREDICT
        from launch.click_model import load_run
        from launch.export_check import TOLERANCE, check_export, first_records, request_batch
        from launch.model_card import write_model_card
        from launch.rest_request import write_rest_request

        if FLAGS.since:
            read_description(FLAGS.since)
        samples = Samples.open(FLAGS.dataset) if FLAGS.dataset else None
        model, samples, _ = load_run(run, samples, FLAGS.checkpoint)
        schema = Schema.load(run.path)
        examples = first_records(samples, FLAGS.check_split, FLAGS.check_samples)
        description = export(
            model,
            schema,
            work,
            signatures=FLAGS.signatures,
            table=FLAGS.table,
            table_dtype=FLAGS.table_dtype,
            progress=_Progress(),
        )
        beside = None if FLAGS.table == "inside" else FLAGS.table_dtype
        differences = check_export(
            work,
            model,
            schema,
            examples,
            description["signatures"],
            beside=beside,
            tolerance=TOLERANCE[FLAGS.table_dtype],
        )
        if examples and PREDICT in description["signatures"]:
            batch = request_batch(model, schema, examples[:2], beside)
            write_rest_request(work / REQUEST_FILE, schema, batch)
        delta = write_delta(FLAGS.since, work, work / DELTA_FILE) if FLAGS.since else None
        write_model_card(work, run, FLAGS.checkpoint, samples, description, differences)
    print(summary(FLAGS.out, description, differences, len(examples), str(samples.directory)))
    if delta is not None:
        print(_describe_delta(delta))
    return None


def summary(
    out: str, description: dict, differences: dict[str, float], checked: int, dataset: str
) -> str:
    """Returns a short description of an export, for people."""
    path = pathlib.Path(out).absolute()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    lines = [f"{out}: SavedModel of stock TensorFlow ops, {size / 1e6:,.1f} MB", ""]
    wide = max(18, *(len(name) + 2 for name in description["signatures"]))
    lines.append(f"  {'signature':<{wide}}{'inputs':<42}output")
    for name, signature in description["signatures"].items():
        inputs = ", ".join(signature["inputs"])
        inputs = inputs if len(inputs) <= 40 else f"{len(signature['inputs'])} fields by name"
        lines.append(f"  {name:<{wide}}{inputs:<42}{', '.join(signature['outputs'])}")
    lines.append("")
    for store, images in description["images"].items():
        lines.append(
            f"  {store}: {images['images']:,} images as embeddings of {images['embedding_width']} "
            f"(raw: {images['features']} features each, not inside)"
        )
        if "file" in images:
            lines.append(
                f"    in {path / 'assets.extra' / images['file']}, {images['dtype']}; requests "
                "bring them along"
            )
    for name, table in description["dynamic_tables"].items():
        lines.append(
            f"  {name}: {table['rows']:,} ids without a vocabulary, each with a row of "
            f"{table['width']}; others are unknown"
        )
    if not description["images"]:
        lines.append("  no images: this model sees ids only")
    if differences:
        lines.append(
            f"  checked in a fresh process: {checked:,} samples, greatest difference from the "
            f"model {max(differences.values()):.1e}"
        )
    elif checked:
        lines.append("  NOT checked: no signature takes what samples hold")
    else:
        lines.append(f"  NOT checked: split {FLAGS.check_split!r} has no samples")
    lines += ["", *_hints(out, path, description, dataset)]
    return "\n".join(lines)


def _hints(out: str, path: pathlib.Path, description: dict, dataset: str) -> list[str]:
    """Returns what to do with the export next."""
    signatures = description["signatures"]
    beside = any("file" in images for images in description["images"].values())
    lines = [
        "  serve:  docker run -p 8500:8500 -p 8501:8501 -e MODEL_NAME=click \\",
        f"            -v {path}:/models/click/1 tensorflow/serving",
    ]
    if "serving_default" in signatures and not beside:
        score = f"  score:  python -m launch.score --export={out} --samples={dataset} \\"
        lines = [score, "            --out=scores.csv", *lines]
    if "predict" in signatures:
        lines += [
            "  ask:    REST  curl localhost:8501/v1/models/click:predict \\",
            f"                  -d @{path / REQUEST_FILE}",
        ]
    if "serving_default" in signatures:
        lines += [
            "          gRPC  localhost:8500, PredictRequest with signature_name 'serving_default'",
            "                and `examples`: serialized tf.train.Examples, as a data set holds",
        ]
    return lines


def _describe_delta(delta: DeltaSummary) -> str:
    """Returns what changed since the earlier export, for people."""
    rows = sum(delta.rows.values())
    dynamic = (
        f"    of dynamic tables {delta.ids_changed:,} rows are new or changed, "
        f"{delta.ids_removed:,} are gone\n"
    )
    return (
        f"\n  since {FLAGS.since}: {rows:,} rows of {len(delta.rows)} variables changed, "
        f"{delta.images_changed:,} images are new or have another embedding, "
        f"{delta.images_removed:,} are gone\n"
        f"{dynamic if delta.ids_changed or delta.ids_removed else ''}"
        f"    {pathlib.Path(FLAGS.out).absolute() / DELTA_FILE}, {delta.bytes / 1e6:,.1f} MB"
    )


class _Progress:
    """Says on a terminal how far the embedding of the images is."""

    def __init__(self) -> None:
        self._bar = None

    def __call__(self, store: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            # disable=None: silent where nobody watches.
            self._bar = tqdm(
                total=total, desc=f"embedding {store}", unit="image", disable=None, file=sys.stderr
            )
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None


if __name__ == "__main__":
    program.run(main)
