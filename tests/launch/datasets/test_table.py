"""Tables in CSV and Parquet: what columns become, and what is said about broken ones."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from amstf.data import Samples
from amstf.errors import ConfigError, SampleError
from amstf.store import ImageStore, ImageStoreWriter
from launch.datasets import click_log, log_files, table
from launch.datasets.click_log import ClickLogConfig
from launch.datasets.columns import hash_ids
from launch.datasets.table import TableConfig, parse_fields
from tests.helpers import read_samples

ROWS = 60
FIELDS = (
    "user:id:user", "tags:ids:user", "seen:images", "item:id:ad", "picture:image", "price:number:ad"
)  # fmt: skip


def a_table(rows=ROWS):
    """`price` numbers the rows, `user` changes every third, `tags` and `seen` are lists."""
    numbers = range(rows)
    return pa.table(
        {
            "user": [f'u"{k // 3}, x' for k in numbers],
            "tags": [["a", "b", "a"][: k % 4] for k in numbers],
            "seen": [[7, 9][: k % 3] for k in numbers],
            "item": [100 + k % 5 for k in numbers],
            "picture": [7 if k % 2 else None for k in numbers],
            "price": [None if k == 5 else float(k) for k in numbers],
            "click": [k % 2 == 0 for k in numbers],
            "bought": [0.1 * (k % 10) for k in numbers],
            "when": [f"2024-01-01 00:{(7 * k) % rows:02d}:00" for k in numbers],
        }
    )


def write_csv(path, made):
    columns = {}
    for name in made.schema.names:
        column = made[name]
        if pa.types.is_list(column.type):
            column = pa.array([" ".join(map(str, row)) for row in column.to_pylist()])
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        columns[name] = column
    pyarrow.csv.write_csv(pa.table(columns), str(path))
    return str(path)


def write_parquet(path, made):
    pyarrow.parquet.write_table(made, path, row_group_size=7)
    return str(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.h5"
    with ImageStoreWriter(path, width=2) as writer:
        writer.write([7, 8], np.eye(2))
    return ImageStore.open(path)


def prepared(sources, directory, config=None, store=None, group_size=None, **changes):
    config = config or TableConfig(
        fields=parse_fields(FIELDS), labels=("click", "bought"), label_threshold=0.45, item="item"
    )
    settings = ClickLogConfig(**{"min_count": 1, "numbers": "plain", **changes})
    log = table.table_log(config, sources, store is not None)
    click_log.prepare(
        log, settings, sources, directory, num_shards=1, store=store, group_size=group_size
    )
    return Samples.open(directory)


def everything(samples):
    """Samples by the number of their row."""
    rows = [s for split in samples.splits for s in read_samples(samples.directory, split)]
    return {
        int(s["price"][0]): {k: v.tolist() if hasattr(v, "tolist") else v for k, v in s.items()}
        for s in rows
    }


def test_csv_and_parquet_are_one_log(tmp_path, store, monkeypatch):
    made = a_table()
    samples = prepared([write_parquet(tmp_path / "a.parquet", made)], tmp_path / "p", store=store)
    fields = {f.name: f for f in samples.schema.fields}
    assert [(n, f.kind, f.side, f.is_list) for n, f in fields.items()] == [
        ("price", "dense", "ad", False),
        ("user", "sparse", "user", False),
        ("item", "sparse", "ad", False),
        ("tags", "sparse", "user", True),
        ("picture", "image", "ad", False),
        ("seen", "image", "user", True),
        ("click", "label", "context", False),
        ("bought", "label", "context", False),
    ]
    described = json.loads((tmp_path / "p" / "columns.json").read_text())
    tags = described["tags"]["values"]
    assert sorted(tags) == ["a", "b"] and tags[0] == "a"
    rows = everything(samples)
    for k in set(range(1, ROWS)) - {5}:
        assert rows[k]["tags"] == [tags.index(t) for t in ["a", "b", "a"][: k % 4]]
        assert rows[k]["seen"] == [7, 9][: k % 3]
        assert rows[k]["picture"] == (7 if k % 2 else -1)
        assert rows[k]["click"] == [1 - k % 2] and rows[k]["bought"] == [float(k % 10 > 4)]
        item = described["item"]["values"].index(str(100 + k % 5))
        assert rows[k]["item"] == item
    assert samples.schema.item == "item"
    assert samples.image_store_path() == store.paths[0]
    assert samples.manifest.info["missing_images"] == {"count": 1, "among": 9}

    monkeypatch.setattr(log_files, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(log_files, "_BLOCK_ROWS", 11)
    text = write_csv(tmp_path / "first.csv", made.slice(0, 40))
    rest = tmp_path / "rest.csv.gz"
    write_csv(tmp_path / "r.csv", made.slice(40))
    rest.write_bytes(gzip.compress((tmp_path / "r.csv").read_bytes()))
    again = prepared([text, str(rest)], tmp_path / "c", store=store)
    assert again.schema == samples.schema and everything(again) == rows
    assert json.loads((tmp_path / "c" / "columns.json").read_text()) == described


def test_what_nobody_says_is_seen_from_the_types(tmp_path):
    made = a_table().drop_columns(["when"])
    log = table.table_log(TableConfig(), [write_parquet(tmp_path / "a.parquet", made)], False)
    assert set(log.values) == {"user", "item", "picture"}
    assert set(log.lists) == {"tags", "seen"} and set(log.numbers) == {"price", "bought"}
    log = table.table_log(TableConfig(group="user"), [write_csv(tmp_path / "a.csv", made)], False)
    # Text knows no lists, and `price` has whole numbers.
    assert set(log.values) == {"item", "tags", "seen", "picture", "price"}
    assert set(log.numbers) == {"bought"} and log.group == "user"


def test_groups_and_times_and_hashing(tmp_path):
    config = TableConfig(
        fields=parse_fields(["user:id:user", "tags:ids", "price:number"]), group="user", time="when"
    )
    source = write_csv(tmp_path / "a.csv", a_table())
    samples = prepared([source], tmp_path / "d", config, group_size=8, holdout="last", hash_size=50)
    counts = [samples.num_impressions(split) for split in ("train", "validation", "test")]
    assert counts == [48, 6, 6]
    assert samples.num_records("train") <= 20 and samples.is_grouped("train")
    late = {k for k in range(ROWS) if (7 * k) % ROWS >= 54}
    ungrouped = prepared([source], tmp_path / "u", config, holdout="last", hash_size=50)
    test = read_samples(ungrouped.directory, "test")
    assert {int(s["price"][0]) for s in test} == late
    by_row = everything(ungrouped)
    assert by_row[7]["group_key"] == b'u"2, x'
    assert by_row[7]["user"] == hash_ids(['u"2, x'], 50)[0]
    assert by_row[7]["tags"] == hash_ids(["a", "b", "a"], 50).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": "cheap"}, "row 4: column 'price' is 'cheap', wanted a number"),
        ({"click": "2"}, "row 4: column 'click' is '2', wanted 0 or 1"),
        ({"click": ""}, "row 4: column 'click' is nothing, wanted 0 or 1"),
        ({"picture": "x"}, "row 4: column 'picture' is 'x', wanted a whole number"),
        ({"picture": "-5"}, "row 4: .*field 'picture': got image id -5"),
        ({"seen": "7 y"}, "row 4: column 'seen' is 'y', wanted a whole number"),
        ({"when": "soon"}, "row 4: column 'when' is 'soon', wanted a number"),
        ({"when": ""}, "row 4: column 'when' is nothing, wanted a time"),
        ({"click": '0",'}, r"a.csv is no table \(.*; wanted Parquet, or text"),
    ],
)
def test_a_broken_row_is_named(tmp_path, store, change, message):
    names = ["click", "price", "picture", "seen", "when"]
    rows = [[str(k % 2), str(k), "7", "7 8", str(k)] for k in range(60)]
    rows[2] = [change.get(name, value) for name, value in zip(names, rows[2], strict=True)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(map(",".join, [names, *rows])))
    fields = parse_fields(["price:number", "picture:image", "seen:images"])
    config = TableConfig(fields=fields, time="when")
    with pytest.raises(SampleError, match=message) as caught:
        prepared([str(path)], tmp_path / "out", config, store, holdout="last")
    assert str(caught.value).startswith(str(path))
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"labels": ("buy",)}, "has no column 'buy'; its columns are user, tags"),
        ({"fields": {"usr": ("", "")}}, "has no column 'usr'"),
        ({"fields": {"click": ("", "")}}, "--fields: 'click' is a label, which no model may see"),
        ({"fields": {"picture": ("image", "")}}, "--fields=picture:image needs --images"),
        ({"labels": ()}, "a table needs at least one label"),
    ],
)
def test_wishes_that_a_table_does_not_have(tmp_path, config, message):
    source = write_parquet(tmp_path / "a.parquet", a_table(3))
    with pytest.raises(ConfigError, match=message):
        table.table_log(TableConfig(**config), [source], False)


def test_files_that_are_no_tables(tmp_path, store):
    source = write_parquet(tmp_path / "a.parquet", a_table(3))
    with pytest.raises(ConfigError, match="--images: no column is of images; say which"):
        table.table_log(TableConfig(), [source], True)
    typed = pa.table({"click": [1.0], "at": pa.array([0], pa.date32())})
    with pytest.raises(ConfigError, match=r"column 'at' is date32.*, of which no field is made"):
        table.table_log(TableConfig(), [write_parquet(tmp_path / "b.parquet", typed)], False)
    broken = tmp_path / "c.parquet"
    broken.write_bytes(b"PAR1 nothing")
    for sources, message in (
        ([str(broken)], r"c.parquet is no table \(.*; wanted Parquet"),
        ([], "no file is named; give --source"),
        ([str(tmp_path / "d.csv")], "d.csv is not a file"),
    ):
        with pytest.raises(SampleError, match=message):
            table.table_log(TableConfig(), sources, False)
    # The second file lacks what the first has.
    less = write_parquet(tmp_path / "e.parquet", a_table(3).drop_columns(["price"]))
    config = TableConfig(fields=parse_fields(["price"]))
    with pytest.raises(SampleError, match=r"e.parquet is no table \(.*no column 'price', but user"):
        prepared([source, less], tmp_path / "out", config)
    for field in ("", "a:b", "a:id:shop", "a:id:ad:x"):
        with pytest.raises(ConfigError, match="--fields: got"):
            parse_fields([field])
