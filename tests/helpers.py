"""What several tests of layers and models need."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.data import Samples
from amstf.schema import DENSE, IMAGE, WEIGHTED_SPARSE, Field, Schema

CLICK_SCHEMA = Schema(
    (
        Field("user", "sparse", side="user", vocabulary_size=20, embedding_width=3),
        Field("liked", "sparse", side="user", is_list=True, vocabulary_size=30, embedding_width=2,
              table="item", source="liked_images", combiner="mean"),
        Field("words", "weighted_sparse", side="user", is_list=True, dtype="string", hash_size=7,
              embedding_width=2),
        Field("item", "sparse", side="ad", vocabulary_size=30, embedding_width=2),
        Field("price", "dense", side="ad", length=2),
        Field("image", "image", side="ad"),
        Field("liked_images", "image", side="user", is_list=True),
        Field("click", "label"),
        Field("user_key", "group"),
    )
)  # fmt: skip
"""One field of each kind; `liked` sees the ids of the behaviours' images."""


def random_batch(
    schema: Schema, batch_size: int, length: int, num_images: int = 30, seed: int = 0
) -> dict[str, np.ndarray]:
    """Makes a padded batch of the schema's input fields; some lists are empty, some ids missing."""
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    lengths = rng.integers(0, length + 1, size=batch_size)
    inside = np.arange(length)[None, :] < lengths[:, None]
    for field in schema.inputs:
        if field.kind == DENSE:
            batch[field.name] = rng.normal(size=(batch_size, field.length)).astype(np.float32)
            continue
        shape = (batch_size, length) if field.is_list else (batch_size,)
        ids = rng.integers(num_images if field.kind == IMAGE else field.num_ids, size=shape)
        if field.dtype == "string":
            ids = np.vectorize("w{}".format, otypes=[object])(ids) if ids.size else ids.astype("O")
        if field.is_list:
            ids = np.where(inside, ids, "" if field.dtype == "string" else -1)
        elif field.kind == IMAGE and batch_size > 2:
            ids[1] = -1
        batch[field.name] = ids
        if field.kind == WEIGHTED_SPARSE:
            weights = rng.uniform(0.5, 2, size=shape) * inside
            batch[field.weight_name] = weights.astype(np.float32)
    for field in schema.inputs:
        if field.source in batch:
            batch[field.name] = batch[field.source]
    return batch


def tensors(batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Returns the batch as tensors, strings included."""
    return {
        name: tf.constant(value, tf.string if value.dtype == object else None)
        for name, value in batch.items()
    }


def ragged(schema: Schema, batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Returns the batch with its padded lists as RaggedTensors."""
    result = tensors(batch)
    for field in schema.inputs:
        if not field.is_list:
            continue
        padding = "" if field.dtype == "string" else -1
        names = [field.name] + [field.weight_name] * (field.kind == WEIGHTED_SPARSE)
        mask = batch[field.name] != padding
        for name in names:
            result[name] = tf.ragged.boolean_mask(result[name], mask)
    return result


def assert_gradients_match(
    loss: Callable[[], tf.Tensor], variables: Sequence[tf.Variable], samples: int = 6
) -> None:
    """Compares the tape's gradients with central differences at a few places of each variable.

    Also fails if a gradient is None or zero everywhere, as then nothing was compared. Shakes the
    variables first: PReLU starts with slope 0 and bias 0, where many inputs lie on its very kink.
    """
    rng = np.random.default_rng(0)
    for variable in variables:
        variable.assign_add(rng.normal(0, 0.2, size=variable.shape).astype(np.float32))
    traced = tf.function(loss)
    with tf.GradientTape() as tape:
        value = traced()
    step = 5e-4  # small beside the distance to a PReLU's kink, large beside float32 noise
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        assert gradient is not None, f"{variable.name} has no gradient"
        gradient = tf.convert_to_tensor(gradient).numpy().ravel()
        assert np.any(gradient != 0), f"{variable.name} has a gradient of zeros"
        original = variable.numpy()
        # The largest entry is among them, so that at least one comparison says something.
        places = {int(np.abs(gradient).argmax()), *rng.integers(original.size, size=samples)}
        for place in places:
            values = []
            for sign in (1, -1):
                moved = original.copy().ravel()
                moved[place] += sign * step
                variable.assign(moved.reshape(original.shape))
                values.append(float(traced()))
            variable.assign(original)
            numeric = (values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(
                gradient[place], numeric, rtol=2e-2, atol=2e-3, err_msg=variable.name
            )


def assert_model_gradients_match(model: keras.Model, batch: dict, samples: int = 6) -> None:
    """Does what `assert_gradients_match` does, of a click model's loss and all its weights.

    Args:
        model: The model, which need not have its variables yet.
        batch: 16 samples.
        samples: Places of each variable.
    """
    labels = tf.cast(tf.random.stateless_uniform([16, 1], [1, 2]) > 0.5, tf.float32)
    loss = lambda: 10 * keras.losses.BinaryCrossentropy()(labels, model(batch))  # noqa: E731
    loss()
    assert_gradients_match(loss, model.trainable_variables, samples)


def assert_weights_survive(make: Callable[[], keras.Model], batch: dict, directory: str) -> None:
    """Saves weights and a checkpoint, and compares the predictions of models that load them."""
    model, fresh = make(), make()
    want, start = model(batch).numpy(), fresh(batch).numpy()
    assert not np.allclose(start, want), "two models must start different"
    initial = fresh.get_weights()
    for weights in ("model.weights.h5", "weights"):
        model.save_weights(f"{directory}/{weights}")
        fresh.set_weights(initial)
        fresh.load_weights(f"{directory}/{weights}")
        np.testing.assert_array_equal(fresh(batch).numpy(), want)
    path = tf.train.Checkpoint(model=model).save(f"{directory}/checkpoint")
    fresh.set_weights(initial)
    tf.train.Checkpoint(model=fresh).restore(path).assert_consumed()
    np.testing.assert_array_equal(fresh(batch).numpy(), want)
    # Restored first and called later: the variables take their values when they are made.
    lazy = make()
    tf.train.Checkpoint(model=lazy).restore(path)
    np.testing.assert_array_equal(lazy(batch).numpy(), want)


def read_samples(directory: str | os.PathLike, split: str) -> list[dict[str, np.ndarray]]:
    """Returns the samples of a split of a data set, in the order that they were written in."""
    batches = Samples.open(directory).dataset(split, 1, only_inputs=False)
    return [{name: values.numpy()[0] for name, values in batch.items()} for batch in batches]
