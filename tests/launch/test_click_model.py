"""Which model a configuration of a run stands for, and what earlier versions meant."""

import dataclasses
import json

import pytest
import tensorflow as tf
import tf_keras

import models
from amstf.errors import ConfigError, SchemaError
from amstf.schema import Field, Schema
from launch import run_directory
from launch.click_model import labels_of, make_model, make_run_model, open_stores, open_stores_of
from launch.run_directory import RunConfig, RunDirectory
from launch.store_servers import check_are_in_cluster
from models import Dicm, Din, EmbeddingMlp, LogisticRegression, TwoTower
from models.id_embedding import of_width
from tests.exports import write_dataset
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

CONFIG = RunConfig(
    dataset="data",
    model="embedding_mlp",
    hidden=(6, 4),
    dropout=0.0,
    tower=(4, 3),
    tower_dropout=0.0,
    aggregator="sum",
    missing="error",
    batch_size=8,
    epochs=1,
    learning_rate=0.01,
    seed=3,
    patience=0,
)
BATCH = tensors(random_batch(CLICK_SCHEMA, 3, 2))
TWO_LABELS = Schema((*CLICK_SCHEMA.fields, Field("buy", "label")))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("click_model") / "data")


def config(**changes):
    # The resolved images of another model must not stay.
    return dataclasses.replace(CONFIG, **{"images": "", **changes})


def fields_of(model):
    pair = (model.ad_images, model.behaviour_images)
    return tuple(fields[0].name if fields else None for fields in pair)


@pytest.mark.parametrize(
    ("model", "kind", "head"),
    [
        ("lr", LogisticRegression, models.LogisticHead),
        ("embedding_mlp", EmbeddingMlp, models.PredictionHead),
        ("din", Din, models.PredictionHead),
        ("prerank", TwoTower, None),
        ("dcn", models.Dcn, models.PredictionHead),
    ],
)
@pytest.mark.parametrize(
    ("images", "fields"),
    [
        ("none", (None, None)),
        ("ad", ("image", None)),
        ("behaviours", (None, "liked_images")),
        ("both", ("image", "liked_images")),
    ],
)
def test_every_model_with_every_choice_of_images(samples, model, kind, head, images, fields):
    wanted = config(model=model, images=images)
    stores = open_stores_of(wanted, samples)
    assert bool(stores) == (images != "none")
    made = make_model(wanted, CLICK_SCHEMA, stores)
    assert made(BATCH).shape == (3, 1)
    if images == "none" and kind is not TwoTower:
        assert type(made) is kind and type(made.head) is head
        return
    assert type(made) is (TwoTower if kind is TwoTower else Dicm)
    assert fields_of(made) == fields
    if kind is Din:
        assert made.id_embedding.behaviours == {"liked": "item"}
    if head is not None:
        assert type(made.head) is head


@pytest.mark.parametrize(
    ("model", "kind", "interaction", "option"),
    [
        ("deepfm", models.DeepFm, (), lambda layer: layer.machine.built),
        ("dcn", models.Dcn, ("layers=1",), lambda layer: layer.cross.layers == 1),
        ("dcn_v2", models.DcnV2, ("rank=3", "experts=2"), lambda layer: layer.cross.rank == 3),
        ("pnn", models.Pnn, ("products=both",), lambda layer: layer.products == "both"),
        (
            "fibinet",
            models.FiBiNet,
            ("bilinear=each",),
            lambda layer: layer.bilinear.kind == "each",
        ),
    ],
)
def test_models_of_field_interactions(samples, model, kind, interaction, option):
    schema = of_width(CLICK_SCHEMA, 3)
    wanted = config(model=model, interaction=interaction)
    made = make_model(wanted, schema, {})
    assert type(made) is kind and option(made.mlp) and made(BATCH).shape == (3, 1)
    seeing = make_model(dataclasses.replace(wanted, images="ad"), schema, open_stores(samples))
    assert type(seeing) is Dicm and type(seeing.mlp) is type(made.mlp)
    assert seeing(BATCH).shape == (3, 1)


def test_dicm_is_embedding_mlp_with_both_images(samples):
    dicm = config(model="dicm")
    assert dicm.images == "both" and dicm.title == "dicm"
    assert config().images == "none" and config().title == "embedding_mlp"
    assert config(model="dicm", images="ad").title == "dicm, images: ad"
    stores = open_stores(samples)
    one = make_model(dicm, CLICK_SCHEMA, stores)
    other = make_model(config(images="both"), CLICK_SCHEMA, stores)
    other.set_weights(one.get_weights())
    assert float(tf.reduce_max(tf.abs(one(BATCH) - other(BATCH)))) == 0


@pytest.mark.parametrize("aggregator", run_directory.AGGREGATORS)
def test_every_aggregator(samples, aggregator):
    fields = [
        dataclasses.replace(field, max_length=4) if field.name == "liked_images" else field
        for field in CLICK_SCHEMA.fields
    ]
    wanted = config(model="dicm", aggregator=aggregator)
    made = make_model(wanted, Schema(tuple(fields)), open_stores(samples))
    assert type(made.aggregator) is type(models.aggregators.make_aggregator(aggregator, 4))


def test_the_names_of_aggregators_are_those_of_the_models():
    assert run_directory.AGGREGATORS == models.AGGREGATORS


TWO_STORES = Schema(
    tuple(
        dataclasses.replace(f, store={"ad": "ads", "user": "users"}[f.side])
        if f.kind == "image"
        else f
        for f in CLICK_SCHEMA.fields
    )
)


@pytest.mark.parametrize("model", ["lr", "dicm", "prerank"])
def test_an_e_and_servers_of_its_own_for_each_store(samples, model):
    store = open_stores(samples)["images"]
    stores = {"ads": store, "users": store}
    shared = make_model(config(model=model, images="both"), TWO_STORES, stores)
    assert len({id(e.embedding_model) for e in shared.image_embeddings.values()}) == 1
    servers = ("users:0", "ads:1", "ads:2")
    wanted = config(
        model=model, images="both", separate_towers=True, activation="relu", store_servers=servers
    )
    made = make_model(wanted, TWO_STORES, stores)
    layers = made.image_embeddings
    assert {n: e.embedding_model.name for n, e in layers.items()} == {
        "ads": "image_tower_ads",
        "users": "image_tower_users",
    }
    assert {n: e.servers for n, e in layers.items()} == {"ads": (1, 2), "users": (0,)}
    activations = [
        layer.activation.__name__
        for e in layers.values()
        for layer in e.embedding_model.layers
        if isinstance(layer, tf_keras.layers.Activation)
    ]
    assert activations == ["relu"] * 4
    mlps = {"lr": [], "dicm": ["mlp"], "prerank": ["user_tower", "ad_tower"]}[model]
    kinds = {type(part) for name in mlps for part in getattr(made, name)._flatten_layers()}
    assert tf_keras.layers.PReLU not in kinds
    assert made(BATCH).shape == (3, 1)
    # Servers of a store that the model does not see are no mistake, those of none are.
    alone = make_model(dataclasses.replace(wanted, images="ad"), TWO_STORES, stores)
    assert {n: e.servers for n, e in alone.image_embeddings.items()} == {"ads": (1, 2)}
    with pytest.raises(
        ConfigError, match=r"--store_servers: .* no image store 'x', but ads, users"
    ):
        make_model(dataclasses.replace(wanted, store_servers=("x:0",)), TWO_STORES, stores)


@pytest.mark.parametrize("setting", ["ads", "ads:", ":1", "ads:-1", "ads:²", "ads:12345", 7])
def test_servers_of_stores_are_read_or_refused(setting):
    with pytest.raises(ConfigError, match=r"store_servers has .*; wanted STORE:SERVER"):
        config(model="dicm", store_servers=(setting,))


def test_e_has_an_activation_of_its_own_and_images_a_length_of_one(samples):
    settings = {"activation": "relu", "tower_activation": "linear", "unit_images": True}
    wanted = config(model="dicm", images="both", **settings)
    model = make_model(wanted, samples.schema, open_stores(samples))
    activations = {
        layer.activation.__name__
        for e in model.image_embeddings.values()
        for layer in e.embedding_model.layers
        if isinstance(layer, tf_keras.layers.Activation)
    }
    assert activations == {"linear"}
    assert model.unit_images


def test_servers_of_stores_that_cannot_be():
    with pytest.raises(ConfigError, match=r"store_servers, 'ads': .* each once"):
        config(model="dicm", store_servers=("ads:1", "ads:1"))
    check_are_in_cluster(["ads:1"], 2)
    with pytest.raises(ConfigError, match="has ads:2, and the cluster has 2 parameter servers"):
        check_are_in_cluster(["ads:0", "ads:2"], 2)


def test_labels_are_all_or_the_first():
    assert labels_of(config(), TWO_LABELS) == ["click", "buy"]
    assert labels_of(config(labels="first"), TWO_LABELS) == ["click"]
    assert labels_of(config(model="prerank"), TWO_LABELS) == ["click"]
    assert set(make_model(config(), TWO_LABELS, {})(BATCH)) == {"click", "buy"}
    assert make_model(config(labels="first"), TWO_LABELS, {})(BATCH).shape == (3, 1)


@pytest.mark.parametrize(("model", "images"), [("dicm", "both"), ("embedding_mlp", "none")])
def test_a_run_of_an_earlier_version_is_the_model_that_it_was(samples, tmp_path, model, images):
    run = RunDirectory(tmp_path)
    written = json.loads(config(model=model, dataset=str(samples.directory)).to_json())
    del written["images"], written["labels"], written["ams"]["min_shard_bytes"]
    run.config.write_text(json.dumps(written))
    dataclasses.replace(samples.schema, fields=TWO_LABELS.fields).save(tmp_path)
    read = run.read_config()
    assert (read.images, read.labels) == (images, "first")
    made = make_run_model(run, samples)
    assert type(made) is (Dicm if model == "dicm" else EmbeddingMlp)
    assert made(BATCH).shape == (3, 1)
    # It goes on; of several labels only if the first alone is asked for again.
    run.checkpoints.mkdir()
    (run.checkpoints / "ckpt-1.index").touch()
    wanted = config(model=model, dataset=str(samples.directory))
    run.check(dataclasses.replace(wanted, labels="first"))
    with pytest.raises(ConfigError, match=r"holds a run with labels 'first' \(now 'all'\); to con"):
        run.check(wanted)
    samples.schema.save(tmp_path)
    run.check(wanted)
    del written["aggregator"]
    run.config.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match="is not the configuration of a run of this version"):
        run.read_config()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "dicm", "images": "none"}, ConfigError, "model dicm without images is embeddi"),
        ({"images": "all"}, ConfigError, "images is 'all'; use none or ad or behaviours or both"),
        ({"labels": "some"}, ConfigError, "labels is 'some'; use all or first"),
        ({"interaction": ("layers=2",)}, ConfigError, "is 'layers=2', and embedding_mlp has none"),
        ({"model": "dcn", "interaction": ("rank=2",)}, ConfigError, "and dcn has layers; leave it"),
        (
            {"model": "dcn", "interaction": ("layers=0",)},
            ConfigError,
            "'layers=0'; dcn takes layers=1 to 64",
        ),
        (
            {"model": "pnn", "interaction": ("products=all",)},
            ConfigError,
            r"'products=all'; pnn takes products=inner\|outer\|both",
        ),
        (
            {"model": "dcn_v2", "interaction": ("experts=2",)},
            ConfigError,
            "experts are of low rank; give rank too",
        ),
        ({"model": "fm"}, ConfigError, "model is 'fm'; use lr or embedding_mlp or din or dicm or"),
        (
            {"model": "dicm", "images": "behaviours", "aggregator": "attentive"},
            ConfigError,
            "AttentivePooling asks by the ad's image and this model has none",
        ),
        (
            {"model": "prerank", "images": "both", "aggregator": "multi_query"},
            ConfigError,
            "MultiQueryAttentivePooling asks by the ad, which a user's tower does not see",
        ),
    ],
)
def test_what_does_not_go_together_is_named(samples, changes, error, message):
    with pytest.raises(error, match=message):
        make_model(config(**changes), CLICK_SCHEMA, open_stores(samples))


def test_schemas_that_lack_what_the_model_needs(samples):
    stores = open_stores(samples)
    no_behaviours = CLICK_SCHEMA.without(["liked"])
    with pytest.raises(SchemaError, match="DIN has no behaviours to attend to"):
        make_model(config(model="din"), no_behaviours, {})
    with pytest.raises(ConfigError, match=r"model din, images: both needs images, and the data s"):
        make_model(config(model="din", images="both"), CLICK_SCHEMA, {})
    no_ad = CLICK_SCHEMA.without(["image"])
    with pytest.raises(ConfigError, match="images is 'ad', and the data set's schema has no singl"):
        make_model(config(images="ad"), no_ad, stores)
    no_list = CLICK_SCHEMA.without(["liked", "liked_images"])
    with pytest.raises(ConfigError, match="'behaviours', and the data set's schema has no list of"):
        make_model(config(images="behaviours"), no_list, stores)
