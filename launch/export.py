"""Exports a trained model as a SavedModel that any TensorFlow loads and TF Serving serves.

    python -m launch.export --run=RUN --out=EXPORT

Writes stock TensorFlow ops only: the image embeddings of the store become a table in the model, the
images themselves are not needed any more. Then checks itself: a fresh process without this
project's code scores samples of the data set, which must agree with the model to 1e-5. The
directory appears when all is done; a run that fails or is stopped leaves nothing under --out.

Signatures:
  serving_default  the fields of a sample by name (lists padded with -1) -> click_probability
  serve_examples   serialized tf.train.Examples as `examples` -> click_probability
  embed_images     raw `features` of images that are not in the table -> embeddings
Of several labels each has an output, LABEL_probability. A prerank model has its towers too:
  user_embedding   the fields of user and context -> user_embedding
  ad_embedding     the fields of the ad -> ad_embedding
  score_ads        user_embedding [B, D], ad_embeddings [N, D] -> click_probability [B, N]
"""

import pathlib
import sys

from absl import flags

from amstf.errors import ExportError
from launch import program
from launch.new_directory import new_directory
from launch.run_directory import RunDirectory

FLAGS = flags.FLAGS
REQUEST_FILE = "assets.extra/predict_request.json"

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
        from amstf.export import SERVE_INPUTS, export
        from amstf.schema import Schema
        from launch.click_model import load_run
        from launch.export_check import check_export, first_records
        from launch.rest_request import write_rest_request

        samples = Samples.open(FLAGS.dataset) if FLAGS.dataset else None
        model, samples, _ = load_run(run, samples, FLAGS.checkpoint)
        schema = Schema.load(run.path)
        examples = first_records(samples, FLAGS.check_split, FLAGS.check_samples)
        description = export(model, schema, work, signatures=FLAGS.signatures, progress=_Progress())
        signatures = description["signatures"]
        differences = check_export(work, model, schema, examples, signatures)
        if examples and SERVE_INPUTS in signatures:
            write_rest_request(work / REQUEST_FILE, schema, examples[:2])
    print(summary(FLAGS.out, description, differences, len(examples), str(samples.directory)))
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
    lines += ["", *_hints(out, path, description["signatures"], dataset)]
    return "\n".join(lines)


def _hints(out: str, path: pathlib.Path, signatures: dict, dataset: str) -> list[str]:
    """Returns what to do with the export next."""
    lines = [
        "  serve:  docker run -p 8500:8500 -p 8501:8501 -e MODEL_NAME=click \\",
        f"            -v {path}:/models/click/1 tensorflow/serving",
    ]
    if "serve_examples" in signatures:
        score = f"  score:  python -m launch.score --export={out} --samples={dataset} \\"
        lines = [score, "            --out=scores.csv", *lines]
    if "serving_default" in signatures:
        lines += [
            "  ask:    REST  curl localhost:8501/v1/models/click:predict \\",
            f"                  -d @{path / REQUEST_FILE}",
        ]
    if "serve_examples" in signatures:
        lines += [
            "          gRPC  localhost:8500, PredictRequest with signature_name 'serve_examples'",
            "                and `examples`: serialized tf.train.Examples, as a data set holds",
        ]
    return lines


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
