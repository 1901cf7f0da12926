import pathlib
import zlib

import pytest
import tensorflow as tf

from amstf.data import Manifest, Samples, ShardFile, find_bad_record, record_errors
from amstf.errors import SampleError
from tests.amstf.data.conftest import write_samples


def read_all(samples, **options):
    with record_errors(samples, "train"):
        return sum(1 for _ in samples.dataset("train", 4, **options))


def records_of(path):
    return [r.numpy() for r in tf.data.TFRecordDataset(str(path))]


def replace_records(samples, file_index, records, impressions=None):
    """Writes a file anew and makes the manifest agree, as if it had been made that way."""
    path = pathlib.Path(samples.files("train")[file_index])
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    with Manifest.update(samples.directory) as manifest:
        files = list(manifest.splits["train"])
        crc = f"{zlib.crc32(path.read_bytes()):08x}"
        files[file_index] = ShardFile(
            path.name, len(records), path.stat().st_size, crc, impressions
        )
        manifest.splits["train"] = tuple(files)
    return path, Samples.open(samples.directory)


def changed(record, change):
    example = tf.train.Example.FromString(record)
    change(example.features.feature)
    return example.SerializeToString()


def offset_of(records, number):
    return sum(len(record) + 16 for record in records[:number])


def test_good_data_passes(samples):
    assert read_all(samples) == 5
    assert find_bad_record(samples, "train") is None


@pytest.mark.parametrize("part", ["length", "data", "checksum"])
def test_a_flipped_bit_names_file_record_and_offset(samples, part):
    path = pathlib.Path(samples.files("train")[1])
    records = records_of(path)
    offset = offset_of(records, 3)
    content = bytearray(path.read_bytes())
    content[offset + {"length": 1, "data": 20, "checksum": 12 + len(records[3]) + 1}[part]] ^= 4
    path.write_bytes(content)
    with pytest.raises(SampleError, match=f"{path}: record 3 at byte {offset} .*damaged") as caught:
        read_all(samples)
    assert isinstance(caught.value.__cause__, tf.errors.DataLossError)


def test_a_file_that_is_no_tfrecord(samples):
    path = pathlib.Path(samples.files("train")[0])
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(SampleError, match=f"{path}: record 0 at byte 0 cannot be read"):
        read_all(samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: b"garbage", "Could not parse example input"),
        (
            lambda record: changed(record, lambda f: f.pop("user")),
            r"Feature: user \(data type: int64\) is required but could not be found",
        ),
        (
            lambda record: changed(record, lambda f: f["user"].float_list.value.append(1.0)),
            "Key: user, .*Data types don't match",
        ),
        (
            lambda record: changed(record, lambda f: f["numbers"].float_list.value.append(1.0)),
            "Key: numbers, .*values != expected",
        ),
        (
            lambda record: changed(record, lambda f: f["tags.weight"].float_list.value.append(1.0)),
            "field 'tags' needs as many weights as ids in each record",
        ),
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_foreign_record_names_file_record_and_offset(samples, change, message, ragged):
    records = records_of(samples.files("train")[2])
    records[4] = change(records[4])
    path, samples = replace_records(samples, 2, records)
    where = f"{path}: record 4 at byte {offset_of(records, 4)} cannot be read: .*{message}"
    with pytest.raises(SampleError, match=where) as caught:
        read_all(samples, ragged=ragged)
    assert isinstance(caught.value.__cause__, tf.errors.InvalidArgumentError)
    assert "\n" not in str(caught.value)


def test_weights_are_checked_even_if_nothing_else_is_read(samples):
    records = records_of(samples.files("train")[0])
    records[0] = changed(records[0], lambda f: f["tags.weight"].float_list.value.append(1.0))
    _, samples = replace_records(samples, 0, records)
    with pytest.raises(SampleError, match="field 'tags' needs as many weights"):
        read_all(samples, fields=["tags"])
    assert read_all(samples, fields=["user"]) == 5


def test_a_bad_record_beyond_the_first_thousand_is_counted_right(tmp_path):
    samples = write_samples(tmp_path, count=1500, num_shards=1)
    records = records_of(samples.files("train")[0])
    records[1300] = b"garbage"
    _, samples = replace_records(samples, 0, records)
    with pytest.raises(SampleError, match=f"record 1300 at byte {offset_of(records, 1300)} "):
        read_all(samples)


def test_a_file_that_was_cut_while_open_is_named(samples):
    path = pathlib.Path(samples.files("train")[1])
    with (
        pytest.raises(SampleError, match=f"{path} has .* bytes, manifest.json says"),
        record_errors(samples, "train"),
    ):
        path.write_bytes(path.read_bytes()[:-3])
        raise tf.errors.DataLossError(None, None, "truncated record at 7")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InvalidArgumentError(None, None, "Matrix size-incompatible"),
        tf.errors.InvalidArgumentError(None, None, "Could not parse example input, but elsewhere"),
        tf.errors.DataLossError(None, None, "checkpoint is damaged"),
        tf.errors.NotFoundError(None, None, "no such file"),
        ValueError("anything"),
    ],
)
def test_other_errors_pass_unchanged(samples, error):
    with pytest.raises(type(error)) as caught, record_errors(samples, "train"):
        raise error
    assert caught.value is error


def test_a_wrong_split_is_refused_at_once(samples):
    with (
        pytest.raises(SampleError, match="no split 'test'"),
        record_errors(samples, "test"),
    ):
        pytest.fail("the block must not run")
