"""Criteo's and Avazu's logs: ids, numbers, missing values, splits and folds, wrong files."""

import gzip
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import Samples
from amstf.errors import ConfigError, SampleError
from amstf.layers import DynamicEmbedding
from launch.datasets import click_log, log_files
from launch.datasets.avazu import AVAZU
from launch.datasets.click_log import ClickLogConfig
from launch.datasets.columns import hash_ids
from launch.datasets.criteo import CRITEO
from launch.datasets.number_columns import log_bucket_ids
from tests.helpers import read_samples

ROWS = 60


def criteo_rows():
    """I1 numbers the rows, I2 is missing in every third, C1 has two frequent values and others."""
    rows = []
    for k in range(ROWS):
        number = "" if k % 3 == 0 else str(k - 1)
        value = ["a", "b", f"rare{k}", ""][k % 4]
        rows.append([k % 5 == 0, k, number, *[""] * 11, value, *["x"] * 25])
    return [[str(int(v)) if isinstance(v, bool) else str(v) for v in row] for row in rows]


def write_criteo(path, rows=None, delimiter="\t"):
    text = "".join(delimiter.join(row) + "\n" for row in rows or criteo_rows())
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.write(text)
    return str(path)


@pytest.fixture
def source(tmp_path):
    return write_criteo(tmp_path / "train.txt")


def prepared(source, directory, log=CRITEO, **config):
    config = {"min_count": 2, "numbers": "plain", **config}
    sources = [source] if isinstance(source, str) else source
    click_log.prepare(log, ClickLogConfig(**config), sources, directory, num_shards=2)
    return {
        split: [{k: v.tolist() for k, v in row.items()} for row in read_samples(directory, split)]
        for split in Samples.open(directory).splits
    }


def numbered(rows):
    """The rows of the log, by I1."""
    return {int(np.ravel(row["I1"])[0]) for row in rows}


def test_values_get_ids_by_how_often_training_has_them(source, tmp_path):
    splits = prepared(source, tmp_path / "data", min_count=5)
    described = json.loads((tmp_path / "data" / "columns.json").read_text())
    trained = [["a", "b", "rare", ""][k % 4] for k in sorted(numbered(splits["train"]))]
    counts = {value: trained.count(value) for value in ("a", "b", "")}
    values = described["C1"]["values"]
    assert sorted(values) == ["", "a", "b"]
    assert [counts[v] for v in values] == sorted(counts.values(), reverse=True)
    field = Samples.open(tmp_path / "data").schema["C1"]
    assert (field.vocabulary_size, field.embedding_width) == (3, 12)
    for row in [row for split in splits.values() for row in split]:
        (k,) = numbered([row])
        value = ["a", "b", "rare", ""][k % 4]
        # A rare value, known or not, is the id past the vocabulary.
        assert np.ravel(row["C1"])[0] == (values.index(value) if value in values else 3)
        assert np.ravel(row["click"])[0] == (k % 5 == 0)
        # A missing number is zero, the log's own -1 and 0 are what they are.
        assert np.ravel(row["I2"])[0] == (0 if k % 3 == 0 else k - 1)


def test_numbers_become_floats_or_buckets(source, tmp_path):
    log = prepared(source, tmp_path / "log", numbers="log_standard")
    trained = np.array([np.ravel(row["I2"])[0] for row in log["train"]])
    is_known = np.array([k % 3 != 0 for row in log["train"] for k in numbered_by(row, log)])
    assert trained[is_known].mean() == pytest.approx(0, abs=1e-5)
    assert trained[is_known].std() == pytest.approx(1, abs=1e-5)
    assert not trained[~is_known].any()
    buckets = prepared(source, tmp_path / "buckets", numbers="buckets", buckets=4)
    schema = Samples.open(tmp_path / "buckets").schema
    assert schema["I2"].kind == "sparse" and schema["I2"].vocabulary_size <= 3 + 2
    sizes = np.bincount([row["I1"] for row in buckets["train"]])
    assert sizes[0] == 0 and sizes[1:].max() - sizes[1:].min() <= 2
    logs = prepared(source, tmp_path / "log_buckets", numbers="log_buckets")
    plain = prepared(source, tmp_path / "plain")
    for row, same in zip(logs["test"], plain["test"], strict=True):
        number = np.array([np.nan if int(same["I1"][0]) % 3 == 0 else same["I2"][0]])
        assert row["I2"] == log_bucket_ids(number)[0]


def numbered_by(row, log):
    """The number of a row whose I1 was made standard: I1 grows with it."""
    known = sorted(np.ravel(r["I1"])[0] for split in log.values() for r in split)
    return [known.index(np.ravel(row["I1"])[0])]


def test_hashing_counts_nothing_and_is_that_of_fields(source, tmp_path):
    splits = prepared(source, tmp_path / "data", hash_size=50)
    rows = [row for split in splits.values() for row in split]
    for row in rows:
        (k,) = numbered([row])
        value = ["a", "b", f"rare{k}", ""][k % 4]
        assert row["C1"] == hash_ids([value], 50)[0]
    assert json.loads((tmp_path / "data" / "columns.json").read_text())["C1"] == {"hash_size": 50}


def test_dynamic_values_have_an_id_each_as_strings_have_in_the_layer(source, tmp_path):
    splits = prepared(source, tmp_path / "data", dynamic=True)
    schema = Samples.open(tmp_path / "data").schema
    assert schema["C1"].dynamic and schema["I2"].kind == "dense"
    rows = [row for split in splits.values() for row in split]
    values = {k: ["a", "b", f"rare{k}", ""][k % 4] for k in range(ROWS)}
    ids = {values[k]: int(np.ravel(row["C1"])[0]) for row in rows for k in numbered([row])}
    assert len(set(ids.values())) == len(ids) == 3 + ROWS // 4
    # A model that takes raw values when it serves finds the same rows.
    layer = DynamicEmbedding(2)
    by_id = layer(tf.constant([ids["a"], ids["rare2"]], tf.int64), training=True)
    np.testing.assert_array_equal(layer(tf.constant(["a", "rare2"])), by_id)
    assert layer.table.counters()["rows"] == 2
    with pytest.raises(ConfigError, match="--dynamic with --hash_size=50: dynamic tables have a"):
        ClickLogConfig(dynamic=True, hash_size=50)


def test_folds_are_each_the_test_once(source, tmp_path):
    folds = [prepared(source, tmp_path / str(k), folds=3, fold=k) for k in range(3)]
    tests = [numbered(splits["test"]) for splits in folds]
    assert set.union(*tests) == set(range(ROWS)) and sum(map(len, tests)) == ROWS
    for splits in folds:
        parts = [numbered(rows) for rows in splits.values()]
        assert set.union(*parts) == set(range(ROWS)) and sum(map(len, parts)) == ROWS
        assert 0 < len(splits["validation"]) < len(splits["test"])
    again = prepared(source, tmp_path / "again", folds=3, fold=1)
    assert again == folds[1]
    other = prepared(source, tmp_path / "other", folds=3, fold=1, seed=2)
    assert numbered(other["test"]) != tests[1]


def test_the_last_rows_are_the_test(source, tmp_path):
    splits = prepared(source, tmp_path / "data", holdout="last")
    assert numbered(splits["train"]) == set(range(48))
    assert numbered(splits["validation"]) == set(range(48, 54))
    assert numbered(splits["test"]) == set(range(54, 60))


def test_several_files_gzip_and_commas_are_the_same_log(source, tmp_path):
    want = prepared(source, tmp_path / "want")
    rows = criteo_rows()
    parts = [
        write_criteo(tmp_path / "a.gz", rows[:20]),
        write_criteo(tmp_path / "b.csv", rows[20:], ","),
    ]
    assert prepared(parts, tmp_path / "parts") == want


def test_blocks_do_not_matter(source, tmp_path, monkeypatch):
    want = prepared(source, tmp_path / "want")
    monkeypatch.setattr(log_files, "_BLOCK_BYTES", 500)
    assert prepared(source, tmp_path / "small") == want


AVAZU_HEADER = ("id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
                "app_category,device_id,device_ip,device_model,device_type,device_conn_type,C14,"
                "C15,C16,C17,C18,C19,C20,C21")  # fmt: skip


def write_avazu(path, hours):
    rows = [f"{k},{k % 2},{hour},{','.join(['v'] * 21)}" for k, hour in enumerate(hours)]
    path.write_text("\n".join([AVAZU_HEADER, *rows]) + "\n")
    return str(path)


def test_avazu_has_hour_and_weekday(tmp_path):
    # A Tuesday, and the Sunday after.
    source = write_avazu(tmp_path / "train", ["14102100", "14102623"] * 30)
    splits = prepared(source, tmp_path / "data", AVAZU)
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 60
    got = {(int(np.ravel(r["click"])[0]), int(r["hour"]), int(r["weekday"])) for r in rows}
    assert got == {(0, 0, 1), (1, 23, 6)}
    schema = Samples.open(tmp_path / "data").schema
    assert schema["device_id"].side == "user" and schema["site_id"].side == "context"
    assert "id" not in schema and len(schema.inputs) == 23


@pytest.mark.parametrize(
    ("log", "text", "message"),
    [
        (CRITEO, "1\t2\n", r"is no Criteo log \(.*Expected 40 columns, got 2.*; wanted 40 columns"),
        (CRITEO, "\t".join(["2", *["1"] * 39]), "row 1: column 'click' is '2', wanted 0 or 1"),
        (CRITEO, "\t".join(["1", "x", *["1"] * 38]), "row 1: column 'I1' is 'x', wanted a number"),
        (CRITEO, "", r"is no Criteo log \(Empty CSV file\)"),
        (AVAZU, "a,b\n1,2\n", r"is no Avazu log \(.*'click'.*; wanted 24 columns"),
        (AVAZU, f"{AVAZU_HEADER}\n1,0,14139900{',v' * 21}\n", "row 2: column 'hour' is '14139900'"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(log, text, message, tmp_path):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(SampleError, match=message):
        prepared(str(path), tmp_path / "data", log)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(SampleError, match="nowhere is not a file; --source names the files"):
        prepared("nowhere", tmp_path / "data")
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"1\t2\n" * 100_000)[:-20])
    with pytest.raises(SampleError, match=r"cut\.gz is no Criteo log"):
        prepared(str(path), tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_count": 0}, "--min_count is 0; it must be at least 1"),
        ({"numbers": "sqrt"}, "--numbers is 'sqrt'; use plain, log"),
        ({"folds": 1}, "--folds is 1 with --holdout=random; folds are two or more"),
        ({"folds": 5, "holdout": "last"}, "--folds is 5 with --holdout=last"),
        ({"folds": 5, "fold": 5}, "--fold is 5 of --folds=5; folds count from 0"),
        ({"fold": 1}, "--fold is 1 of --folds=0"),
    ],
)
def test_wrong_configurations_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ClickLogConfig(**changes)


def shared(*names):
    root = pathlib.Path(__file__).parents[3].parent / "shared" / "data"
    paths = [pathlib.Path(os.environ.get("AMSTF_SHARED_DATA", root)) / name for name in names]
    if not all(path.exists() for path in paths):
        pytest.skip(f"{paths[0]} is absent; set AMSTF_SHARED_DATA to the real data sets")
    return [str(path) for path in paths]


@pytest.mark.shared_data
def test_the_sample_of_criteo(tmp_path):
    sources = shared(*(f"criteo/criteo_{name}.tsv" for name in ("train", "dev", "test")))
    counts = click_log.prepare(CRITEO, ClickLogConfig(min_count=5), sources, tmp_path / "data")
    assert sum(counts.values()) == 8000
    samples = Samples.open(tmp_path / "data")
    clicks = sum(
        float(batch["click"].numpy().sum())
        for split in samples.splits
        for batch in samples.dataset(split, 1000, fields=["click"], only_inputs=False)
    )
    assert clicks == pytest.approx(0.2160 * 8000, abs=1)


@pytest.mark.shared_data
def test_the_sample_of_avazu(tmp_path):
    sources = shared("avazu/avazu_train_10k.csv")
    counts = click_log.prepare(AVAZU, ClickLogConfig(min_count=1), sources, tmp_path / "data")
    assert sum(counts.values()) == 9999
    schema = Samples.open(tmp_path / "data").schema
    # Values of the whole file by its README; training has most of them.
    assert 200 < schema["C14"].vocabulary_size <= 271
