"""What is seen of a dataset: whether it shuffles. On a cluster: tests/models."""

import pytest
import tensorflow as tf

from amstf import Samples, SampleWriter
from amstf.strategy import check_evaluation_data
from amstf.strategy.evaluation_data import is_shuffled
from tests.amstf.data.conftest import SCHEMA, make_sample


def numbers():
    return tf.data.Dataset.range(20)


@pytest.mark.parametrize(
    "dataset",
    [
        numbers().shuffle(5),
        numbers().shuffle(5, seed=1, reshuffle_each_iteration=False).batch(2).prefetch(1),
        numbers().interleave(lambda k: tf.data.Dataset.range(k).shuffle(3)),
        tf.data.Dataset.zip((numbers(), numbers().shuffle(5).repeat())),
    ],
)
def test_a_dataset_that_shuffles_anywhere_is_known(dataset):
    assert is_shuffled(dataset)


def test_a_dataset_that_does_not_is_known_whatever_it_reads():
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), [5, 6, 7]), -1
    )
    generated = tf.data.Dataset.from_generator(lambda: iter(range(4)), tf.int64)
    for dataset in (numbers().batch(3), numbers().map(table.lookup), generated.repeat(2)):
        assert not is_shuffled(dataset)


def test_samples_shuffle_if_they_are_asked_to(tmp_path):
    with SampleWriter(tmp_path, SCHEMA, "train", num_shards=2) as writer:
        for k in range(20):
            writer.write(make_sample(k))
    samples = Samples.open(tmp_path)
    assert is_shuffled(samples.dataset("train", 4, shuffle=True))
    assert not is_shuffled(samples.dataset("train", 4))


def test_one_process_evaluates_anything():
    strategy = tf.distribute.get_strategy()
    check_evaluation_data(numbers().shuffle(5), strategy, 0, "validation_data")
