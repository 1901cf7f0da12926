"""Groups of impressions: what is stored, and that reading them gives what was written."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from amstf import SharedBatches
from amstf.data import (
    GROUP_INDEX,
    Samples,
    SampleWriter,
    find_bad_record,
    impressions_of,
    is_group,
    per_impression,
    record_errors,
)
from amstf.errors import SampleError, SchemaError
from amstf.schema import Field, Schema
from tests.amstf.data.conftest import SCHEMA, make_sample
from tests.amstf.data.test_record_errors import records_of, replace_records

OF_USER = ("user", "city", "topics", "tags", "group")
GROUPED = Schema(
    tuple(dataclasses.replace(f, side="user") if f.name in OF_USER else f for f in SCHEMA.fields),
    item=SCHEMA.item,
)
"""A field of each kind; lists, weights and strings on both sides."""

USERS, GROUP_SIZE = 13, 3
COUNT = sum(k % 5 + 1 for k in range(USERS))


def impressions():
    """User k has k % 5 + 1 impressions, so that some groups are of one and some are cut."""
    for k in range(USERS):
        for j in range(k % 5 + 1):
            words = [f"w{i}" for i in range((k + j) % 3)]
            yield make_sample(k, ad_image=10 * k + j, numbers=[k, j], words=words, click=j % 2)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    directory = tmp_path_factory.mktemp("groups") / "data"
    for split, group_size in (("plain", None), ("train", GROUP_SIZE), ("single", 1)):
        with SampleWriter(directory, GROUPED, split, 2, group_size) as writer:
            for sample in impressions():
                writer.write(sample)
    return Samples.open(directory, checksums=True)


def one_batch(samples, split, **options):
    return next(iter(samples.dataset(split, 1000, only_inputs=False, **options)))


def test_a_group_holds_the_user_once_and_each_impression(samples):
    record = records_of(samples.files("train")[0])[1]
    group = tf.train.SequenceExample.FromString(record)
    # Groups go to the two files in turn, so this is the third: that of user 2.
    assert group.context.feature["user"].int64_list.value == [2]
    assert group.context.feature["tags.weight"].float_list.value == [0.5, 1.5]
    assert set(group.context.feature) == {
        "user", "city", "topics", "tags", "tags.weight", "behaviour_images",
    }  # fmt: skip
    lists = group.feature_lists.feature_list
    assert set(lists) == {"words", "numbers", "ad_image", "click", "truth"}
    assert [f.int64_list.value[0] for f in lists["ad_image"].feature] == [20, 21, 22]
    assert [list(f.bytes_list.value) for f in lists["words"].feature] == [
        [b"w0", b"w1"],
        [],
        [b"w0"],
    ]
    first, *_ = impressions_of(record)
    assert is_group(record) and not is_group(first)
    example = tf.train.Example.FromString(first).features.feature
    assert example["user"].int64_list.value == [2] and example["click"].float_list.value == [0]


def test_the_manifest_says_what_is_grouped(samples):
    assert not samples.is_grouped("plain") and samples.is_grouped("train")
    groups = sum(-(-(k % 5 + 1) // GROUP_SIZE) for k in range(USERS))
    assert [samples.num_records(s) for s in ("plain", "train", "single")] == [COUNT, groups, COUNT]
    assert {samples.num_impressions(s) for s in samples.splits} == {COUNT}
    text = (samples.directory / "manifest.json").read_text()
    assert '"version": 2' in text and text.count('"impressions"') == 4
    # Ten on average: a batch of ten impressions is so many groups.
    assert samples.records_of("train", 10) == round(10 * groups / COUNT)
    assert samples.records_of("plain", 10) == 10 and samples.records_of("train", 1) == 1


@pytest.mark.parametrize("split", ["train", "single"])
@pytest.mark.parametrize("ragged", [False, True])
def test_grouped_and_plain_hold_the_same(samples, split, ragged):
    plain, grouped = (one_batch(samples, s, ragged=ragged) for s in ("plain", split))
    assert len(grouped["user"]) == samples.num_records(split)
    assert grouped[GROUP_INDEX].shape == (COUNT,) and grouped["click"].shape == (COUNT, 1)
    spread = per_impression(grouped, GROUPED)
    assert spread.keys() == plain.keys()
    for name, want in plain.items():
        got = spread[name]
        assert got.dtype == want.dtype
        if isinstance(want, tf.RaggedTensor):
            assert got.to_list() == want.to_list(), name
            continue
        # Unshuffled, both come in the order of writing.
        np.testing.assert_array_equal(got, want, err_msg=name)


def test_fields_of_one_side_can_be_read_alone(samples):
    for name in ("user", "ad_image"):
        batch = one_batch(samples, "train", fields=[name])
        assert batch.keys() == {name, GROUP_INDEX}
        want = [sample[name] for sample in impressions()]
        assert per_impression(batch, GROUPED)[name].numpy().tolist() == want
    inputs, click = next(iter(samples.dataset("train", 1000, fields=["user"])))
    assert inputs.keys() == {"user", GROUP_INDEX} and click.shape == (COUNT, 1)


def test_shared_batches_hold_each_impression_once_and_count_them(samples):
    batches = SharedBatches(samples, "train", 8, block_size=2, seed=3)
    assert batches.num_impressions == COUNT
    stream, seen = iter(batches.local()), 0
    for number in range(2):
        shown = []
        for _ in range(batches.steps_per_pass):
            assert batches.samples_before(batches.position) == seen
            inputs, clicks = next(stream)
            batches.position += 1
            seen += len(clicks)
            shown += inputs["ad_image"].numpy().tolist()
        assert sorted(shown) == sorted(s["ad_image"] for s in impressions()), f"pass {number}"
    assert batches.samples_before(batches.position) == seen == 2 * COUNT
    # Of groups the block of 16 samples is fewer records, so that a batch is still mixed.
    assert SharedBatches(samples, "train", 8).steps_per_pass == batches.steps_per_pass


def test_counts_beside_the_files_are_not_needed(tmp_path):
    with SampleWriter(tmp_path, GROUPED, "train", 2, GROUP_SIZE) as writer:
        for sample in impressions():
            writer.write(sample)
    samples = Samples.open(tmp_path)
    want = [SharedBatches(samples, "train", 8).samples_before(k) for k in range(9)]
    for path in tmp_path.glob("*.impressions"):
        path.unlink()
    assert [SharedBatches(samples, "train", 8).samples_before(k) for k in range(9)] == want


def test_a_sample_that_is_refused_leaves_no_trace(tmp_path):
    with SampleWriter(tmp_path, GROUPED, "train", 1, GROUP_SIZE) as writer:
        writer.write(make_sample(1))
        with pytest.raises(SampleError, match="sample 1 of split 'train': field 'click'"):
            writer.write(make_sample(1, click="yes"))
        writer.write(make_sample(1, ad_image=5))
        assert writer.num_written == 2
    batch = one_batch(Samples.open(tmp_path), "train")
    assert batch["ad_image"].numpy().tolist() == [1, 5] and batch["user"].numpy().tolist() == [1]


def without(name):
    def change(lists):
        del lists[name]

    return change


def shorter(name):
    def change(lists):
        del lists[name].feature[-1]

    return change


def two_values(lists):
    lists["ad_image"].feature[0].int64_list.value.append(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("ad_image"), "ad_image"),
        (shorter("numbers"), "feature list 'numbers' needs an entry for each impression"),
        (shorter("click"), "needs an entry for each impression of its group"),
        (two_values, "feature list 'ad_image' needs as many values in each entry as its field"),
    ],
)
def test_a_misshapen_group_is_named(tmp_path, change, message):
    with SampleWriter(tmp_path, GROUPED, "train", 1, GROUP_SIZE) as writer:
        for sample in impressions():
            writer.write(sample)
    samples = Samples.open(tmp_path)
    assert find_bad_record(samples, "train") is None
    records = records_of(samples.files("train")[0])
    group = tf.train.SequenceExample.FromString(records[2])
    change(group.feature_lists.feature_list)
    records[2] = group.SerializeToString()
    path, samples = replace_records(samples, 0, records, impressions=COUNT)
    with (
        pytest.raises(SampleError, match=f"{pathlib.Path(path).name}: record 2 .*{message}"),
        record_errors(samples, "train"),
    ):
        list(samples.dataset("train", 4, only_inputs=False))
    if "an entry for" in message:
        with pytest.raises(ValueError, match="differ in length"):
            impressions_of(records[2])


def test_what_cannot_be_grouped_is_refused(tmp_path):
    user = Field("user", "sparse", vocabulary_size=9)
    schema = Schema((user, Field("key", "group", source="user"), Field("click", "label")))
    with pytest.raises(SchemaError, match="'key' is stored once and 'user' for each impression"):
        SampleWriter(tmp_path, schema, "train", group_size=2)
    named = Schema((Field(GROUP_INDEX, "sparse", vocabulary_size=9), Field("click", "label")))
    with pytest.raises(SchemaError, match="no field of grouped samples may be named"):
        SampleWriter(tmp_path, named, "train", group_size=2)
    with pytest.raises(SampleError, match="group_size is 0; it must be at least 1"):
        SampleWriter(tmp_path, GROUPED, "train", group_size=0)
    assert not list(tmp_path.iterdir())
