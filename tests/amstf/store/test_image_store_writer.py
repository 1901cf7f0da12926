import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from amstf.errors import StoreError
from amstf.store import ImageStore, ImageStoreWriter, image_store_writer


def test_rows_are_stored_by_bucket_and_id(tmp_path, rng):
    ids = rng.permutation(5000)[:300]
    features = rng.normal(size=(300, 4)).astype("f4")
    with ImageStoreWriter(
        tmp_path / "i.h5", 4, attributes={"backbone": "vgg", "size": 7}
    ) as writer:
        for begin, end in ((0, 1), (1, 150), (150, 150), (150, 300)):
            writer.write(ids[begin:end], features[begin:end])
    order = np.lexsort((ids, ids & 1023))
    with h5py.File(tmp_path / "i.h5") as file:
        assert file["ids"].dtype == "<i8" and file["features"].dtype == "<f4"
        assert file["features"].chunks is None and file["features"].id.get_offset() % 4096 == 0
        np.testing.assert_array_equal(file["ids"], ids[order])
        np.testing.assert_array_equal(file["features"], features[order])
        assert file.attrs["backbone"] == "vgg" and file.attrs["size"] == 7
    assert os.listdir(tmp_path) == ["i.h5"]


@pytest.mark.parametrize("num_files", [2, 3, 1024])
def test_several_files_share_the_buckets(tmp_path, rng, num_files):
    ids = rng.permutation(4000)[:500]
    features = rng.normal(size=(500, 2)).astype("f4")
    with ImageStoreWriter(tmp_path / "i.h5", 2, num_files=num_files) as writer:
        writer.write(ids, features)
    files = sorted(tmp_path.glob("i-*.h5"))
    assert len(files) == num_files and files[1].name == f"i-00001-of-{num_files:05d}.h5"
    buckets = [{int(i) & 1023 for i in ImageStore.open(file).ids} for file in files]
    assert sum(map(len, buckets)) == len(set().union(*buckets)), "a bucket is in two files"
    store = ImageStore.open(str(tmp_path / "i-*.h5"))
    assert len(store) == 500
    np.testing.assert_array_equal(store.read(ids), features)


def test_float16_is_rounded_once(tmp_path, rng):
    features = rng.normal(size=(20, 5))
    with ImageStoreWriter(tmp_path / "i.h5", 5, "float16") as writer:
        writer.write(np.arange(20), features)
    store = ImageStore.open(tmp_path / "i.h5")
    assert store.dtype == "float16"
    np.testing.assert_array_equal(store.read(np.arange(20)), features.astype("f2").astype("f4"))


def test_an_empty_store(tmp_path):
    with ImageStoreWriter(tmp_path / "i.h5", 3) as writer:
        writer.write([], [])
        writer.write(np.empty(0, np.int32), np.empty((0, 3)))
    store = ImageStore.open(tmp_path / "i.h5")
    assert len(store) == 0 and store.width == 3
    assert store.read([]).shape == (0, 3)
    assert store.missing([5, -1]).tolist() == [5]
    store.validate()


def test_memory_is_bounded_by_the_block(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(image_store_writer, "_COPY_BYTES", 1 << 10)
    features = rng.normal(size=(1000, 16)).astype("f4")
    with ImageStoreWriter(tmp_path / "i.h5", 16) as writer:
        for begin in range(0, 1000, 100):
            writer.write(np.arange(begin, begin + 100)[::-1], features[begin : begin + 100][::-1])
    np.testing.assert_array_equal(
        ImageStore.open(tmp_path / "i.h5").read(np.arange(1000)), features
    )


def test_a_large_store_needs_little_memory(tmp_path):
    """128 MiB of rows in a process that may not have 64 MiB of memory of its own more."""
    source = f"""
import resource
import numpy as np
from amstf.store import image_store_writer

image_store_writer._COPY_BYTES = 4 << 20
block = np.ones((500, 4096), "f4")
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData")) << 10
with image_store_writer.ImageStoreWriter({str(tmp_path / "i.h5")!r}, 4096) as writer:
    resource.setrlimit(resource.RLIMIT_DATA, (data + (64 << 20), -1))
    for first in range(0, 8192, 500):
        ids = np.arange(first, min(first + 500, 8192))
        writer.write(ids * 7, block[: len(ids)])
"""
    done = run(source)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "i.h5").stat().st_size > 128 << 20


def run(source):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=environment, timeout=120
    )


GOOD = np.ones((2, 3), "f4")


@pytest.mark.parametrize(
    "ids, features, message",
    [
        ([5, -9], GOOD, r"must not be negative, got -9"),
        ([1.0, 2.0], GOOD, r"whole numbers \[n\], got float64 \[2\]"),
        ([[1, 2]], GOOD, r"whole numbers \[n\], got int64 \[1, 2\]"),
        ([True, False], GOOD, r"whole numbers \[n\], got bool"),
        ([1, 2], np.ones((2, 4)), r"shape \[2, 4\], wanted \[2, 3\]"),
        ([1, 2], np.ones((3, 3)), r"shape \[3, 3\], wanted \[2, 3\]"),
        ([1, 2], np.ones(6), r"shape \[6\], wanted \[2, 3\]"),
        ([1, 2], [[1, 2, 3], [4, np.nan, 6]], r"image id 2 are not all finite"),
        ([1, 2], [[-np.inf, 2, 3], [4, 5, 6]], r"image id 1 are not all finite"),
        ([1, 2], [[1, 2, 3], [4, 7e4, 6]], r"image id 2 has a feature beyond the range of float16"),
        ([1, 2], GOOD.astype("c8"), r"must be real numbers, got complex64"),
        ([1, 2], GOOD.astype("U3"), r"must be real numbers, got <U3"),
        ([1, 2], [["a", None, 3]] * 2, r"must be real numbers, got object"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(tmp_path, ids, features, message):
    with ImageStoreWriter(tmp_path / "i.h5", 3, "float16") as writer:
        writer.write([77], GOOD[:1])
        with pytest.raises(StoreError, match=message):
            writer.write(ids, features)
        writer.write([78], GOOD[:1])  # what was refused leaves no trace
    assert sorted(ImageStore.open(tmp_path / "i.h5").ids) == [77, 78]


def test_too_large_for_float32(tmp_path):
    with (
        pytest.raises(StoreError, match="beyond the range of float32"),
        ImageStoreWriter(tmp_path / "i.h5", 1) as writer,
    ):
        writer.write([3], [[1e39]])


@pytest.mark.parametrize("writes", [[[4, 8, 4]], [[4, 8], [9], [8, 4]]])
def test_double_ids_are_refused_within_and_across_writes(tmp_path, writes):
    with pytest.raises(StoreError, match=r"image ids were written twice, among them 4"):  # noqa: SIM117
        with ImageStoreWriter(tmp_path / "i.h5", 1) as writer:
            for ids in writes:
                writer.write(ids, np.ones((len(ids), 1)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"path": "i.bin"}, "path must end in .h5"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"dtype": "float64"}, "dtype is 'float64'; use one of float32, float16, uint8"),
        ({"num_files": 0}, "num_files must be 1 to 1024, got 0"),
        ({"num_files": 1025}, "num_files must be 1 to 1024, got 1025"),
        ({"attributes": {"fine": 1, "made": {"by": 1}}}, "attribute 'made' cannot be stored"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(tmp_path, options, message):
    options = {"path": "i.h5", "width": 2, **options}
    with pytest.raises(StoreError, match=message):
        ImageStoreWriter(tmp_path / options.pop("path"), **options)
    assert os.listdir(tmp_path) == []


def test_an_exception_leaves_the_old_store_and_nothing_else(tmp_path, write):
    path, ids, features = write()
    with pytest.raises(RuntimeError), ImageStoreWriter(path, 3) as writer:
        writer.write([1], [[1, 2, 3]])
        raise RuntimeError
    assert os.listdir(tmp_path) == [path.name]
    np.testing.assert_array_equal(ImageStore.open(path).read(ids), features)


def test_a_killed_process_leaves_nothing(tmp_path):
    source = f"""
import os, signal
from amstf.store.image_store_writer import ImageStoreWriter
writer = ImageStoreWriter({str(tmp_path / "i.h5")!r}, 3)
writer.write([1], [[1, 2, 3]])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run(source)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_two_writers_beside_each_other_do_not_meet(tmp_path):
    with (
        ImageStoreWriter(tmp_path / "i.h5", 1) as one,
        ImageStoreWriter(tmp_path / "i.h5", 1) as other,
    ):
        one.write([1], [[1]])
        other.write([2], [[2]])
    assert ImageStore.open(tmp_path / "i.h5").ids.tolist() == [1], "the last to close stays"


def test_closing_twice_is_closing_once_and_writing_then_is_refused(tmp_path):
    writer = ImageStoreWriter(tmp_path / "i.h5", 1)
    writer.write([3], [[1]])
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match=r"the writer of .*i.h5 is closed"):
        writer.write([4], [[1]])
    assert ImageStore.open(tmp_path / "i.h5").ids.tolist() == [3]
