"""launch.score: an export and TFRecord files become a CSV, or one line says why not."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from amstf.data import parse_batch
from amstf.errors import ConfigError, ExportError, SampleError
from amstf.export import export
from launch import scoring
from launch.score_journal import Position, ScoreJournal, fingerprint
from models import Dicm, EmbeddingMlp, build, image_tower
from tests.exports import ROOT, write_dataset, write_store
from tests.helpers import CLICK_SCHEMA


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.score", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("score") / "data", count=41)


@pytest.fixture(scope="module")
def model():
    return build(EmbeddingMlp(CLICK_SCHEMA, hidden=(6,)), CLICK_SCHEMA)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("score") / "model"
    export(model, CLICK_SCHEMA, path)
    return path


@pytest.fixture(scope="module")
def scorer(exported):
    score, columns = scoring.load_scorer(exported)
    assert columns == ["click_probability"]
    return score


def first_file(samples):
    return pathlib.Path(samples.files("test")[0]).read_bytes()


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_data_set_is_scored_in_the_order_of_its_files(exported, samples, model, tmp_path):
    out = tmp_path / "deep" / "scores.csv"
    done = run(f"--export={exported}", f"--samples={samples.directory}", f"--out={out}",
               "--batch_size=8")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: 41 samples of 2 files scored in ")
    assert "samples/s" in done.stdout
    header, values = done.stdout.splitlines()[2:4]
    assert header.split() == ["samples", "mean", "1%", "5%", "25%", "50%", "75%", "95%", "99%"]
    got = rows(out)
    assert [int(row["record"]) for row in got] == list(range(41))
    records = tf.data.TFRecordDataset(samples.files("test")).batch(100).get_single_element()
    want = model(parse_batch(records, CLICK_SCHEMA.inputs)).numpy()[:, 0]
    scores = np.array([float(row["click_probability"]) for row in got])
    np.testing.assert_allclose(scores, want, rtol=0, atol=1e-5)
    assert float(values.split()[1]) == pytest.approx(want.mean(), abs=1e-4)
    assert [p.name for p in out.parent.iterdir()] == ["scores.csv"]


def test_a_bad_file_is_named_and_no_csv_appears(exported, samples, tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(first_file(samples))
    (tmp_path / "b.tfrecord").write_text("user,item\n3,4\n" * 50)
    done = run(
        f"--export={exported}", f"--samples={tmp_path}/*.tfrecord", f"--out={tmp_path}/s.csv"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {tmp_path}/b.tfrecord is no TFRecord file, or its first records are damaged; copy "
        "or write it again\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tfrecord", "b.tfrecord"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": "nowhere/*.x"}, "error: no file matches --samples=nowhere/*.x; give a data"),
        ({"samples": "docs"}, "error: --samples=docs is a directory without manifest.json"),
        (
            {"split": "tomorrow"},
            "error: the data set has no split 'tomorrow'; its splits are: test",
        ),
        ({"export": "docs"}, "error: docs holds no SavedModel (saved_model.pb); python -m launch"),
        ({"out": "docs"}, "error: --out=docs is a directory; name a CSV or"),
        ({"batch_size": 0}, "error: flag --batch_size=0: 0 is not a positive integer"),
    ],
)
def test_wrong_input_is_one_line(exported, samples, tmp_path, changed, message):
    flags = {"export": exported, "samples": samples.directory, "out": tmp_path / "s.csv", **changed}
    done = run(*(f"--{name}={value}" for name, value in flags.items()))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message), done.stderr
    assert not list(tmp_path.iterdir())


def scores_of(scorer, path, batch_size=8):
    return [
        score
        for scores, *_ in scoring.score_file(scorer, str(path), batch_size)
        for score in scores
    ]


def test_a_file_that_is_cut_off_is_named(scorer, samples, tmp_path):
    whole = first_file(samples)
    *_, last = tf.data.TFRecordDataset(samples.files("test")[0]).as_numpy_iterator()
    begin = len(whole) - len(last) - 16
    # TensorFlow's reader is silent about a cut through the header of a record, 12 bytes.
    for cut, message in (
        (begin + 1, r"cut off: 20 whole records are [\d,]+ of its [\d,]+ bytes; copy or"),
        (begin + 11, "cut off: 20 whole records are"),
        (begin + 13, "damaged, behind record 19; copy or"),
        (len(whole) - 1, "damaged, behind record 19; copy or"),
    ):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(SampleError, match=f"cut is {message}"):
            scores_of(scorer, tmp_path / "cut", 1)
    (tmp_path / "flipped").write_bytes(whole[:-30] + b"?" + whole[-29:])
    with pytest.raises(SampleError, match=r"flipped is damaged, behind record \d+; copy or"):
        scores_of(scorer, tmp_path / "flipped", 1)
    (tmp_path / "empty").write_bytes(b"")
    assert scores_of(scorer, tmp_path / "empty") == []


def test_records_of_another_schema_are_named(scorer, tmp_path):
    path = tmp_path / "foreign"
    example = tf.train.Example()
    example.features.feature["user"].int64_list.value.append(3)
    for content in (example.SerializeToString(), b"no example"):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(content)
        with pytest.raises(
            SampleError, match="foreign: one of the records 0 to 0 is no sample"
        ) as e:
            scores_of(scorer, path)
        assert "{{" not in str(e.value) and "\n" not in str(e.value)


def test_scores_that_are_no_numbers_are_refused(samples):
    nan = lambda examples: tf.fill([len(examples), 1], np.nan)  # noqa: E731
    with pytest.raises(ExportError, match="the export gives nan for record 0; its weights"):
        scores_of(nan, samples.files("test")[0])


def test_exports_of_other_making_are_refused(tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x})
    traced = module.double.get_concrete_function(tf.TensorSpec([None], tf.float32, "x"))
    for signatures, message in (
        (
            {"predict": traced},
            "no signature 'serving_default'; its signatures are: predict",
        ),
        ({"serve_examples": traced}, "'serve_examples' takes x and gives y; wanted one string"),
    ):
        tf.saved_model.save(module, str(tmp_path), signatures=signatures)
        with pytest.raises(ExportError, match=message):
            scoring.load_scorer(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(ExportError, match=r"cannot be loaded: .*; export the model again"):
        scoring.load_scorer(tmp_path)


def test_quantiles_are_those_of_numpy():
    scores = np.random.default_rng(0).beta(1, 9, size=5000).astype(np.float32)
    table = scoring.ScoreTable()
    for part in np.split(scores, 10):
        table.add(part)
    table.add(np.array([], np.float32))
    assert table.count == 5000 and table.mean == pytest.approx(scores.mean(), abs=1e-6)
    for share in scoring.QUANTILES:
        want = np.quantile(scores, share, method="inverted_cdf")
        assert table.quantile(share) == pytest.approx(want, abs=1e-5)
    assert str(scoring.ScoreTable()) == "  no samples"
    ends = scoring.ScoreTable()
    ends.add(np.array([0, 1], np.float32))
    assert ends.quantile(0.01) < 1e-4 and ends.quantile(0.99) > 0.9999


def parquet_rows(path):
    table = pq.read_table(path)
    assert table.schema.names == ["record", "click_probability"]
    return table["record"].to_numpy(), table["click_probability"].to_numpy()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Samples enough that a scoring in small batches takes seconds."""
    return write_dataset(tmp_path_factory.mktemp("score") / "many", count=4000)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_killed_scoring_goes_on_with_no_row_lost_or_doubled(
    exported, many, scorer, tmp_path, suffix
):
    out = tmp_path / f"scores.{suffix}"
    flags = [f"--export={exported}", f"--samples={many.directory}", f"--out={out}",
             "--batch_size=1"]  # fmt: skip
    # As launch.score, with an entry of the journal for each batch.
    code = (
        "from launch import program, score, score_journal as j; j._SECONDS = 0; "
        "program.run(score.main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    journal = tmp_path / f".scores.{suffix}.journal"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        # In the second file, so that both kinds of places are gone on from.
        if journal.exists() and json.loads(journal.read_text())["position"]["rows"] > 2100:
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert not out.exists()
    kept = json.loads(journal.read_text())["position"]
    assert kept["file"] == 1 and 2000 < kept["rows"] < 4000
    done = run(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    behind = int(done.stdout.split()[4].replace(",", ""))
    assert behind >= kept["rows"] and done.stdout.startswith("going on behind the ")
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    if suffix == "csv":
        got = rows(out)
        numbers = [int(row["record"]) for row in got]
        scores = np.array([float(row["click_probability"]) for row in got])
    else:
        numbers, scores = parquet_rows(out)
    np.testing.assert_array_equal(numbers, np.arange(4000))
    want = np.concatenate([scores_of(scorer, path, 64) for path in many.files("test")])[:, 0]
    np.testing.assert_allclose(scores, want, rtol=0, atol=1e-6)


def journal_of(path, inputs="a"):
    return ScoreJournal(path, ["click_probability"], inputs)


def test_a_journal_counts_what_reached_the_disk_and_no_more(tmp_path):
    out = tmp_path / "scores.csv"
    with journal_of(out) as journal:
        journal.add(np.array([[0.1], [0.2]], np.float32), Position(0, 2, 60, 2))
        with pytest.raises(ConfigError, match=r"another process is writing --out=.*scores.csv"):
            journal_of(out)
    # Killed between the scores and their entry in the journal.
    with open(tmp_path / ".scores.csv.scores", "ab") as file:
        file.write(np.array([0.3, 0.4], np.float32).tobytes() + b"xy")
    # Killed while the journal was being written.
    (tmp_path / "..scores.csv.journal.k1lled00").write_bytes(b"{")
    with journal_of(out) as journal:
        assert not list(tmp_path.glob("..scores*"))
        assert journal.position == Position(0, 2, 60, 2)
        journal.add(np.array([[0.5]], np.float32), Position(0, 3, 90, 3))
        got = np.concatenate(list(journal.scores()))
    np.testing.assert_array_equal(got, np.array([[0.1], [0.2], [0.5]], np.float32))
    # Of other samples, or with scores that were lost, it begins again.
    with journal_of(out, "b") as journal:
        assert journal.position == Position() and list(journal.scores()) == []
        journal.add(np.array([[0.7]], np.float32), Position(0, 1, 30, 1))
    (tmp_path / ".scores.csv.scores").write_bytes(b"")
    with journal_of(out, "b") as journal:
        assert journal.position == Position()
        journal.remove()
    assert not list(tmp_path.iterdir())


def test_samples_or_an_export_that_changed_begin_again(exported, samples, tmp_path):
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    for path in paths:
        pathlib.Path(path).write_bytes(first_file(samples))
    before = fingerprint(str(exported), paths)
    assert fingerprint(str(exported), paths) == before
    assert fingerprint(str(exported), paths[::-1]) != before
    os.utime(paths[0], ns=(1, 1))
    assert fingerprint(str(exported), paths) != before


def test_an_export_with_its_table_beside_is_refused(samples, tmp_path):
    store = write_store(tmp_path / "images.h5")
    dicm = build(Dicm(CLICK_SCHEMA, store, image_tower((4, 3)), hidden=(6,)), CLICK_SCHEMA)
    export(dicm, CLICK_SCHEMA, tmp_path / "model", table="hdf5", signatures=["serving_default"])
    with pytest.raises(ExportError, match=r"embeddings beside it \(image_embeddings_images.h5\)"):
        scoring.load_scorer(tmp_path / "model")
