"""Fuzz of TFRecord files and of the records in them, in a child: reading must not end it."""

import pathlib
import shutil
import struct

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from amstf.data import Manifest, Samples, SampleWriter, ShardFile
from amstf.data.manifest import file_crc32
from amstf.schema import Schema
from tests.amstf.data.conftest import SCHEMA, make_sample
from tests.hostile.strategies import WHOLE_NUMBERS, broken_bytes, examples

NAMES = {"user", "words", "tags", "tags.weight", "numbers", "click"}
SMALL = Schema(tuple(field for field in SCHEMA.fields if field.name in NAMES))
EXAMPLES = examples(15)  # each traces a pipeline, half a second


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    with SampleWriter(directory, SMALL, "train", num_shards=1) as writer:
        for k in range(20):
            writer.write({name: value for name, value in make_sample(k).items() if name in NAMES})
    return Samples.open(directory)


def records_of(samples) -> list[bytes]:
    return [record.numpy() for record in tf.data.TFRecordDataset(samples.files("train"))]


def replace(samples, directory, content: bytes, records: int) -> dict:
    """A data set with this file, and with a manifest that agrees with it: all a stranger can do."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(samples.directory, directory)
    path = pathlib.Path(directory, samples.manifest.splits["train"][0].path)
    path.write_bytes(content)
    with Manifest.update(directory) as manifest:
        shard = ShardFile(path.name, records, len(content), file_crc32(path))
        manifest.splits["train"] = (shard,)
    return {"directory": str(directory)}


def framed(record: bytes, length: int | None = None) -> bytes:
    header = struct.pack("<Q", len(record) if length is None else length)
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (header, record)]
    return header + checksums[0] + record + checksums[1]


@pytest.mark.parametrize("checksums", [False, True])
def test_files_that_were_cut_or_changed(checksums, child, good, tmp_path):
    content = pathlib.Path(good.files("train")[0]).read_bytes()

    @EXAMPLES
    @given(broken_bytes(content))
    def check(changed):
        argument = replace(good, tmp_path / "data", changed, 20)
        argument["checksums"] = checksums
        child.good_or_refused("read_samples", argument, str(tmp_path))

    check()
    whole = replace(good, tmp_path / "data", content, 20)
    assert child.good_or_refused("read_samples", {**whole, "checksums": checksums}) == 20


FEATURES = st.one_of(
    st.lists(WHOLE_NUMBERS.map(lambda n: n % 2**63), max_size=5).map(
        lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    ),
    st.lists(st.floats(width=32), max_size=5).map(
        lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values))
    ),
    st.lists(st.binary(max_size=5), max_size=3).map(
        lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    ),
    st.just(tf.train.Feature()),
)


@st.composite
def broken_record(draw, record: bytes) -> bytes:
    example = tf.train.Example.FromString(record)
    features = example.features.feature
    for name in draw(st.lists(st.sampled_from([*features, "foreign"]), max_size=3)):
        features.pop(name, None)
        if draw(st.booleans()):
            features[name].CopyFrom(draw(FEATURES))
    return draw(broken_bytes(example.SerializeToString()))


def test_records_of_other_types_and_bytes(child, good, tmp_path):
    records = records_of(good)

    @EXAMPLES
    @given(broken_record(records[7]))
    def check(changed):
        content = b"".join(map(framed, [*records[:5], changed, *records[5:]]))
        argument = replace(good, tmp_path / "data", content, 21)
        child.good_or_refused("read_samples", {**argument, "checksums": True}, str(tmp_path))

    check()


@pytest.mark.parametrize("length", [1 << 33, 1 << 40, 1 << 62, (1 << 64) - 1, (1 << 64) - 17])
def test_a_length_beyond_the_file_is_refused_before_tensorflow_reserves_it(
    length, child, good, tmp_path
):
    records = records_of(good)
    content = b"".join(map(framed, records[:3])) + framed(records[3], length)
    argument = replace(good, tmp_path / "data", content, 4)
    answer = child.ask("read_samples", {**argument, "checksums": True})
    assert "has 4 records that end at byte" in answer["refused"]


def test_a_length_that_tensorflow_takes_for_negative_is_located(child, good, tmp_path):
    records = records_of(good)
    content = b"".join(map(framed, records[:3])) + framed(records[3], (1 << 64) - 17)
    argument = replace(good, tmp_path / "data", content, 4)
    answer = child.ask("read_samples", {**argument, "checksums": False})
    assert "record 3 at byte" in answer["refused"] and "its length goes to" in answer["refused"]


def test_a_list_without_end_takes_bounded_memory(child, good, tmp_path):
    records = records_of(good)
    example = tf.train.Example.FromString(records[0])
    example.features.feature["words"].bytes_list.value.extend([b""] * 70_000)
    content = b"".join(map(framed, [*records, example.SerializeToString()]))
    argument = replace(good, tmp_path / "data", content, 21)
    answer = child.ask("read_samples", {**argument, "checksums": True})
    assert "record 20 at byte" in answer["refused"]
    assert "field 'words' has a list of more than 65,536 values" in answer["refused"]
