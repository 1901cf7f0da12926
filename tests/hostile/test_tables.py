"""Fuzz of tables in CSV and Parquet: a good data set or one clear line."""

import shutil

import pytest
from hypothesis import example, given

from amstf.data import Samples
from launch.datasets import click_log, table
from launch.datasets.click_log import ClickLogConfig
from tests.hostile.strategies import broken_bytes, examples, good_or_refused
from tests.launch.datasets.test_table import a_table, write_csv, write_parquet


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_files_of_tables(write, tmp_path):
    path = tmp_path / ("a.csv" if write is write_csv else "a.parquet")
    write(path, a_table(30))
    content, out = path.read_bytes(), tmp_path / "out"
    config = table.TableConfig(
        fields=table.parse_fields(["user", "tags:ids", "price:number", "item"]),
        labels=("click", "bought"),
        label_threshold=0.5,
        time="when",
    )

    def prepare():
        log = table.table_log(config, [str(path)], False)
        settings = ClickLogConfig(min_count=1)
        return click_log.prepare(log, settings, [str(path)], out, num_shards=1)

    @examples(60)
    @given(broken_bytes(content))
    @example(b"")
    def check(changed):
        path.write_bytes(changed)
        shutil.rmtree(out, ignore_errors=True)
        counts = good_or_refused(prepare, str(path), "of ")
        if counts is not None:
            samples = Samples.open(out)
            assert counts == {s: samples.num_impressions(s) for s in samples.splits}

    check()
