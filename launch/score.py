"""Scores samples with an export: click probabilities as CSV or Parquet.

    python -m launch.score --export=EXPORT --samples=DATASET --split=test --out=scores.csv
    python -m launch.score --export=EXPORT --samples='DIR/test-*.tfrecord' --out=scores.parquet

Needs the SavedModel and the samples, no model code, no image store. Samples are TFRecord files of
serialized tf.train.Examples, or of groups of samples (launch.prepare --group_by_user), read file by
file in the order of their names (of a data set: of its manifest). A row of the output is the number
of the sample, counted from 0 over all files, and its click probability (and the probabilities of
other labels, if the model predicts several). Memory does not grow with the number of samples.

A scoring that is killed or stopped goes on where it was when the same command is run again, with
no row lost or doubled (unless the export or the samples have changed: then it begins again). The
output appears when all is scored and replaces one of that name; until then there are hidden files
beside it, 4 bytes a score.
"""

from __future__ import annotations

import glob
import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING

from absl import flags

from amstf import files
from amstf.errors import AmstfError, ConfigError
from launch import program, score_output
from launch.score_journal import Position, ScoreJournal, fingerprint

if TYPE_CHECKING:
    from launch.scoring import Scorer

FLAGS = flags.FLAGS

flags.DEFINE_string("export", None, "Directory of the SavedModel.", required=True)
flags.DEFINE_string("samples", None, "A data set, a TFRecord file or a pattern.", required=True)
flags.DEFINE_string("split", "test", "Split to score, if --samples is a data set.")
flags.DEFINE_string("out", None, "File to write, .csv or .parquet.", required=True)
flags.DEFINE_enum(
    "format", "auto", ["auto", "csv", "parquet"], "Kind of the file; auto goes by its name."
)
flags.DEFINE_integer("batch_size", 1024, "Samples to score at a time.", lower_bound=1)


def main(arguments: list[str]) -> int | None:
    """Scores what the flags name and prints a short table."""
    del arguments
    paths = find_files(FLAGS.samples, FLAGS.split)
    out = pathlib.Path(FLAGS.out)
    if out.is_dir():
        raise ConfigError(f"--out={out} is a directory; name a CSV or Parquet file")
    kind = score_output.kind_of(out, FLAGS.format)
    score_output.check_can_write(kind)
    # TensorFlow takes seconds to import, and wrong paths should be answered at once.
    from launch.scoring import ScoreTable, load_scorer

    scorer, columns = load_scorer(FLAGS.export)
    table = ScoreTable()
    out.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with ScoreJournal(out, columns, fingerprint(FLAGS.export, paths)) as journal:
        before = journal.position.rows
        if before:
            print(f"going on behind the {before:,} samples that are scored already", flush=True)
        try:
            _score(scorer, paths, journal)
            partial = out.with_name(f".{out.name}.partial")
            with score_output.open_scores(partial, kind, columns) as write:
                for scores in journal.scores():
                    write(scores)
                    table.add(scores[:, 0])
            os.replace(partial, out)
            journal.remove()
        except AmstfError:
            journal.remove()  # It would fail there again.
            raise
        except KeyboardInterrupt:
            print(f"{journal.position.rows:,} samples are kept; run the same command to go on")
            raise
    seconds = time.perf_counter() - start
    print(f"{out}: {table.count:,} samples of {len(paths)} files scored in {seconds:.1f} s, "
          f"{(table.count - before) / seconds:,.0f} samples/s\n\n{table}")  # fmt: skip
    return None


def _score(scorer: Scorer, paths: list[str], journal: ScoreJournal) -> None:
    """Scores what the journal does not have yet."""
    from launch.scoring import score_file

    begin = journal.position
    with _bar(paths) as bar:
        for index, path in enumerate(paths):
            before = bar.n
            if index < begin.file:
                bar.update(files.size(path))
                continue
            here = begin if index == begin.file else Position(index)
            bar.update(here.bytes)
            for scores, records, read in score_file(
                scorer, path, FLAGS.batch_size, here.records, here.bytes
            ):
                rows = journal.position.rows + len(scores)
                journal.add(scores, Position(index, records, read, rows))
                bar.update(before + read - bar.n)


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
