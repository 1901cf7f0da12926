"""Scores samples with an export: click probabilities as CSV.

    python -m launch.score --export=EXPORT --samples=DATASET --split=test --out=scores.csv
    python -m launch.score --export=EXPORT --samples='DIR/test-*.tfrecord' --out=scores.csv

Needs the SavedModel and the samples, no model code, no image store. Samples are TFRecord files of
serialized tf.train.Examples, or of groups of samples (launch.prepare --group_by_user), read file by
file in the order of their names (of a data set: of its manifest). A line of the CSV is the number
of the sample, counted from 0 over all files, and its click probability (and the probabilities of
other labels, if the model predicts several). The CSV appears when all is scored and replaces one of
that name.
"""

import glob
import os
import pathlib
import sys
import time

from absl import flags

from amstf import files
from amstf.errors import ConfigError
from launch import program

FLAGS = flags.FLAGS

flags.DEFINE_string("export", None, "Directory of the SavedModel.", required=True)
flags.DEFINE_string("samples", None, "A data set, a TFRecord file or a pattern.", required=True)
flags.DEFINE_string("split", "test", "Split to score, if --samples is a data set.")
flags.DEFINE_string("out", None, "CSV file to write.", required=True)
flags.DEFINE_integer("batch_size", 1024, "Samples to score at a time.", lower_bound=1)


def main(arguments: list[str]) -> int | None:
    """Scores what the flags name and prints a short table."""
    del arguments
    paths = find_files(FLAGS.samples, FLAGS.split)
    out = pathlib.Path(FLAGS.out)
    if out.is_dir():
        raise ConfigError(f"--out={out} is a directory; name a CSV file")
    # TensorFlow takes seconds to import, and wrong paths should be answered at once.
    from launch.scoring import ScoreTable, load_scorer, score_file

    scorer, columns = load_scorer(FLAGS.export)
    table = ScoreTable()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    start = time.perf_counter()
    try:
        with open(partial, "w", encoding="ascii") as csv, _bar(paths) as bar:
            csv.write(",".join(["record", *columns]) + "\n")
            for file in paths:
                before = bar.n
                for scores, read in score_file(scorer, file, FLAGS.batch_size):
                    first = table.count
                    for k, row in enumerate(scores, first):
                        csv.write(",".join([str(k), *(f"{p:.9g}" for p in row)]) + "\n")
                    table.add(scores[:, 0])
                    bar.update(before + read - bar.n)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    print(f"{out}: {table.count:,} samples of {len(paths)} files scored in {seconds:.1f} s, "
          f"{table.count / seconds:,.0f} samples/s\n\n{table}")  # fmt: skip
    return None


def find_files(samples: str, split: str) -> list[str]:
    """Returns the sample files that --samples and --split mean.

    Args:
        samples: A data set directory, a file or a pattern; elsewhere (s3://) a data set.
        split: Split of a data set.

    Raises:
        ConfigError: If nothing is there.
        SampleError: If the data set is damaged or has no such split.
    """
    if files.is_remote(samples):
        from amstf.data import Samples

        return Samples.open(samples).files(split)
    if os.path.isdir(samples):
        from amstf.data.manifest import MANIFEST_FILE, Manifest

        if not os.path.exists(os.path.join(samples, MANIFEST_FILE)):
            raise ConfigError(
                f"--samples={samples} is a directory without {MANIFEST_FILE}, so no data set; "
                f"name its files: '{os.path.join(samples, '*.tfrecord')}'"
            )
        manifest = Manifest.load(samples)
        found = [os.path.join(samples, file.path) for file in manifest.files(split)]
        manifest.verify(samples)
        return found
    found = sorted(file for file in glob.glob(samples) if os.path.isfile(file))
    if not found:
        raise ConfigError(f"no file matches --samples={samples}; give a data set or TFRecord files")
    return found


def _bar(paths: list[str]):  # type: ignore[no-untyped-def]
    from tqdm import tqdm

    return tqdm(
        total=sum(files.size(file) for file in paths),
        desc="scoring",
        unit="B",
        unit_scale=True,
        disable=None,  # Silent where nobody watches.
        leave=False,
        file=sys.stderr,
    )


if __name__ == "__main__":
    program.run(main)
