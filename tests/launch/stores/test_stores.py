import h5py
import numpy as np
import pytest
from PIL import Image

from amstf.errors import StoreError
from amstf.store import ImageStore, ImageStoreWriter
from launch.extraction.image_list import list_images
from launch.stores import rewriting
from launch.stores.contact_sheet import contact_sheet
from launch.stores.description import describe
from launch.stores.neighbours import Neighbours, nearest
from launch.stores.rewriting import Rewriting
from launch.stores.rounding import RoundingLoss, stored_as
from launch.stores.soundness import verify


@pytest.fixture
def write(tmp_path):
    """Writes a store of 4 features; ids and features that depend on the id only."""

    def write_store(name, ids, dtype="float32", **attributes):
        with ImageStoreWriter(tmp_path / name, 4, dtype, attributes=attributes) as writer:
            writer.write(np.array(ids, np.int64), features_of(ids))
        return ImageStore.open(tmp_path / name)

    return write_store


def features_of(ids):
    rows = [np.random.default_rng(i).normal(size=4) for i in ids]
    return np.array(rows, "f4").reshape(-1, 4)


def rewrite(stores, wanted):
    return rewriting.rewrite(stores, wanted)[0]


def test_merge(tmp_path, write):
    one = write("a.h5", range(40), layer="fc1", images="A")
    other = write("b.h5", range(2000, 2030), layer="fc1", images="B")
    merged = rewrite([one, other], Rewriting(tmp_path / "m.h5"))
    ids = [*range(40), *range(2000, 2030)]
    assert sorted(merged.ids) == ids and merged.dtype == "float32"
    np.testing.assert_array_equal(merged.read(ids), features_of(ids))
    assert "images" not in merged.attributes and merged.attributes["layer"] == "fc1"
    with pytest.raises(StoreError, match=r"m\.h5 exists; choose another --out, or replace it"):
        rewrite([one], Rewriting(tmp_path / "m.h5"))


def test_an_id_that_two_stores_have(tmp_path, write):
    one = write("a.h5", [1, 2])
    with ImageStoreWriter(tmp_path / "b.h5", 4) as writer:
        writer.write([2, 3], np.ones((2, 4)))
    other = ImageStore.open(tmp_path / "b.h5")
    with pytest.raises(StoreError, match="1 image ids were written twice, among them 2"):
        rewrite([one, other], Rewriting(tmp_path / "m.h5"))
    assert not (tmp_path / "m.h5").exists()
    for which, wanted in (("first", features_of([2])[0]), ("last", np.ones(4))):
        merged = rewrite(
            [one, other], Rewriting(tmp_path / "m.h5", duplicates=which, overwrite=True)
        )
        assert sorted(merged.ids) == [1, 2, 3]
        np.testing.assert_array_equal(merged.read([2])[0], wanted)


def test_stores_that_do_not_fit_together(tmp_path, write):
    one = write("a.h5", [1], layer="fc1", weights_sha256="x")
    other = write("b.h5", [2], layer="fc2", weights_sha256="x")
    with pytest.raises(StoreError, match=r"layer fc1 \(now fc2\): extract them in one way"):
        rewrite([one, other], Rewriting(tmp_path / "m.h5"))
    assert len(rewrite([one, other], Rewriting(tmp_path / "m.h5", mixed=True))) == 2
    with ImageStoreWriter(tmp_path / "w.h5", 5) as writer:
        writer.write([3], np.ones((1, 5)))
    with pytest.raises(StoreError, match=r"w\.h5 holds 5 features an image, .*a.h5 4"):
        rewrite([one, ImageStore.open(tmp_path / "w.h5")], Rewriting(tmp_path / "n.h5"))


def test_split(tmp_path, write):
    store = write("a.h5", range(0, 3000, 7), "uint8")
    parts = rewrite([store], Rewriting(tmp_path / "p.h5", num_files=3))
    assert [p.name for p in sorted(tmp_path.glob("p-*"))] == [
        f"p-0000{i}-of-00003.h5" for i in range(3)
    ]
    np.testing.assert_array_equal(parts.read(store.ids), store.read(store.ids))
    some = rewrite([store], Rewriting(tmp_path / "s.h5", ids=np.array([7, 21])))
    assert sorted(some.ids) == [7, 21]
    with pytest.raises(StoreError, match="2 of the ids are in no store, among them 1, 2"):
        rewrite([store], Rewriting(tmp_path / "t.h5", ids=np.array([1, 2, 7])))


def test_convert_in_place_and_what_it_costs(tmp_path, write):
    store = write("a.h5", range(50))
    before = store.read(store.ids)
    wanted = Rewriting(tmp_path / "a.h5", dtype="uint8", overwrite=True)
    converted, loss = rewriting.rewrite([store], wanted)
    assert converted.dtype == "uint8"
    errors = np.abs(converted.read(store.ids) - before)
    assert loss.largest == pytest.approx((errors.max(1) / np.abs(before).max(1)).max(), rel=1e-5)
    expected = np.sqrt((errors**2).sum() / (before**2).sum())
    assert loss.root_mean_square == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_the_loss_is_that_of_the_store(write, dtype):
    store = write("a.h5", range(9), dtype)
    np.testing.assert_array_equal(store.read(range(9)), stored_as(features_of(range(9)), dtype))
    empty = RoundingLoss(dtype)
    empty.add(np.empty((0, 4), "f4"))
    empty.add(np.zeros((2, 4), "f4"))
    assert (empty.root_mean_square, empty.largest) == (0, 0)


def test_a_sound_store(write):
    for dtype, datasets in (("float16", 2), ("uint8", 3)):
        seen = []
        found = verify(write("a.h5", range(20), dtype), seen.append)
        assert (found.faults, found.notes, sum(seen)) == ([], [], 20)
        assert f"ok     {datasets} checksums" in str(found)


def test_faults_and_notes(tmp_path, write):
    store = write("a.h5", range(6))
    with h5py.File(store.paths[0], "r+") as file:
        file["features"][2, 1] = np.nan
        file["features"][3] = 0
        file["features"][5] = file["features"][0]
    found = verify(ImageStore.open(tmp_path / "a.h5"))
    assert [fault.split(":")[1][:20] for fault in found.faults[:1]] == [
        " features have CRC-32"[:20]
    ]
    assert found.faults[1] == "image 2 has features that are not finite numbers"
    assert "image 3 has no feature but 0" in found.notes
    assert "1 images have the same features as another one: 0 = 5" in found.notes


def test_a_store_of_another_program(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ids"], file["features"] = np.array([3, 1]), np.eye(2, dtype="f4")
    found = verify(ImageStore.open(tmp_path / "a.h5"))
    assert not found.faults
    assert any("not in order of buckets" in note for note in found.notes)
    assert any("has no checksums" in note for note in found.notes)


def test_describe(write):
    text = describe(write("a.h5", [4, 9], "uint8", backbone="VGG16"))
    for words in ("2, ids 4 to 9", "4 of uint8, a scale and an offset each", "VGG16", "0% zeros"):
        assert words in text
    with_none = write("b.h5", [])
    assert "  images" in describe(with_none)


def features_on_a_circle(tmp_path, degrees):
    with ImageStoreWriter(tmp_path / "c.h5", 2) as writer:
        angles = np.radians(degrees)
        lengths = 1 + np.arange(len(degrees))[:, None]
        writer.write(
            np.arange(len(degrees)), lengths * np.stack([np.cos(angles), np.sin(angles)], 1)
        )
    return ImageStore.open(tmp_path / "c.h5")


def test_nearest_by_angle(tmp_path, monkeypatch):
    store = features_on_a_circle(tmp_path, [0, 10, 50, 90, 180])
    (one, other) = nearest(store, np.array([0, 3]), 3)
    assert (one.image, one.ids.tolist()) == (0, [1, 2, 3])
    np.testing.assert_allclose(one.similarities, np.cos(np.radians([10, 50, 90])), atol=1e-6)
    assert other.ids.tolist() == [2, 1, 0] and other.image == 3
    # In pieces of one image, fewer than asked for, and embedded: only the height counts.
    monkeypatch.setattr("launch.stores.neighbours._BLOCK_BYTES", 8)
    (same,) = nearest(store, np.array([0]), 3)
    assert same.ids.tolist() == one.ids.tolist()
    (few,) = nearest(store, np.array([0]), 3, among=np.array([0, 4]))
    assert few.ids.tolist() == [4] and few.similarities.tolist() == [-1]
    (high,) = nearest(
        store, np.array([3]), 2, embed=lambda f: np.abs(f[:, 1:]) + np.array([[0, 1]])
    )
    assert high.ids.tolist() == [2, 1]


def test_a_contact_sheet(tmp_path):
    for image, colour in ((1, "red"), (2, "blue")):
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{image}.png")
    (tmp_path / "3.png").write_bytes(b"")
    path_of = list_images(str(tmp_path)).path_of()
    rows = [
        Neighbours(1, np.array([2, 3, 4]), np.array([0.5, 0.25, 0.1])),
        Neighbours(2, np.array([1]), np.array([0.5])),
    ]
    sheet = contact_sheet(rows, path_of, title="A title", subtitle="below", size=40)
    pixels = np.asarray(sheet)
    colours = {tuple(c) for c in pixels.reshape(-1, 3)}
    assert {(255, 0, 0), (0, 0, 255), (236, 236, 236)} <= colours
    red = (pixels == (255, 0, 0)).all(-1)
    assert red.sum() == 2 * 40 * 40, "once as an image, once as a neighbour"
    # Tiles 3 and 4 have no picture that can be read.
    assert (pixels == (236, 236, 236)).all(-1).sum() > 1.5 * 40 * 40
