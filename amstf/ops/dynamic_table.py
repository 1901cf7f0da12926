"""Ops on a table of rows that are born as their ids appear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from amstf.ops._load import load_library

DYNAMIC_COUNTER_NAMES = (
    "rows",
    "bytes",
    "ids_asked",
    "ids_found",
    "rows_admitted",
    "ids_refused",
    "rows_updated",
    "gradients_dropped",
    "rows_evicted",
    "clock",
    "filter_counters_used",
)
"""Rows and bytes now; ids asked for in lookups, of them those with a row; rows that were born, ids
that were seen in training and got none; rows that were updated, gradients of ids without a row;
rows that died; training lookups; counters of the admission filter that are not 0."""

EVICTION_POLICIES = ("unseen_steps", "unseen_since", "small_norm", "least_recent", "least_frequent")

MAX_PAGES = 64
"""Into so many parts a table can be cut for `dynamic_export`."""


class DynamicRows(NamedTuple):
    """Rows of a table with all that is known of them.

    Attributes:
        ids: int64 [n].
        values: Weights, and behind them each slot of the optimizer, float32 [n, D * (1 + slots)].
        seen: Step and second (since 1970) in which each was last seen, and how often, int64 [n, 3].
        rule: The optimizer of the rows, string scalar; empty before the first update.
        initial_accumulator: What the first slot of a new row begins with, float32 scalar.
    """

    ids: tf.Tensor
    values: tf.Tensor
    seen: tf.Tensor
    rule: tf.Tensor
    initial_accumulator: tf.Tensor


def dynamic_table(
    width: int,
    *,
    initializer: str = "constant",
    initializer_values: Sequence[float] = (0.0,),
    seed: int = 0,
    admit_after: int = 1,
    filter_bytes: int = 0,
    admit_probability: float = 1.0,
    without_row: str = "zeros",
    max_rows: int = 0,
    max_bytes: int = 0,
    at_limit: str = "least_recent",
    shared_name: str = "",
) -> tf.Tensor:
    """Makes a table on the current device, or finds it by its name.

    Args:
        width: Floats of a row (D).
        initializer: What a row begins with, a function of seed and id: "constant", "uniform" or
            "normal".
        initializer_values: The constant; lower and upper bound; or mean and standard deviation.
        seed: Of initial values, and of admission with a probability.
        admit_after: An id gets a row when it has been seen so often, 1 to 255.
        filter_bytes: Size of the counting Bloom filter that counts ids without a row.
        admit_probability: An id is admitted with this probability each time that it is seen.
        without_row: What a lookup gives for an id without a row: "zeros" or its "initial" value.
        max_rows: Of the table; 0 is no limit.
        max_bytes: Of rows, index and filter; 0 is no limit.
        at_limit: Whether a new id is refused at the limit ("refuse"), or which row makes place for
            it ("least_recent", "least_frequent").
        shared_name: Name of the table in the device's process.

    Returns:
        Resource handle, a scalar.

    Raises:
        tf.errors.InvalidArgumentError: If a value makes no sense, or a table of this name was made
            with other options.
    """
    return load_library().ams_dynamic_table(
        width=width,
        initializer=initializer,
        initializer_values=list(initializer_values),
        seed=seed,
        admit_after=admit_after,
        filter_bytes=filter_bytes,
        admit_probability=admit_probability,
        without_row=without_row,
        max_rows=max_rows,
        max_bytes=max_bytes,
        at_limit=at_limit,
        shared_name=shared_name,
    )


def dynamic_lookup(
    table: tf.Tensor, ids: tf.Tensor, training: Any, sights: tf.Tensor | None = None
) -> tf.Tensor:
    """Looks up the rows of ids; in training it sees the ids and admits them.

    Args:
        table: Handle from `dynamic_table`.
        ids: Any 64-bit numbers, int64 [n], also several times. -1 is no id: zeros, and never seen.
        training: Whether ids are seen, bool scalar: a training lookup is a step of the clock.
        sights: How often each id occurs in the batch, int32 [n]; by default once each.

    Returns:
        Rows, float32 [n, D]. No gradient: see `amstf.layers.DynamicEmbedding`.

    Raises:
        tf.errors.InvalidArgumentError: If `sights` has another size, or holds less than 1.
    """
    return load_library().ams_dynamic_lookup(
        handle=table,
        ids=ids,
        sights=tf.zeros([0], tf.int32) if sights is None else sights,
        training=training,
    )


def dynamic_apply(
    table: tf.Tensor,
    ids: tf.Tensor,
    gradients: tf.Tensor,
    rule: str,
    settings: Sequence[Any],
    step: Any = 1,
) -> tf.Operation:
    """Updates rows with one step of an optimizer, weights and slots of a row together.

    Gradients of an id that comes several times are summed first. Ids without a row are left out.

    Args:
        table: Handle from `dynamic_table`.
        ids: int64 [n].
        gradients: float32 [n, D].
        rule: "sgd", "adagrad", "adam" (lazy) or "ftrl"; the first update fixes it for the table.
        settings: Scalars. sgd: learning rate. adagrad: learning rate, epsilon, initial accumulator.
            adam: learning rate, beta1, beta2, epsilon. ftrl: learning rate, learning rate power
            (not positive), l1, l2, l2 shrinkage, beta, initial accumulator.
        step: Number of the step, from 1, for adam, scalar.

    Raises:
        tf.errors.InvalidArgumentError: If shapes or settings make no sense.
        tf.errors.FailedPreconditionError: If the table's rows are updated by another rule.
    """
    return load_library().ams_dynamic_apply(
        handle=table,
        ids=ids,
        gradients=gradients,
        settings=tf.stack([tf.cast(value, tf.float32) for value in settings]),
        step=tf.cast(step, tf.int64),
        rule=rule,
    )


def dynamic_counters(table: tf.Tensor) -> tf.Tensor:
    """Reads what a table holds and has done; names in `DYNAMIC_COUNTER_NAMES`.

    Args:
        table: Handle from `dynamic_table`.

    Returns:
        int64 [11].
    """
    return load_library().ams_dynamic_counters(handle=table)


def dynamic_evict(table: tf.Tensor, policy: str, limit: float) -> tf.Tensor:
    """Removes rows.

    Args:
        table: Handle from `dynamic_table`.
        policy: One of `EVICTION_POLICIES`: rows not seen in the last `limit` steps, or since second
            `limit` of 1970; rows whose L2 norm is below `limit`; or those seen longest ago, or
            least often, until `limit` rows are left.
        limit: See there.

    Returns:
        How many rows were removed, int64 scalar.

    Raises:
        tf.errors.InvalidArgumentError: If the limit is negative or no number.
    """
    return load_library().ams_dynamic_evict(
        handle=table, limit=tf.cast(limit, tf.float64), policy=policy
    )


def dynamic_export(table: tf.Tensor, page: Any = 0, num_pages: Any = 1) -> DynamicRows:
    """Copies a part of the rows, in no order.

    Args:
        table: Handle from `dynamic_table`.
        page: Which part, from 0.
        num_pages: Into how many parts of about the same size the table is cut, at most `MAX_PAGES`.

    Raises:
        tf.errors.InvalidArgumentError: If there is no such page.
    """
    return DynamicRows(
        *load_library().ams_dynamic_export(
            handle=table, page=tf.cast(page, tf.int64), num_pages=tf.cast(num_pages, tf.int64)
        )
    )


def dynamic_import(table: tf.Tensor, rows: DynamicRows) -> tf.Operation:
    """Takes rows into a table, in place of those of the same ids.

    Args:
        table: Handle from `dynamic_table`.
        rows: As from `dynamic_export`.

    Raises:
        tf.errors.InvalidArgumentError: If the values are not those of the rule and the width.
        tf.errors.FailedPreconditionError: If the table's rows are updated by another rule.
    """
    return load_library().ams_dynamic_import(
        handle=table,
        ids=rows.ids,
        values=rows.values,
        seen=rows.seen,
        rule=rows.rule,
        initial_accumulator=rows.initial_accumulator,
    )


def dynamic_filter(table: tf.Tensor) -> tf.Tensor:
    """Copies what the admission filter of a table has counted.

    Args:
        table: Handle from `dynamic_table`.

    Returns:
        A counter for each byte of the filter, uint8 [n]; empty if ids are not counted.
    """
    return load_library().ams_dynamic_filter(handle=table)


def dynamic_merge_filter(table: tf.Tensor, counters: tf.Tensor) -> tf.Operation:
    """Takes what another filter has counted: of each counter and its own the greater one.

    So no id has a count below the greater one that it had in the two.

    Args:
        table: Handle from `dynamic_table`.
        counters: As from `dynamic_filter`, uint8 [n].

    Raises:
        tf.errors.InvalidArgumentError: If the filter of the table is of another size.
    """
    return load_library().ams_dynamic_merge_filter(handle=table, counters=counters)


def dynamic_clear(table: tf.Tensor, clock: Any = 0) -> tf.Operation:
    """Forgets all rows, what the admission filter has counted, and the rule.

    Args:
        table: Handle from `dynamic_table`.
        clock: What the clock shows from now on, scalar.
    """
    return load_library().ams_dynamic_clear(handle=table, clock=tf.cast(clock, tf.int64))


for _op in (
    "AmsDynamicTable", "AmsDynamicLookup", "AmsDynamicApply", "AmsDynamicCounters",
    "AmsDynamicEvict", "AmsDynamicExport", "AmsDynamicImport", "AmsDynamicFilter",
    "AmsDynamicMergeFilter", "AmsDynamicClear",
):  # fmt: skip
    tf.no_gradient(_op)
