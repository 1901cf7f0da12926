import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf import SharedBatches
from amstf.errors import SampleError
from tests.amstf.data.conftest import write_samples

COUNT, BATCH = 23, 4


@pytest.fixture
def samples(tmp_path):
    return write_samples(tmp_path / "data", count=COUNT)


def users_of(batch):
    return batch[0]["user"].numpy().tolist()


def test_locally_each_pass_is_each_sample_once(samples):
    batches = SharedBatches(samples, "train", BATCH, seed=3, block_size=2)
    assert (batches.num_records, batches.steps_per_pass) == (COUNT, 6)
    read = list(map(users_of, batches.local().take(12)))
    for one_pass in (read[:6], read[6:]):
        assert sorted(itertools.chain.from_iterable(one_pass)) == list(range(COUNT))
        assert [len(batch) for batch in one_pass] == [4, 4, 4, 4, 4, 3]
    assert read[:6] != read[6:]


def test_what_is_named_and_what_is_read_locally_are_the_same(samples):
    batches = SharedBatches(samples, "train", BATCH, seed=3, block_size=2)
    local = list(map(users_of, batches.local().take(9)))
    named = [users_of(batches.read(*names)) for names in itertools.islice(iter(batches), 9)]
    assert named == local
    assert batches.position == 9


def test_it_goes_on_at_a_position(samples):
    whole = SharedBatches(samples, "train", BATCH, seed=3, block_size=2)
    wanted = list(map(users_of, whole.local().take(10)))
    rest = SharedBatches(samples, "train", BATCH, seed=3, block_size=2, position=7)
    assert list(map(users_of, rest.local().take(3))) == wanted[7:]
    # An iterator that was left goes on too.
    assert users_of(rest.read(*next(iter(rest)))) == wanted[7]
    assert users_of(rest.read(*next(iter(rest)))) == wanted[8]
    assert users_of(next(iter(rest.local()))) == wanted[9]


def test_samples_are_counted_over_passes(samples):
    batches = SharedBatches(samples, "train", BATCH)
    assert [batches.samples_before(k) for k in (0, 1, 5, 6, 7, 12)] == [0, 4, 20, 23, 27, 46]


def test_batches_are_those_of_a_dataset(samples):
    shared = SharedBatches(samples, "train", COUNT, shuffle=False, fields=["user", "topics"])
    inputs, label = next(iter(shared.local()))
    wanted, wanted_label = next(iter(samples.dataset("train", COUNT, fields=["user", "topics"])))
    order, wanted_order = np.argsort(inputs["user"]), np.argsort(wanted["user"])
    assert inputs.keys() == wanted.keys()
    for name in inputs:
        np.testing.assert_array_equal(
            inputs[name].numpy()[order], wanted[name].numpy()[wanted_order]
        )
    np.testing.assert_array_equal(label.numpy()[order], wanted_label.numpy()[wanted_order])
    spec = shared.element_spec
    assert spec[0]["topics"].shape.as_list() == [None, None] and spec[1].dtype == tf.float32


def test_fit_takes_it_locally(samples):
    batches = SharedBatches(samples, "train", BATCH, fields=["user"])
    user = keras.Input([], dtype=tf.int64, name="user")
    click = keras.layers.Dense(1)(keras.layers.Embedding(100, 2)(user))
    model = keras.Model({"user": user}, click)
    model.compile("sgd", "mse")
    history = model.fit(
        batches.local(), steps_per_epoch=batches.steps_per_pass, epochs=2, verbose=0
    )
    assert len(history.history["loss"]) == 2
    assert int(model.optimizer.iterations.numpy()) == 12


def test_wrong_arguments_are_named(samples):
    with pytest.raises(SampleError, match="no split 'other'"):
        SharedBatches(samples, "other", 4)
    with pytest.raises(SampleError, match="fields names 'wrong'"):
        SharedBatches(samples, "train", 4, fields=["wrong"])
