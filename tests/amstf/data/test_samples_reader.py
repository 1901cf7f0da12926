import functools

import numpy as np
import pytest
import tensorflow as tf

from amstf import SharedBatches
from amstf.data import Samples, SampleWriter
from amstf.errors import SampleError
from amstf.schema import Field, Schema
from tests.amstf.data.conftest import SCHEMA, make_sample, write_samples


def users(dataset):
    return np.concatenate([x["user"].numpy() for x, _ in dataset]).tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 20, 64])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_every_value_comes_back_in_the_order_of_writing(tmp_path, batch_size, num_shards):
    samples = write_samples(tmp_path, num_shards=num_shards)
    k = 0
    for batch in samples.dataset("train", batch_size, only_inputs=False):
        size = len(batch["user"])
        for row in range(size):
            sample = make_sample(k)
            assert batch["user"][row] == k
            assert batch["group"][row] == k
            assert batch["city"][row] == sample["city"].encode()
            assert [w.decode() for w in batch["words"][row].numpy() if w] == sample["words"]
            topics = batch["topics"][row].numpy()
            assert topics[topics >= 0].tolist() == sample["topics"][:3]
            tags = batch["tags"][row].numpy()
            assert tags[tags >= 0].tolist() == sample["tags"][:2]
            weights = batch["tags.weight"][row].numpy()
            assert weights[tags >= 0].tolist() == sample["tags.weight"][:2]
            assert not weights[tags < 0].any()
            assert batch["numbers"][row].numpy().tolist() == sample["numbers"]
            assert batch["ad_image"][row] == batch["ad_image_id"][row] == k
            images = batch["behaviour_images"][row].numpy()
            assert images[images >= 0].tolist() == sample["behaviour_images"][:4]
            assert batch["click"][row].numpy().tolist() == [k % 2]
            assert batch["truth"][row].numpy().tolist() == [0.25]
            k += 1
        assert batch["numbers"].shape == (size, 2)
        assert batch["click"].shape == (size, 1)
        assert batch["click"].dtype == tf.float32
        assert batch["topics"].dtype == tf.int64
        # Padded to the longest of the batch and no further.
        longest = max(len(make_sample(j)["topics"][:3]) for j in range(k - size, k))
        assert batch["topics"].shape == (size, longest)
    assert k == 20


def test_only_inputs_gives_what_fit_takes(samples):
    x, y = next(iter(samples.dataset("train", 4)))
    assert set(x) == {field.name for field in SCHEMA.inputs} | {"tags.weight"}
    assert y.shape == (4, 1)
    assert y.numpy().ravel().tolist() == [0, 1, 0, 1]


def test_several_labels_come_as_a_dict_and_may_be_chosen(tmp_path):
    schema = Schema((*SCHEMA.fields, Field("buy", "label")))
    with SampleWriter(tmp_path, schema, "train", num_shards=1) as writer:
        for k in range(4):
            writer.write({**make_sample(k), "buy": float(k == 3)})
    samples = Samples.open(tmp_path)
    for dataset in (samples.dataset("train", 4), SharedBatches(samples, "train", 4).local()):
        x, y = next(iter(dataset))
        order = np.argsort(x["user"].numpy())
        assert list(y) == ["click", "buy"] and not {"click", "buy"} & set(x)
        assert y["click"].shape == (4, 1)
        assert y["click"].numpy()[order].ravel().tolist() == [0, 1, 0, 1]
        assert y["buy"].numpy()[order].ravel().tolist() == [0, 0, 0, 1]
    x, y = next(iter(samples.dataset("train", 4, labels=["buy"])))
    assert y.numpy().ravel().tolist() == [0, 0, 0, 1] and "click" not in x
    _, y = next(iter(SharedBatches(samples, "train", 4, labels=["click"]).local()))
    assert y.shape == (4, 1)
    for make in (samples.dataset, functools.partial(SharedBatches, samples)):
        with pytest.raises(
            SampleError, match="labels is 'user'; the labels of the data set are: c"
        ):
            make("train", 4, labels=["user"])
        with pytest.raises(SampleError, match="labels is empty; the labels of the data set are"):
            make("train", 4, labels=[])


def test_ragged_lists(samples):
    x, _ = next(iter(samples.dataset("train", 6, ragged=True)))
    assert isinstance(x["topics"], tf.RaggedTensor)
    assert x["topics"].to_list() == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2], []]
    assert x["tags"].to_list() == [[], [0], [0, 1], [0, 1], [], [0]]
    assert x["tags.weight"].to_list() == [[], [0.5], [0.5, 1.5], [0.5, 1.5], [], [0.5]]
    assert x["words"].to_list()[2] == [b"w0", b"w1"]


def test_a_batch_of_empty_lists(tmp_path):
    empty = make_sample(1, words=[], topics=[], tags=[], behaviour_images=[])
    with SampleWriter(tmp_path, SCHEMA, "train", num_shards=1) as writer:
        writer.write({**empty, "tags.weight": []})
        writer.write({**empty, "tags.weight": []})
    x, _ = next(iter(Samples.open(tmp_path).dataset("train", 2)))
    for name in ("words", "topics", "tags", "tags.weight", "behaviour_images"):
        assert x[name].shape == (2, 0)


def test_fields_chooses_what_is_parsed(samples):
    fields = ["ad_image_id", "tags"]
    x, y = next(iter(samples.dataset("train", 4, fields=fields)))
    assert set(x) == {"ad_image_id", "tags", "tags.weight"}
    assert y.shape == (4, 1)
    batch = next(iter(samples.dataset("train", 4, fields=["group", "truth"], only_inputs=False)))
    assert set(batch) == {"group", "truth"}
    with pytest.raises(SampleError, match="fields names 'age'; the fields of the data set are: us"):
        samples.dataset("train", 4, fields=["age"])
    with pytest.raises(SampleError, match="fields names 'group', a group field and no input"):
        samples.dataset("train", 4, fields=["group"])


def test_shuffling_keeps_every_sample_once(samples):
    assert sorted(users(samples.dataset("train", 7, shuffle=True))) == list(range(20))


def test_a_seed_repeats_the_order_and_each_pass_has_its_own(samples):
    first = samples.dataset("train", 7, shuffle=True, seed=5)
    orders = [users(first), users(first)]
    again = samples.dataset("train", 7, shuffle=True, seed=5)
    assert [users(again), users(again)] == orders
    assert orders[0] != orders[1]
    assert orders[0] != list(range(20))
    assert users(samples.dataset("train", 7, shuffle=True, seed=6)) != orders[0]


def test_repeat_and_drop_remainder(samples):
    endless = samples.dataset("train", 8, repeat=True)
    assert users(endless.take(5)) == list(range(20)) * 2
    dropping = samples.dataset("train", 8, drop_remainder=True)
    assert users(dropping) == list(range(16))
    assert dropping.element_spec[0]["user"].shape == (8,)


@pytest.mark.parametrize("num_readers", [1, 2, 3])
@pytest.mark.parametrize("kind", [int, tf.constant, "function"])
def test_readers_share_the_files(samples, num_readers, kind):
    seen = []
    for k in range(num_readers):
        index = (lambda k=k: tf.constant(k)) if kind == "function" else kind(k)
        part = users(samples.dataset("train", 4, shard=(num_readers, index)))
        files = samples.manifest.splits["train"][k::num_readers]
        assert len(part) == sum(file.records for file in files)
        seen += part
    assert sorted(seen) == list(range(20))


def test_more_readers_than_files_are_refused(samples):
    with pytest.raises(SampleError, match="3 files, which cannot be shared among 4 readers"):
        samples.dataset("train", 4, shard=(4, 0))
    with pytest.raises(SampleError, match=r"index 2 is not one of 0 \.\. 1"):
        samples.dataset("train", 4, shard=(2, 2))


def test_a_wrong_batch_size_is_refused(samples):
    with pytest.raises(SampleError, match="batch_size is 0"):
        samples.dataset("train", 0)


def test_more_files_than_are_open_at_a_time(tmp_path):
    samples = write_samples(tmp_path, count=50, num_shards=20)
    order = users(samples.dataset("train", 50))
    assert sorted(order) == list(range(50))
    assert users(samples.dataset("train", 50)) == order


def test_an_opened_data_set_can_be_read_inside_a_function(samples):
    @tf.function
    def count():
        total = tf.constant(0)
        for x, _ in samples.dataset("train", 6):
            total += tf.size(x["user"])
        return total

    assert count() == 20
