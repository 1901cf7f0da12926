import dataclasses

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import pytest

from benchmarks import click_shape, images_in_samples
from benchmarks.click_shape import ClickShape

SHAPE = ClickShape(
    image_width=32,
    tower=(8, 4),
    hidden=(8,),
    behaviours=5,
    batch_size=16,
    images=200,
    users=50,
    categories=7,
    samples=64,
    files=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return click_shape.prepare(SHAPE, tmp_path_factory.mktemp("cache"))


def test_data_is_made_once_for_each_shape(data, capsys):
    cache = data.samples.directory.parent.parent
    assert click_shape.prepare(SHAPE, cache).store.paths == data.store.paths
    larger_batch = dataclasses.replace(SHAPE, batch_size=32, tower=(4,))
    assert click_shape.prepare(larger_batch, cache).store.paths == data.store.paths
    assert capsys.readouterr().out == ""
    other = click_shape.prepare(dataclasses.replace(SHAPE, zipf=1.2), cache)
    assert other.store.paths != data.store.paths


def test_workers_share_the_samples_and_their_images_are_popular_as_zipf_says(data):
    of_workers = []
    for worker in range(2):
        batches = data.batches(2, worker=worker).take(2).as_numpy_iterator()
        of_workers.append(np.concatenate([inputs["behaviour_images"] for inputs, _ in batches]))
    assert {len(images) for images in of_workers} == {32}
    assert not (of_workers[0] == of_workers[1]).all()
    shape = dataclasses.replace(SHAPE, zipf=1.0)
    drawn = click_shape.popular_images(shape, np.random.default_rng(0), 200_000)
    counts = np.sort(np.bincount(drawn, minlength=shape.images))[::-1]
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)


def test_distinct_images_are_counted_per_step(data):
    counts = []
    for worker in range(2):
        for inputs, _ in data.batches(2, worker=worker).take(2).as_numpy_iterator():
            asked = np.concatenate([inputs["ad_image"], inputs["behaviour_images"].ravel()])
            counts.append(len(set(asked.tolist())))
    assert data.distinct_images(2) == np.mean(counts)
    assert data.distinct_images(1, steps=1) < 16 * 6


def test_the_model_has_the_sizes_of_the_shape(data):
    model = click_shape.make_model(SHAPE, data.store)
    inputs, _ = next(iter(data.batches()))
    assert model(inputs).shape == (16, 1)
    tower = model.image_embeddings["images"].embedding_model
    assert tower.count_params() == SHAPE.tower_weights
    assert ClickShape().tower_weights == 1_066_392  # 1.07 M in the paper


def test_samples_that_carry_their_images_give_the_same_predictions(data):
    carrying = images_in_samples.prepare(data, num_workers=1, batches=2)
    of_store = click_shape.make_model(SHAPE, data.store)
    of_samples = images_in_samples.DicmOnCarriedImages(SHAPE)
    pairs = zip(data.batches(1).take(2), carrying.batches().take(2), strict=True)
    for (inputs, clicks), (with_images, same_clicks) in pairs:
        expected = of_store(inputs)
        of_samples(with_images)
        for own, other in zip(_weights(of_samples), _weights(of_store), strict=True):
            own.assign(other)
        np.testing.assert_allclose(of_samples(with_images), expected, rtol=1e-5)
        np.testing.assert_array_equal(clicks, same_clicks)
        distinct = np.unique(np.concatenate([inputs["ad"], np.ravel(inputs["behaviours"])]))
        assert with_images["image_features"].shape == (len(distinct), 32)


def _weights(model):
    """The network's weights, then those of E, whichever the model made first."""
    tower = model.image_embeddings["images"]
    tower = getattr(model, "embedding_model", None) or tower.embedding_model
    of_tower = {weight.ref() for weight in tower.weights}
    return [w for w in model.weights if w.ref() not in of_tower] + list(tower.weights)


def test_storage_is_measured_on_files(data):
    carrying = images_in_samples.prepare(data, num_workers=1, batches=2)
    stored = images_in_samples.stored_bytes(data, carrying)
    assert stored["sample_with_images"] - stored["sample"] == pytest.approx(6 * 32 * 2, abs=60)
    assert stored["image"] > 32 * 2
