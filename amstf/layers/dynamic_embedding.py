"""The Keras layer that embeds ids without a vocabulary."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from amstf.dynamic import Admission, DynamicTable, StaticRows, TableLimit, TableOptions
from amstf.errors import ConfigError
from amstf.layers.rows import attach, take_rows

COMBINERS = ("sum", "mean", "sqrtn")
_NO_ID = -1
# The greatest number of buckets that TensorFlow hashes into: a string becomes 63 bits.
_HASHES = 2**63 - 1


@keras.saving.register_keras_serializable(package="amstf")
class DynamicEmbedding(keras.layers.Layer):
    """Embeds ids by a table whose rows are born as ids appear, and may die.

    To ids that have a row it is a `keras.layers.Embedding`, forward and backward. The rows are in
    this process, or on the parameter servers if the layer is made in the scope of a
    ParameterServerStrategy; then only ids, rows and gradients cross. They are updated by
    `amstf.optimizers` (SGD, Adagrad, Adam, Ftrl), slots beside the row, in one kernel. Keras' own
    optimizers do not know them: they fail, with "Shapes must be equal rank". An optimizer's weight
    decay and moving average (EMA) do not reach rows.

    `tf.train.Checkpoint` saves rows and slots; `get_weights` does not see them.

    Args:
        width: Floats of a row (D).
        combiner: How the embeddings of a list of ids become one, over the last axis: "sum", "mean"
            (sum of weight x row, over the sum of the weights) or "sqrtn" (over the root of the sum
            of their squares). None: an embedding for each id.
        initializer: What a row begins with, a function of `seed` and its id alone: a Keras
            initializer (RandomUniform, RandomNormal, Constant, Zeros, Ones) or its name.
        seed: Of the initial values, and of admission with a probability.
        admission: Which ids get a row; all at once by default.
        without_row: What an id without a row is embedded as: "zeros", or its "initial" value. It
            trains nothing.
        limit: How large the table may become, on each server.
        embeddings_regularizer: A Keras regularizer that is applied, in training, to the distinct
            rows of a batch (mini-batch aware, arXiv 1706.06978 section 4.2).
        servers: Indices of the parameter servers that hold rows; None means all of them.

    Inputs:
        Ids of any shape [...], dense or ragged, int64 (or int32) or string. -1, or "", means "no
        id": zeros, and nothing in a combination. A string is hashed to 63 bits.
        weights: Of the shape of the ids, for a combiner; by default 1.

    Returns:
        [..., D] float32; with a combiner without the last axis of the ids: zeros for an empty list.

    Raises:
        ConfigError: If an argument makes no sense.

    Attributes:
        table: The rows, `amstf.dynamic.DynamicTable`: counters, eviction.

    Example:
        >>> layer = DynamicEmbedding(2, combiner="sum", initializer="ones")
        >>> layer(tf.constant([[7, -1], [7, 123456789012]], tf.int64), training=True).numpy()
        array([[1., 1.], [2., 2.]], dtype=float32)
        >>> layer.table.counters()["rows"]
        2
    """

    def __init__(
        self,
        width: int,
        combiner: str | None = None,
        *,
        initializer: Any = "uniform",
        seed: int = 0,
        admission: Admission | None = None,
        without_row: str = "zeros",
        limit: TableLimit | None = None,
        embeddings_regularizer: Any = None,
        servers: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if combiner is not None and combiner not in COMBINERS:
            raise ConfigError(f"combiner is {combiner!r}; use {', '.join(COMBINERS)}, or None")
        self.combiner = combiner
        options = TableOptions(
            width=width,
            initializer=initializer,
            seed=seed,
            admission=admission or Admission(),
            without_row=without_row,
            limit=limit or TableLimit(),
        )
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.servers = None if servers is None else tuple(servers)
        self.table = DynamicTable(options, self.servers)
        self._static: StaticRows | None = None

    @property
    def options(self) -> TableOptions:
        """What was chosen for the table."""
        return self.table.options

    @property
    def width(self) -> int:
        """Floats of a row (D)."""
        return self.options.width

    def build(self, input_shape: Any) -> None:
        """Makes the anchor, to which the gradients of rows go."""
        # A scalar, for a partitioner cannot split it, and one, however many servers there are.
        self.anchor = self.add_weight(
            name="anchor", shape=[], dtype=tf.float32, initializer="zeros", trainable=True
        )
        self.table.own(self.anchor)
        super().build(input_shape)

    def call(self, inputs: Any, weights: Any = None, training: Any = None) -> Any:
        """Embeds ids of any shape."""
        if weights is not None and self.combiner is None:
            raise ConfigError(f"weights are for a combiner; give {self.name!r} one of {COMBINERS}")
        is_ragged = isinstance(inputs, tf.RaggedTensor)
        ids = inputs if is_ragged else tf.convert_to_tensor(inputs)
        rows, kept = self._rows(_flat(ids), training)
        if self.combiner is None:
            if is_ragged:
                return inputs.with_flat_values(rows)
            return _shaped(rows, tf.shape(ids), ids.shape, self.width)
        lists = _lists(ids)
        factors = None if weights is None else self._factors(ids, weights, rows.dtype)
        combined = _combine(self.combiner, rows, kept, factors, lists)
        return _shaped(combined, lists.outer, lists.static, self.width)

    @contextlib.contextmanager
    def static_rows(self, name: str) -> Iterator[StaticRows]:
        """Makes the layer read a copy of its rows, by stock ops, for the length of a block.

        What is traced in the block goes on to read the copy, which is no weight of the layer.

        Args:
            name: Of the copy's variables.

        Yields:
            The copy.

        Raises:
            ExportError: If stock ops cannot embed what has no row as the layer does.
        """
        self._static = StaticRows(self.table, name)
        try:
            yield self._static
        finally:
            self._static = None

    def _rows(self, flat: tf.Tensor, training: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows [n, D] of ids [n], and which of them are ids."""
        flat = _as_numbers(flat)
        kept = tf.not_equal(flat, tf.constant(_NO_ID, tf.int64))
        if self._static is not None:
            return tf.cast(self._static.lookup(flat), self.compute_dtype), kept
        training = False if training is None else training
        if self.table.is_local and training is False:
            # To find out which are distinct costs more than to look them up.
            rows = self._attached(flat, training)
        else:
            # On servers each id crosses. In training an id is admitted with all its sights of the
            # batch together, and a gradient has each row once, so that its norm is the true one.
            distinct, positions, sights = tf.unique_with_counts(flat)
            rows = take_rows(self._attached(distinct, training, sights), positions)
        return tf.cast(rows, self.compute_dtype), kept

    def _attached(
        self, ids: tf.Tensor, training: Any, sights: tf.Tensor | None = None
    ) -> tf.Tensor:
        rows = self.table.lookup(ids, tf.cast(training, tf.bool), sights)
        rows = attach(self.anchor.read_value(), ids, rows)
        self._regularize(rows, training)
        return rows

    def _regularize(self, rows: tf.Tensor, training: Any) -> None:
        if self.embeddings_regularizer is None or training is False:
            return
        loss = self.embeddings_regularizer(rows)
        self.add_loss(loss if training is True else loss * tf.cast(training, loss.dtype))

    def _factors(self, ids: Any, weights: Any, dtype: tf.DType) -> tf.Tensor:
        if isinstance(ids, tf.RaggedTensor) != isinstance(weights, tf.RaggedTensor):
            raise ConfigError(f"ids and weights of {self.name!r} must both be ragged, or none")
        if not isinstance(weights, tf.RaggedTensor):
            weights = tf.convert_to_tensor(weights)
            if not ids.shape.is_compatible_with(weights.shape):
                raise ConfigError(
                    f"weights of {self.name!r} have shape {weights.shape}, wanted that of the ids, "
                    f"{ids.shape}"
                )
        return tf.cast(_flat(weights), dtype)

    def get_config(self) -> dict[str, Any]:
        """Configuration, without the rows."""
        return {
            **super().get_config(),
            "width": self.width,
            "combiner": self.combiner,
            "initializer": keras.initializers.serialize(self.options.initializer),
            "seed": self.options.seed,
            "admission": dataclasses.asdict(self.options.admission),
            "without_row": self.options.without_row,
            "limit": dataclasses.asdict(self.options.limit),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "servers": self.servers,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DynamicEmbedding:
        """Makes the layer again, with an empty table."""
        config = dict(config)
        config["admission"] = Admission(**config["admission"])
        config["limit"] = TableLimit(**config["limit"])
        return cls(**config)


def dynamic_embeddings(model: keras.layers.Layer) -> list[DynamicEmbedding]:
    """Returns all of a model, those inside of other layers too; in the same order if made alike."""
    return [part for part in (model, *model.submodules) if isinstance(part, DynamicEmbedding)]


def named_dynamic_embeddings(model: keras.layers.Layer) -> dict[str, DynamicEmbedding]:
    """Returns all of a model by the name of the layer; of two of one name the second is NAME_1."""
    layers: dict[str, DynamicEmbedding] = {}
    for layer in dynamic_embeddings(model):
        further = (f"{layer.name}_{k}" for k in itertools.count(1))
        names = itertools.chain([layer.name], further)
        layers[next(name for name in names if name not in layers)] = layer
    return layers


def follow_tables(model: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Makes a model read the rows of another one's dynamic tables, wherever these are.

    Args:
        model: The model that follows, such as a copy in this process of one on servers.
        other: A model made in the same way.
    """
    pairs = zip(dynamic_embeddings(model), dynamic_embeddings(other), strict=True)
    for layer, followed in pairs:
        layer.table.follow(followed.table)


class _Lists(NamedTuple):
    """Which of the flat ids belong to which list.

    Attributes:
        of_id: Number of the list of each id [n], ascending.
        count: How many lists, scalar.
        outer: Shape of the ids without the last axis.
        static: The same, as far as it is known.
    """

    of_id: tf.Tensor
    count: tf.Tensor
    outer: tf.Tensor
    static: tf.TensorShape


def _lists(ids: tf.Tensor | tf.RaggedTensor) -> _Lists:
    if isinstance(ids, tf.RaggedTensor):
        if ids.shape.rank != 2:
            raise ConfigError(f"a combiner takes ragged ids [B, (T)], got shape {ids.shape}")
        count = ids.nrows()
        return _Lists(ids.value_rowids(), count, count[tf.newaxis], ids.shape[:1])
    if ids.shape.rank is None or ids.shape.rank < 1:
        raise ConfigError(f"a combiner takes ids [..., T], got shape {ids.shape}")
    shape = tf.shape(ids, tf.int64)
    count = tf.reduce_prod(shape[:-1])
    return _Lists(tf.repeat(tf.range(count), shape[-1]), count, shape[:-1], ids.shape[:-1])


def _combine(
    combiner: str, rows: tf.Tensor, kept: tf.Tensor, factors: tf.Tensor | None, lists: _Lists
) -> tf.Tensor:
    """Combines rows [n, D], of which `kept` are of ids, to [lists, D]."""

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(values, lists.of_id, lists.count)

    combined = total(rows if factors is None else rows * factors[:, tf.newaxis])
    if combiner == "sum":
        return combined
    kept = tf.cast(kept, rows.dtype)
    if combiner == "mean":
        norm = total(kept if factors is None else kept * factors)
    else:
        norm = tf.sqrt(total(kept if factors is None else kept * factors**2))
    return tf.math.divide_no_nan(combined, norm[:, tf.newaxis])


def _flat(values: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    """All values [n], one after the other."""
    if isinstance(values, tf.RaggedTensor):
        values = values.flat_values
    return tf.reshape(values, [-1])


def _as_numbers(flat: tf.Tensor) -> tf.Tensor:
    if flat.dtype != tf.string:
        return tf.cast(flat, tf.int64)
    hashed = tf.strings.to_hash_bucket_fast(flat, _HASHES)
    return tf.where(tf.equal(flat, ""), tf.constant(_NO_ID, tf.int64), hashed)


def _shaped(rows: tf.Tensor, outer: tf.Tensor, static: tf.TensorShape, width: int) -> tf.Tensor:
    shaped = tf.reshape(rows, tf.concat([outer, tf.constant([width], outer.dtype)], 0))
    return tf.ensure_shape(shaped, static.concatenate([width]))
