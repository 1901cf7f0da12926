"""The towers in an export: signatures of their own, in a process that has TensorFlow only."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ExportError
from amstf.export import export
from models import TwoTower, build, image_tower
from tests.exports import ask_elsewhere, write_store
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

SIGNATURES = [
    "serving_default", "predict", "user_embedding", "ad_embedding", "score_ads",
    "embed_images",
]  # fmt: skip
USER_INPUTS = {"user", "liked", "words", "words_weight", "liked_images"}
AD_INPUTS = {"item", "price", "image"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(5)
    store = write_store(tmp_path_factory.mktemp("store") / "images.h5")
    return build(TwoTower(CLICK_SCHEMA, store, image_tower((4, 3)), hidden=(6, 4)), CLICK_SCHEMA)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model"
    return path, export(model, CLICK_SCHEMA, path)


def inputs_of(batch, names):
    return {name: batch[name.replace("words_weight", "words.weight")] for name in names}


def test_towers_and_scores_elsewhere_are_the_models(model, whole, tmp_path):
    path, description = whole
    assert list(description["signatures"]) == SIGNATURES
    user, ads = random_batch(CLICK_SCHEMA, 1, 5), random_batch(CLICK_SCHEMA, 50, 0, seed=1)
    wanted = [model.user_embedding(tensors(user)).numpy(), model.ad_embedding(tensors(ads)).numpy()]
    wanted.append(model.score_ads(*wanted).numpy())
    got = ask_elsewhere(
        [
            (str(path), "user_embedding", inputs_of(user, USER_INPUTS)),
            (str(path), "ad_embedding", inputs_of(ads, AD_INPUTS)),
            (str(path), "score_ads", {"user_embedding": wanted[0], "ad_embeddings": wanted[1]}),
        ],
        tmp_path,
    )
    assert got[2].shape == (1, 50)
    for one, want in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6)


def test_the_description_tells_inputs_of_the_towers(whole):
    path, _ = whole
    described = json.loads((path / "assets.extra/amstf.json").read_text())["signatures"]
    assert set(described["user_embedding"]["inputs"]) == USER_INPUTS
    assert set(described["ad_embedding"]["inputs"]) == AD_INPUTS
    assert described["user_embedding"]["inputs"]["words_weight"] == {
        "dtype": "float32", "shape": [None, None], "field": "words.weight",
    }  # fmt: skip
    assert described["user_embedding"]["outputs"]["user_embedding"]["shape"] == [None, 4]
    assert described["score_ads"]["inputs"]["ad_embeddings"]["shape"] == [None, 4]
    assert list(described["score_ads"]["outputs"]) == ["click_probability"]


def test_a_tower_alone_brings_only_the_variables_that_it_reads(model, tmp_path):
    path = tmp_path / "ads"
    description = export(model, CLICK_SCHEMA, path, signatures=["ad_embedding"])
    assert list(description["signatures"]) == ["ad_embedding"]
    names = [name for name, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    # The table of items, kernel, bias and slope of a layer, kernel and bias; ids and embeddings.
    assert len([name for name in names if name.startswith("state/")]) == 1 + 3 + 2 + 2
    ads = random_batch(CLICK_SCHEMA, 4, 0)
    served = tf.saved_model.load(str(path)).signatures["ad_embedding"]
    got = served(**tensors(inputs_of(ads, AD_INPUTS)))["ad_embedding"]
    np.testing.assert_allclose(got, model.ad_embedding(tensors(ads)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        (["ads"], r"signatures names ads; the model has serving_default, .*, embed_images"),
        ([], "signatures names nothing; the model has serving_default"),
    ],
)
def test_signatures_that_are_not_there_are_refused(model, tmp_path, signatures, message):
    with pytest.raises(ExportError, match=message):
        export(model, CLICK_SCHEMA, tmp_path / "model", signatures=signatures)
    assert not (tmp_path / "model").exists()
