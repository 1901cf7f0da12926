"""How embeddings of ids are kept from saying more than was seen of an id."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.schema import SPARSE, Field
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
@dataclasses.dataclass(frozen=True)
class IdRegularization(keras.regularizers.Regularizer):
    """Regularisation of ID embeddings by how often an id occurs in training.

    n_j is the number of occurrences of id j in the training data, in all fields that share its
    table. It is a weight of `IdEmbedding` (`occurrences`, not trained), filled by
    `IdEmbedding.count`; until then it is 0.

    - L2, mini-batch aware (DIN, arXiv 1706.06978, section 4.2): in each step the loss gets
      `l2 * sum_j a_j / n_j |w_j|^2`, where a_j is 1 if the mini-batch has id j. So in one pass an
      id that occurs in n_j mini-batches is pulled to zero once by l2, however frequent it is.
    - Gate: an embedding is scaled by `n_j / (n_j + gate)`. An id that was hardly seen says little,
      a new one nothing.
    - Dropout: in training a value is replaced by the row of unknown ids with probability
      `dropout`, so that this row becomes the average id, and the rest of the model learns to do
      without. From then on an id with n_j = 0 *is* unknown in these fields, in training and after.

    Args:
        l2: Factor of the L2 loss; 0 for none.
        gate: Occurrences after which an id says half of what it could; 0 for no gate.
        gate_fields: Names of the fields with a gate; by default the sparse fields of side "ad" that
            are no lists.
        dropout: Probability of replacement, below 1.
        dropout_fields: Names of the fields with dropout; by default as for the gate, those without
            a row of unknown ids (hashed ones) left out.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> rule = IdRegularization(l2=0.1, gate=3.0)
        >>> rule.gate_of(tf.constant([0.0, 1.0, 9.0])).numpy().tolist()
        [0.0, 0.25, 0.75]
    """

    l2: float = 0.0
    gate: float = 0.0
    gate_fields: tuple[str, ...] | None = None
    dropout: float = 0.0
    dropout_fields: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("gate_fields", "dropout_fields"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))
        for name, end in (("l2", float("inf")), ("gate", float("inf")), ("dropout", 1.0)):
            if not 0 <= getattr(self, name) < end:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; wanted a number from 0 to below {end}"
                )

    def __call__(self, rows: tf.Tensor, occurrences: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the L2 loss of distinct rows [N, width] that occur so often [N]."""
        squares = tf.reduce_sum(tf.square(rows), axis=-1)
        if occurrences is not None:
            # Not below 1: a row may be used that was not counted, as before `IdEmbedding.count`.
            squares /= tf.maximum(occurrences, 1.0)
        return self.l2 * tf.reduce_sum(squares)

    def gate_of(self, occurrences: tf.Tensor) -> tf.Tensor:
        """Returns the factor of embeddings of ids that occur so often, of the same shape."""
        return occurrences / (occurrences + self.gate)

    def gated(self, fields: Sequence[Field]) -> frozenset[str]:
        """Returns the names of the fields that have a gate; raises SchemaError."""
        return _chosen("gate_fields", self.gate, self.gate_fields, fields, hashed=True)

    def dropped(self, fields: Sequence[Field]) -> frozenset[str]:
        """Returns the names of the fields that have dropout; raises SchemaError."""
        return _chosen("dropout_fields", self.dropout, self.dropout_fields, fields, hashed=False)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def _chosen(
    argument: str,
    strength: float,
    names: tuple[str, ...] | None,
    fields: Sequence[Field],
    hashed: bool,
) -> frozenset[str]:
    if not strength:
        return frozenset()
    possible = [f for f in fields if f.num_ids and (hashed or not f.hash_size)]
    if names is None:
        names = tuple(
            f.name for f in possible if f.side == "ad" and f.kind == SPARSE and not f.is_list
        )
    wrong = [name for name in names if name not in {f.name for f in possible}]
    if wrong or not names:
        kind = "field of ids" if hashed else "field of ids with a row for unknown ones (not hashed)"
        raise SchemaError(
            f"{argument} is {', '.join(wrong) or 'empty'}; wanted a {kind}, of these: "
            f"{', '.join(f.name for f in possible) or 'none'}"
        )
    return frozenset(names)
