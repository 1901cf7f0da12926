import json
import pathlib

import pytest

from amstf.data import Manifest, Samples, ShardFile, add_info, set_image_store
from amstf.errors import SampleError
from tests.amstf.data.conftest import write_samples


def test_manifest_survives_a_round_trip(tmp_path):
    manifest = Manifest(
        {"train": (ShardFile("a", 2, 10, "01234567"), ShardFile("b", 1, 7, "89abcdef"))},
        {"images": "images.h5"},
        {"best_auc": 0.75},
    )
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path).records("train") == 3
    assert json.loads((tmp_path / "manifest.json").read_text())["splits"]["train"]["records"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_a_directory_without_manifest_is_refused_with_the_cure(tmp_path):
    with pytest.raises(SampleError, match=r"manifest\.json does not exist.*launch.prepare"):
        Samples.open(tmp_path)
    with pytest.raises(SampleError, match=r"manifest\.json does not exist"):
        Samples.open(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(SampleError, match=r"manifest\.json does not exist"):
        Samples.open(tmp_path / "file")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"version": 1}', '{"version": 1, "splits": {"train": {"files": [{}]}}}', ""],
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(SampleError, match=r"manifest\.json is not a manifest"):
        Manifest.load(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SampleError, match="cannot be read"):
        Manifest.load(tmp_path)


def test_another_version_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"version": 3, "splits": {}}')
    with pytest.raises(SampleError, match="version 3; this program reads 1 and 2"):
        Manifest.load(tmp_path)


def test_a_missing_file_is_named(samples):
    path = pathlib.Path(samples.files("train")[1])
    path.unlink()
    with pytest.raises(SampleError, match=f"{path} is missing"):
        Samples.open(samples.directory)


def test_a_cut_file_is_named_with_both_sizes(samples):
    path = pathlib.Path(samples.files("train")[2])
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SampleError, match=f"{path} has {size - 5:,} bytes, manifest.* {size:,}"):
        Samples.open(samples.directory)


def test_checksums_find_a_changed_bit_on_demand(samples):
    path = pathlib.Path(samples.files("train")[0])
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    Samples.open(samples.directory, checksums=True)
    path.write_bytes(content)
    Samples.open(samples.directory)
    with pytest.raises(SampleError, match=f"{path} has CRC-32 .*was changed"):
        Samples.open(samples.directory, checksums=True)


def test_an_unknown_split_lists_the_splits(samples):
    write_samples(samples.directory, "test")
    samples = Samples.open(samples.directory)
    with pytest.raises(SampleError, match="no split 'valid'; its splits are: train, test"):
        samples.dataset("valid", 4)


def test_an_update_that_fails_changes_nothing(samples):
    before = (samples.directory / "manifest.json").read_text()
    with pytest.raises(ZeroDivisionError), Manifest.update(samples.directory) as manifest:
        manifest.info["half"] = 1
        raise ZeroDivisionError
    assert (samples.directory / "manifest.json").read_text() == before


def test_info_is_added_and_kept(samples):
    add_info(samples.directory, seed=3)
    add_info(samples.directory, best={"auc": 0.8})
    assert Samples.open(samples.directory).manifest.info == {"seed": 3, "best": {"auc": 0.8}}


def test_image_stores_are_registered_by_name(samples, tmp_path):
    (samples.directory / "images.h5").write_text("")
    elsewhere = tmp_path / "other.h5"
    elsewhere.write_text("")
    set_image_store(samples.directory, "images.h5")
    set_image_store(samples.directory, elsewhere, name="other")
    samples = Samples.open(samples.directory)
    assert samples.image_store_path() == str(samples.directory / "images.h5")
    assert samples.image_store_path("other") == str(elsewhere)
    with pytest.raises(SampleError, match="no image store 'ads'; its stores are: images, other"):
        samples.image_store_path("ads")


def test_an_image_store_that_is_not_there_is_refused(samples):
    with pytest.raises(SampleError, match=r"image store 'images': .*gone.h5 does not exist"):
        set_image_store(samples.directory, "gone.h5")
    assert not samples.manifest.images
