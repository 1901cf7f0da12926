"""Models on batches of groups: as on the same impressions one by one, with the user's part once."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.data import GROUP_INDEX
from models import (
    AGGREGATORS,
    BASE_NETWORKS,
    ConcatPooling,
    Dicm,
    Din,
    EmbeddingMlp,
    LogisticRegression,
    SumPooling,
    TwoTower,
    image_tower,
)
from models.id_embedding import of_width
from tests.helpers import (
    CLICK_SCHEMA,
    assert_gradients_match,
    assert_weights_survive,
    random_batch,
    tensors,
)
from tests.models.test_dicm import write_store

OF_GROUP = [n for f in CLICK_SCHEMA.inputs if f.is_common for n in (f.name, f.weight_name)]

ONE_WIDTH = of_width(CLICK_SCHEMA, 2)
FIELDS = [base for base in BASE_NETWORKS if base not in ("lr", "mlp", "din")]
MODELS = {
    "mlp": lambda store: EmbeddingMlp(CLICK_SCHEMA, hidden=(6,)),
    "lr": lambda store: LogisticRegression(CLICK_SCHEMA),
    "din": lambda store: Din(CLICK_SCHEMA, hidden=(6,)),
    **{
        f"dicm {base} {aggregator}": lambda store, base=base, aggregator=aggregator: Dicm(
            CLICK_SCHEMA,
            store,
            image_tower((4, 3)),
            ConcatPooling(3) if aggregator == "concat" else aggregator,
            hidden=(6,),
            base=base,
        )
        for base in ("lr", "mlp", "din")
        for aggregator in AGGREGATORS
    },
    **{
        base: lambda store, base=base: BASE_NETWORKS[base](ONE_WIDTH, hidden=(6,))
        for base in FIELDS
    },
    **{
        f"towers {aggregator}": lambda store, aggregator=aggregator: TwoTower(
            CLICK_SCHEMA,
            store,
            image_tower((4, 3)),
            ConcatPooling(3) if aggregator == "concat" else aggregator,
            hidden=(6, 4),
        )
        for aggregator in ("sum", "max", "concat")
    },
}
"""Name -> what makes a model: base networks with every aggregator, those of fields without."""

SIZES = {"several": [3, 1, 2, 4], "of one": [1, 1, 1], "one impression": [1]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "images.h5")


def both(sizes, length=4):
    """Returns the same impressions as a batch of groups and as one without groups."""
    index = np.repeat(np.arange(len(sizes)), sizes)
    of_users = random_batch(CLICK_SCHEMA, len(sizes), length, seed=1)
    of_ads = random_batch(CLICK_SCHEMA, len(index), length, seed=2)
    grouped = {name: (of_users if name in OF_GROUP else of_ads)[name] for name in of_ads}
    plain = {name: v[index] if name in OF_GROUP else v for name, v in grouped.items()}
    return {**tensors(grouped), GROUP_INDEX: tf.constant(index, tf.int64)}, tensors(plain)


def clicks_of(batch):
    return tf.cast(batch["item"] % 2, tf.float32)[:, None]


@pytest.mark.parametrize("name", MODELS)
def test_predictions_and_gradients_are_those_of_the_impressions(store, name):
    keras.utils.set_random_seed(4)
    model = MODELS[name](store)
    for sizes, length in [*((sizes, 4) for sizes in SIZES.values()), ([2, 3], 0)]:
        results = []
        for batch in both(sizes, length):
            with tf.GradientTape() as tape:
                predicted = model(batch, training=False)
                loss = keras.losses.BinaryCrossentropy()(clicks_of(batch), predicted)
            gradients = tape.gradient(loss, model.trainable_variables)
            results.append([predicted, *map(tf.convert_to_tensor, gradients)])
        assert results[0][0].shape == (sum(sizes), 1)
        for grouped, plain in zip(*results, strict=True):
            np.testing.assert_allclose(grouped, plain, atol=1e-6, err_msg=str((sizes, length)))


@pytest.mark.parametrize("name", ["dicm mlp sum", "dicm din multi_query"])
def test_gradients(store, name):
    grouped, _ = both([3, 1, 2])
    model = MODELS[name](store)
    model(grouped)

    def loss():
        return tf.reduce_sum(tf.sin(3 * model(grouped, training=False)))

    assert_gradients_match(loss, model.trainable_variables, samples=2)


def test_fit_is_that_of_the_impressions(store):
    trained = []
    for batch in both(SIZES["several"]):
        keras.utils.set_random_seed(4)
        # Dice and its averages of a batch are those of the impressions, not of the groups.
        model = MODELS["dicm din attentive"](store)
        model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
        data = tf.data.Dataset.from_tensors((batch, clicks_of(batch))).repeat()
        history = model.fit(data, steps_per_epoch=4, verbose=0).history["loss"]
        predicted = model.predict(data, steps=1, verbose=0)
        trained.append([history, predicted, *model.get_weights()])
    for grouped, plain in zip(*trained, strict=True):
        np.testing.assert_allclose(grouped, plain, atol=1e-5)


def test_what_is_the_users_is_computed_once_for_a_group(store):
    rows = []

    class Spy(SumPooling):
        def aggregate(self, behaviours, mask, query, ad_ids):
            rows.append(len(behaviours))
            return super().aggregate(behaviours, mask, query, ad_ids)

    asked = []

    class Table(keras.layers.Layer):
        def call(self, ids):
            asked.append(int(tf.size(ids)))
            return tf.one_hot(ids, 3)

    model = Dicm(CLICK_SCHEMA, image_embedding=Table(), aggregator=Spy())
    grouped, plain = both([3, 1, 2, 4])
    grouped_row, plain_row = model(grouped), model(plain)
    assert rows == [4, 10] and asked == [4 * 4 + 10, 10 * 4 + 10]
    np.testing.assert_allclose(grouped_row, plain_row, atol=1e-6)


def test_an_aggregator_that_asks_by_the_ad_is_asked_for_each_impression(store):
    class TakesQuery(SumPooling):
        of_user_alone = False

        def aggregate(self, behaviours, mask, query, ad_ids):
            return query

    model = Dicm(CLICK_SCHEMA, store, image_tower((4, 3)), TakesQuery())
    grouped, plain = both([3, 1, 2])
    np.testing.assert_allclose(model(grouped), model(plain), atol=1e-6)
    assert model.join(grouped).shape == model.join(plain).shape


def test_weights_survive(store, tmp_path):
    grouped, _ = both([3, 1, 2])
    assert_weights_survive(lambda: MODELS["dicm mlp attentive"](store), grouped, str(tmp_path))
