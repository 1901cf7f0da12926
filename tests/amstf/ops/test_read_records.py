import itertools

import pytest
import tensorflow as tf

from amstf import ops

PAYLOADS = [b"", b"a", b"x" * 300, bytes(70_000), b"last"]


def write(path, payloads):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    sizes = [16 + len(payload) for payload in payloads]
    return [0, *itertools.accumulate(sizes)]


def read(stretches):
    paths, offsets, sizes = zip(*stretches, strict=True) if stretches else ((), (), ())
    return ops.read_records(
        tf.constant([str(path) for path in paths], tf.string),
        tf.constant(offsets, tf.int64),
        tf.constant(sizes, tf.int64),
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.tfrecord"
    return path, write(path, PAYLOADS)


@pytest.mark.parametrize("first, end", [(0, 5), (0, 0), (2, 2), (1, 4), (3, 5), (4, 5)])
def test_a_stretch_is_what_tensorflows_reader_reads(file, first, end):
    path, begins = file
    wanted = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())[first:end]
    assert wanted == PAYLOADS[first:end]
    got = read([(path, begins[first], begins[end] - begins[first])])
    assert got.numpy().tolist() == wanted


def test_stretches_follow_each_other(file, tmp_path):
    path, begins = file
    other = tmp_path / "b.tfrecord"
    ends = write(other, [b"b"] * 40)
    stretches = [(other, 17 * k, 17) for k in range(40)] + [(path, 0, begins[3]), (path, 0, 0)]
    assert ends[-1] == 17 * 40
    assert read(stretches).numpy().tolist() == [b"b"] * 40 + PAYLOADS[:3]
    assert read([]).shape == [0]


def test_it_reads_in_a_function_and_in_a_pipeline(file):
    path, begins = file
    names = tf.data.Dataset.from_tensors(([str(path)], [begins[1]], [begins[2] - begins[1]]))
    cast = names.map(lambda p, o, s: (p, tf.cast(o, tf.int64), tf.cast(s, tf.int64)))
    assert list(cast.map(ops.read_records).as_numpy_iterator()) == [[b"a"]]
    assert tf.function(lambda: read([(path, 0, begins[2])]))().numpy().tolist() == [b"", b"a"]


def damage(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "at, said",
    [
        (0, "record at byte 0 is damaged: the checksum of its length is wrong"),
        (16 + 12, "record at byte 16 is damaged: its checksum is wrong"),
        (16 + 14, "record at byte 16 is damaged: its checksum is wrong"),
    ],
)
def test_a_damaged_record_is_named(file, at, said):
    path, begins = file
    damage(path, at)
    with pytest.raises(tf.errors.DataLossError, match=f"{path}: {said}"):
        read([(path, 0, begins[-1])])


def test_stretches_that_are_not_there_are_named(file, tmp_path):
    path, begins = file
    for offset, size in ((0, begins[-1] + 1), (-1, 4), (0, -1), (2**62, 2**62)):
        with pytest.raises(tf.errors.DataLossError, match=f"{path}: wanted {size} bytes"):
            read([(path, offset, size)])
    with pytest.raises(tf.errors.DataLossError, match=f"{path}: record at byte 33 is cut off"):
        read([(path, 0, 40 + 16)])
    with pytest.raises(tf.errors.NotFoundError, match="not_there"):
        read([(tmp_path / "not_there", 0, 1)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="one length"):
        ops.read_records(["a", "b"], tf.constant([0], tf.int64), tf.constant([0], tf.int64))
