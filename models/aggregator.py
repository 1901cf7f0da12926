"""What every way to make one vector of the images of a user's behaviours keeps to."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError


class Aggregator(keras.layers.Layer):
    """Base of the aggregators: `aggregator(behaviours, mask, query, ad_ids) -> [B, width]`.

    A subclass implements `aggregate` and may count on clean input: behaviours that the mask leaves
    out are zeros there, even if they were NaN. What it must keep to:

    *   The order of a user's behaviours has no influence (but for `ConcatPooling`, which exists for
        the order), nor has what stands in the padding.
    *   A user without behaviours (and a batch with T = 0) gives zeros, never NaN.
    *   All shapes but D may be unknown when traced.
    """

    needs_query = False
    """Whether `query` must be given; models refuse such an aggregator when the ad has no image."""

    of_user_alone = False
    """Whether neither `query` nor `ad_ids` are looked at, so that samples that share their
    behaviours share the result: models then aggregate once for a group."""

    shares_user = False
    """Whether it takes the behaviours of one user, [1, T, D], with the queries of many ads. A
    subclass whose `aggregate` does not sets it to False."""

    needs_ad_ids = False
    """Whether `ad_ids` must be given; models refuse such an aggregator when the ad has no ids."""

    def call(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None = None,
        ad_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Aggregates.

        Args:
            behaviours: [B, T, D] float, embeddings of the behaviours (of their images); with
                `shares_user` also [1, T, D], of one user whom all samples are of.
            mask: [B, T] or [1, T] bool, true where there is a behaviour.
            query: [B, D] float, the embedding of the ad (of its image).
            ad_ids: [B, any width] float, the ad's ID embeddings.

        Returns:
            [B, width] float; each aggregator says which width.

        Raises:
            ConfigError: If the aggregator needs what is not given.
        """
        if self.needs_query and query is None:
            raise ConfigError(
                f"{type(self).__name__} needs the ad's image as query and there is none; "
                "use SumPooling, or a schema with an image field of side 'ad'"
            )
        if self.needs_ad_ids and ad_ids is None:
            raise ConfigError(
                f"{type(self).__name__} needs the ad's ID embeddings and there are none; "
                "use AttentivePooling, or a schema with a sparse field of side 'ad'"
            )
        # Selecting (not multiplying by 0) keeps NaN out, forward and backward.
        clean = tf.where(mask[:, :, None], behaviours, tf.zeros_like(behaviours))
        return self.aggregate(clean, mask, query, ad_ids)

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """Does the work of `call`; shapes as there, behaviours are zero where there is none."""
        raise NotImplementedError


class BehaviourPooling(Aggregator):
    """Base of the aggregators that look at the behaviours alone; a subclass implements `pool`."""

    of_user_alone = True

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """See `Aggregator`."""
        return self.pool(behaviours, mask)

    def pool(self, behaviours: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Makes one vector of behaviours [B, T, D], zero where the mask [B, T] says there is none.

        Returns:
            [B, width].
        """
        raise NotImplementedError
