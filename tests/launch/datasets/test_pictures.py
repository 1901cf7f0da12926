import csv

import numpy as np
import pytest
from PIL import Image

from launch.datasets.pictures import LIST_FILE, Look, Pictures, draw, look_of, render
from launch.datasets.product_shapes import SHAPES, mirrored
from launch.datasets.synthetic import SyntheticConfig, prepare
from launch.extraction.image_list import list_images


def drawn(category=0, seed=0, **look):
    look = Look(**{"colour": 0.5, "pattern": 0.1, "shape": 0.5, **look})
    picture = draw(look, category, 64, np.random.default_rng(seed))
    return np.asarray(picture).astype(int)


def product(pixels):
    """Where the product is: what is not grey as the background."""
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 30


@pytest.mark.parametrize("category", range(len(SHAPES)))
def test_each_product_stands_in_the_middle_and_is_whole(category):
    for shape in (0.0, 0.5, 1.0):
        for seed in range(3):
            area = product(drawn(category, seed, shape=shape))
            assert 0.04 < area.mean() < 0.7
            assert not area[[0, -1]].any() and not area[:, [0, -1]].any(), "cut at the border"


def test_style_is_seen():
    assert np.array_equal(drawn(), drawn())
    # Cold is blue, warm is red.
    for colour, channel in ((0.12, 2), (0.8, 0)):
        pixels = drawn(colour=colour)
        assert pixels[product(pixels)].mean(axis=0).argmax() == channel
    # Dots are lighter than a plain surface; round is wider than slender.
    plain, dots = drawn(pattern=0.1), drawn(pattern=0.4)
    assert dots[product(plain)].mean() > plain[product(plain)].mean() + 10
    for category in (2, 3, 4, 6):  # A dress, a vase, a bag and a lamp.
        widths = [product(drawn(category, shape=s)).any(axis=0).sum() for s in (0.0, 1.0)]
        assert widths[1] > widths[0] + 4


def test_the_look_follows_the_style():
    half = look_of(np.zeros(2))
    assert (half.colour, half.pattern, half.shape) == (0.5, 0.5, 0.5)
    two = look_of(np.array([1.0, -1.0]))
    assert two.colour == pytest.approx(0.8413, abs=1e-4) and two.pattern == pytest.approx(
        0.1587, abs=1e-4
    )
    assert two.shape == pytest.approx(0.9214, abs=1e-4)  # Of (1 + 1) / sqrt(2).
    many = look_of(np.array([0, 0, 1.0, -9, 9, 5]))
    assert many.shape == two.colour and many.angle < 1e-6 and many.contrast == pytest.approx(0.95)
    assert look_of(np.array([1.0])).shape == two.colour


def test_corners_are_cut_symmetrically():
    outline = mirrored([(0, 0), (0.4, 0), (0.4, 1), (0, 1)], 2)
    np.testing.assert_allclose(sorted(outline[:, 0]), sorted(1 - outline[:, 0]), atol=1e-12)


def test_the_same_seed_draws_the_same_pictures(tmp_path):
    style, category = np.random.default_rng(0).normal(size=(3, 2)), np.arange(3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        render(Pictures(tmp_path / name, 32, tmp_path), style, category, seed=5)
    for item in range(3):
        one, other = (tmp_path / n / f"item-00000{item}.jpg" for n in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()
        with Image.open(one) as image:
            assert (image.format, image.size) == ("JPEG", (32, 32))


def test_a_data_set_of_pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    config = SyntheticConfig(users=5, items=8, impressions=100, text_width=4)
    pictures = Pictures(tmp_path / "pictures", 16, tmp_path / "shown")
    prepare(config, tmp_path / "data", num_shards=1, pictures=pictures)
    from amstf.data import Samples

    manifest = Samples.open(tmp_path / "data").manifest
    assert list(manifest.images) == ["titles"], "features that are not those of the pictures"
    assert manifest.info["pictures"] == str(tmp_path / "shown")
    found = list_images(str(tmp_path / "pictures"))
    assert sorted(found.ids) == list(range(8))
    assert list_images(str(tmp_path / "pictures" / LIST_FILE)).path_of() == found.path_of()
    with open(tmp_path / "pictures" / LIST_FILE, newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
