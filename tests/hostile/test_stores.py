"""Fuzz of image stores in a child: neither HDF5 nor the mapped store may end the process."""

import os
import pathlib
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amstf.errors import StoreError
from amstf.store import ImageStore, ImageStoreWriter
from amstf.store.hdf5_layout import read_layout
from tests.hostile.strategies import WHOLE_NUMBERS, broken_bytes, examples

EXAMPLES = examples(200)


def plain(path, **options):
    with ImageStoreWriter(path, 3, attributes={"backbone": "vgg"}, **options) as writer:
        writer.write(np.arange(40) * 7, np.ones((40, 3), "f4"))


def quantized(path):
    plain(path, dtype="uint8")


def chunked(path):
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("ids", data=np.arange(40), chunks=(8,), compression="gzip")
        file.create_dataset("features", data=np.ones((40, 3)), chunks=(8, 3), shuffle=True)


@pytest.mark.parametrize("make", [plain, quantized, chunked])
def test_files_that_were_cut_or_changed(make, child, tmp_path):
    path = tmp_path / "images.h5"
    make(path)
    content = path.read_bytes()
    assert child.good_or_refused("read_store", str(path)) == 40

    @EXAMPLES
    @given(broken_bytes(content, first=4096))
    @example(b"")
    def check(changed):
        for left in tmp_path.glob("*"):
            left.unlink()
        path.write_bytes(changed)
        # A changed feature may still be a number, and a changed id an id: that is a good result.
        child.good_or_refused("read_store", str(path), str(path))

    check()


NUMBERS = st.one_of(WHOLE_NUMBERS, st.integers(0, 5000))


@EXAMPLES
@given(
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["float32", "float16", "uint8"]),
    st.data(),
)
def test_layouts_that_no_python_has_checked(
    child, store_file, size, rows, ids, features, scales, width, dtype, data
):
    size = data.draw(st.sampled_from([os.path.getsize(store_file), size]))
    layout = {"path": str(store_file), "bytes": size, "modified": size, "rows": rows}
    layout |= {"ids_offset": ids, "features_offset": features, "scales_offset": scales}
    layout |= {"width": width, "dtype": dtype}
    child.good_or_refused("open_in_kernel", layout, "")


@pytest.fixture(scope="module")
def store_file(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("store") / "images.h5"
    plain(path)
    return path


def test_a_width_whose_bytes_overflow_does_not_divide_by_zero(child, store_file):
    layout = {"path": str(store_file), "bytes": os.path.getsize(store_file), "modified": 0}
    layout |= {"rows": 1, "ids_offset": 0, "features_offset": 0, "scales_offset": 0}
    layout |= {"dtype": "float32"}
    answer = child.ask("open_in_kernel", {**layout, "width": 1 << 62})
    assert "width must be 1 to 4294967296, got 4611686018427387904" in answer["refused"]


def test_a_pipe_in_the_place_of_a_store_is_not_waited_for(child, tmp_path):
    path = tmp_path / "images.h5"
    os.mkfifo(path)
    assert "is not a regular file" in child.ask("read_store", str(path))["refused"]
    layout = {"path": str(path), "bytes": 10, "modified": 0, "rows": 1, "ids_offset": 0}
    layout |= {"features_offset": 0, "scales_offset": 0, "width": 1, "dtype": "float32"}
    answer = child.ask("open_in_kernel", layout)
    assert "is not a regular file with content" in answer["refused"]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1 << 50, 4), {"chunks": (8, 4), "dtype": "f4"}),
        ((1 << 50, 4), {"chunks": (8, 4), "dtype": "f8", "compression": "gzip"}),
        ((8, 1 << 50), {"chunks": (8, 8), "dtype": "f2"}),
        ((1 << 50, 4), {"dtype": "f4"}),
        ((8, 4), {"dtype": "f4"}),
    ],
)
def test_a_shape_larger_than_what_is_stored_is_refused(shape, options, tmp_path):
    path = tmp_path / "images.h5"
    with h5py.File(path, "w") as file:
        chunks = {"chunks": (8,)} if "chunks" in options else {}
        file.create_dataset("ids", (shape[0],), "i8", **chunks)
        file.create_dataset("features", shape, **options)
    with pytest.raises(StoreError, match=r"images.h5: /ids has shape .* the file holds 0 of them"):
        ImageStore.open(path)
    assert os.listdir(tmp_path) == ["images.h5"]


def test_a_copy_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "images.h5"
    chunked(path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=959))
    with pytest.raises(StoreError, match=r"images.h5 must be copied.* takes 960 bytes.* 959 are"):
        ImageStore.open(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=960))
    assert len(ImageStore.open(path)) == 40


def test_attributes_that_cannot_be_read_are_refused(tmp_path):
    path = tmp_path / "images.h5"
    plain(path)
    content = path.read_bytes()
    at = content.index(b"backbone")
    path.write_bytes(content[: at + 12] + b"\xff" * 8 + content[at + 20 :])
    with pytest.raises(StoreError, match=r"images\.h5"):
        read_layout(path)
