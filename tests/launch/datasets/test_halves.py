"""Halves of the training split: together they are the whole, and the rest is in both."""

import tensorflow as tf

from launch.datasets import synthetic
from launch.datasets.halves import FIRST, SECOND

CONFIG = synthetic.SyntheticConfig(users=20, items=30, impressions=401, image_width=4)


def records(directory, split):
    paths = sorted(str(path) for path in directory.glob(f"{split}-*.tfrecord"))
    return [record.numpy() for record in tf.data.TFRecordDataset(paths)]


def test_halves_of_synthetic_data(tmp_path):
    counts = {
        half: synthetic.prepare(CONFIG, tmp_path / half, num_shards=1, train_half=half)
        for half in ("", FIRST, SECOND)
    }
    whole, first, second = (records(tmp_path / half, "train") for half in ("", FIRST, SECOND))
    assert counts[""]["train"] == 309 == len(whole)
    assert counts[FIRST]["train"] == 154 == len(first)
    assert first + second == whole
    for split in ("validation", "test"):
        assert records(tmp_path / FIRST, split) == records(tmp_path / "", split)
        assert records(tmp_path / SECOND, split) == records(tmp_path / "", split)
