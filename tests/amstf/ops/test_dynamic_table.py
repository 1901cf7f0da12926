"""Ops of dynamic tables against slow references; errors are errors, never a dead process."""

import gc
import uuid

import numpy as np
import pytest
import tensorflow as tf

from amstf import ops

SETTINGS = {
    "sgd": (0.1,),
    "adagrad": (0.1, 1e-4, 0.2),
    "adam": (0.1, 0.9, 0.99, 1e-4),
    "ftrl": (0.1, -0.5, 0.01, 0.02, 0.03, 0.5, 0.2),
}
SLOTS = {"sgd": 0, "adagrad": 1, "adam": 2, "ftrl": 2}


def table(width=2, **options):
    return ops.dynamic_table(width, shared_name=uuid.uuid4().hex, **options)


def counters(handle):
    return dict(zip(ops.DYNAMIC_COUNTER_NAMES, ops.dynamic_counters(handle).numpy(), strict=True))


def ids_of(values):
    return tf.constant(values, tf.int64)


def mix(value):
    """SplitMix64's finalizer."""
    mask = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def uniform_row(seed, an_id, width, low, high):
    stream = mix(mix(seed) ^ (an_id % 2**64))
    return [low + (high - low) * (mix((stream + i) % 2**64) >> 40) / 2.0**24 for i in range(width)]


def reference_step(rule, row, slots, g, step):
    """One step on a row in float64, in place."""
    s = SETTINGS[rule]
    if rule == "sgd":
        row -= s[0] * g
    elif rule == "adagrad":
        slots[0] += g**2
        row -= s[0] * g / (np.sqrt(slots[0]) + s[1])
    elif rule == "adam":
        slots[0] = s[1] * slots[0] + (1 - s[1]) * g
        slots[1] = s[2] * slots[1] + (1 - s[2]) * g**2
        size = s[0] * np.sqrt(1 - s[2] ** step) / (1 - s[1] ** step)
        row -= size * slots[0] / (np.sqrt(slots[1]) + s[3])
    else:
        rate, power, l1, l2, shrinkage, beta, _ = s
        l2 += beta / (2 * rate)
        grown = slots[0] + g**2
        slots[1] += g + 2 * shrinkage * row - (grown**-power - slots[0] ** -power) / rate * row
        slots[0] = grown
        row[:] = (np.clip(slots[1], -l1, l1) - slots[1]) / (grown**-power / rate + 2 * l2)


@pytest.mark.parametrize("rule", SETTINGS)
@pytest.mark.parametrize("width", [1, 3, 64])
@pytest.mark.parametrize(
    "batches",
    [
        [[]],
        [[7]],
        [[7, 7, 7]],
        [[1, -5, 1], [], [2**62, -5], [-(2**63), 2**63 - 1, 0]],
        [list(range(300)), list(range(100, 500)) * 2],
    ],
    ids=["empty", "one", "same", "few", "many"],
)
def test_lookups_and_updates_equal_the_reference(rule, width, batches):
    handle = table(width, initializer="uniform", initializer_values=(-0.5, 0.5), seed=3)
    rng = np.random.default_rng(0)
    rows, slots = {}, {}
    for step, batch in enumerate(batches, 1):
        for i in batch:
            if i not in rows:
                rows[i] = np.array(uniform_row(3, i, width, -0.5, 0.5))
                slots[i] = np.zeros([2, width])
                if rule in ("adagrad", "ftrl"):
                    slots[i][0] = 0.2
        looked_up = ops.dynamic_lookup(handle, ids_of(batch), True)
        wanted = np.array([rows[i] for i in batch]).reshape(-1, width)
        np.testing.assert_allclose(looked_up, wanted, rtol=1e-4, atol=1e-5)
        gradients = rng.normal(size=(len(batch), width)).astype(np.float32)
        ops.dynamic_apply(handle, ids_of(batch), gradients, rule, SETTINGS[rule], step)
        for i in set(batch):
            total = gradients[[k for k, one in enumerate(batch) if one == i]].sum(0)
            reference_step(rule, rows[i], slots[i], total.astype(np.float64), step)
    page = ops.dynamic_export(handle)
    assert page.rule.numpy().decode() == rule
    assert page.values.shape[1] == width * (1 + SLOTS[rule])
    assert sorted(page.ids.numpy()) == sorted(rows)
    for i, values in zip(page.ids.numpy(), page.values.numpy(), strict=True):
        state = np.concatenate([rows[i], *slots[i][: SLOTS[rule]]])
        np.testing.assert_allclose(values, state, rtol=1e-4, atol=1e-5)


def test_sights_admit_and_count():
    handle = table(1, admit_after=3, filter_bytes=1 << 12, initializer_values=(2.0,))
    ids = ids_of([5, 6])
    assert ops.dynamic_lookup(handle, ids, True, tf.constant([2, 3])).numpy().ravel().tolist() == [
        0,
        2,
    ]
    assert ops.dynamic_lookup(handle, ids, False).numpy().ravel().tolist() == [0, 2]
    ops.dynamic_apply(handle, ids, [[1.0], [1.0]], "sgd", [1.0])
    assert ops.dynamic_lookup(handle, ids, True).numpy().ravel().tolist() == [2, 1]
    page = ops.dynamic_export(handle)
    seen = dict(zip(page.ids.numpy().tolist(), page.seen.numpy().tolist(), strict=True))
    assert seen[5][::2] == [2, 3] and seen[6][::2] == [2, 4]
    assert abs(seen[5][1] - tf.timestamp().numpy()) < 60
    counted = counters(handle)
    assert counted.pop("bytes") > 0
    assert counted == {
        "rows": 2, "ids_asked": 6, "ids_found": 2, "rows_admitted": 2, "ids_refused": 1,
        "rows_updated": 1, "gradients_dropped": 1, "rows_evicted": 0, "clock": 2,
        "filter_counters_used": 8,
    }  # fmt: skip


def test_initial_values_without_a_row():
    handle = table(3, initializer="normal", initializer_values=(1.0, 0.1), without_row="initial")
    before = ops.dynamic_lookup(handle, ids_of([8, 9]), False).numpy()
    assert counters(handle)["rows"] == 0
    np.testing.assert_array_equal(ops.dynamic_lookup(handle, ids_of([8, 9]), True), before)
    assert np.abs(before - 1).max() < 0.6 and np.unique(before).size == 6


@pytest.mark.parametrize(
    ("policy", "limit", "left"),
    [
        ("unseen_steps", 1, [2, 3]),
        ("unseen_since", 1e9, [0, 1, 2, 3]),
        ("unseen_since", 4e9, []),
        ("small_norm", 2.5, [2, 3]),
        ("least_recent", 2, [2, 3]),
        ("least_frequent", 1, [1]),
    ],
)
def test_evictions(policy, limit, left):
    handle = table(1)
    ops.dynamic_lookup(handle, ids_of([0, 1]), True, tf.constant([1, 9]))
    ops.dynamic_lookup(handle, ids_of([2, 3]), True, tf.constant([2, 3]))
    ops.dynamic_apply(handle, ids_of([0, 1, 2, 3]), [[0.0], [-1.0], [4.0], [3.0]], "sgd", [1.0])
    assert ops.dynamic_evict(handle, policy, limit).numpy() == 4 - len(left)
    assert sorted(ops.dynamic_export(handle).ids.numpy()) == left
    assert counters(handle)["rows_evicted"] == 4 - len(left)


def test_pages_hold_each_row_once_and_move_a_table():
    handle, other = table(2, seed=1, initializer="uniform", initializer_values=(0, 1)), table(2)
    ids = tf.range(5000, dtype=tf.int64) * 1024
    ops.dynamic_lookup(handle, ids, True)
    ops.dynamic_apply(handle, ids, tf.ones([5000, 2]), "adam", SETTINGS["adam"])
    found = []
    for page in range(7):
        rows = ops.dynamic_export(handle, page, 7)
        found += rows.ids.numpy().tolist()
        assert 300 < rows.ids.shape[0] < 1200, "pages of about the same size"
        ops.dynamic_import(other, rows)
    assert sorted(found) == ids.numpy().tolist()
    for one in (handle, other):
        ops.dynamic_apply(one, ids, tf.ones([5000, 2]), "adam", SETTINGS["adam"], 2)
    np.testing.assert_array_equal(
        ops.dynamic_lookup(handle, ids, False), ops.dynamic_lookup(other, ids, False)
    )
    ops.dynamic_clear(other, 17)
    assert counters(other)["rows"] == 0 and counters(other)["clock"] == 17


def test_what_a_filter_counted_moves():
    one, other = (table(2, admit_after=3, filter_bytes=6400) for _ in range(2))
    ops.dynamic_lookup(one, ids_of([4, 5]), True, [2, 1])
    counted = ops.dynamic_filter(one)
    assert counted.shape == [6400] and sorted(set(counted.numpy())) == [0, 1, 2]
    ops.dynamic_merge_filter(other, counted)
    np.testing.assert_array_equal(ops.dynamic_filter(other), counted)
    assert counters(other)["filter_counters_used"] == counters(one)["filter_counters_used"]
    ops.dynamic_lookup(other, ids_of([4, 5]), True)
    assert ops.dynamic_export(other).ids.numpy().tolist() == [4]
    assert ops.dynamic_filter(table(2)).shape == [0]


def test_limits_hold():
    handle = table(4, max_rows=10, at_limit="refuse")
    ops.dynamic_lookup(handle, tf.range(100, dtype=tf.int64), True)
    assert counters(handle)["rows"] == 10 and counters(handle)["ids_refused"] == 90
    handle = table(4, max_bytes=8 << 20)
    for begin in range(0, 300_000, 10_000):
        ops.dynamic_lookup(handle, tf.range(begin, begin + 10_000, dtype=tf.int64), True)
    counted = counters(handle)
    assert counted["bytes"] <= 8 << 20 and counted["rows"] > 100_000
    assert counted["rows"] == counted["rows_admitted"] - counted["rows_evicted"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: ops.dynamic_lookup(t, [[1]], True), "Invalid", "ids must be of rank 1"),
        (lambda t: ops.dynamic_lookup(t, [1], [True]), "Invalid", "training must be of rank 0"),
        (lambda t: ops.dynamic_lookup(t, [1], True, [1, 2]), "Invalid", "sights has 2 elements"),
        (lambda t: ops.dynamic_lookup(t, [1], True, [0]), "Invalid", "sights holds 0; wanted 1"),
        (lambda t: ops.dynamic_apply(t, [1], [[1.0]], "sgd", [1]), "Invalid", r"wanted \[1,2\]"),
        (lambda t: ops.dynamic_apply(t, [1, 2], [[1.0] * 2], "sgd", [1]), "Invalid", r"\[2,2\]"),
        (lambda t: ops.dynamic_apply(t, [1], [[1.0] * 2], "adam", [1]), "Invalid", "has 1 values"),
        (lambda t: ops.dynamic_apply(t, [], tf.zeros([0, 2]), "adam", SETTINGS["adam"], 0),
         "Invalid", "step counts from 1"),
        (lambda t: ops.dynamic_apply(t, [], tf.zeros([0, 2]), "sgd", [1]), "Failed",
         "updated by adagrad, not by sgd"),
        (lambda t: ops.dynamic_export(t, 2, 2), "Invalid", "page is 2 of 2"),
        (lambda t: ops.dynamic_export(t, 0, 65), "Invalid", "wanted one of at most 64"),
        (lambda t: ops.dynamic_evict(t, "small_norm", float("nan")), "Invalid", "limit"),
        (lambda t: ops.dynamic_import(t, ops.DynamicRows(
            ids_of([1]), tf.zeros([1, 3]), tf.zeros([1, 3], tf.int64), "adagrad", 0.1)),
         "Invalid", "has 3 values; wanted 4"),
        (lambda t: ops.dynamic_import(t, ops.DynamicRows(
            ids_of([1]), tf.zeros([1, 4]), tf.zeros([1, 3], tf.int64), "adan", 0.1)),
         "Invalid", "rule is 'adan'"),
        (lambda t: table(2, admit_after=2), "Invalid", "needs a filter"),
        (lambda t: ops.dynamic_merge_filter(t, tf.zeros([3], tf.uint8)), "Invalid",
         "counters has 3 elements; wanted those of a filter of 0 bytes"),
        (lambda t: ops.dynamic_merge_filter(t, tf.zeros([3, 1], tf.uint8)), "Invalid",
         "counters must be of rank 1"),
        (lambda t: table(2, initializer="normal"), "Invalid", "initializer_values has 1 values"),
    ],
)  # fmt: skip
def test_bad_calls_are_errors(call, error, message):
    handle = table(2)
    ops.dynamic_apply(handle, ids_of([]), tf.zeros([0, 2]), "adagrad", SETTINGS["adagrad"])
    kind = {"Invalid": tf.errors.InvalidArgumentError, "Failed": tf.errors.FailedPreconditionError}
    with pytest.raises(kind[error], match=message):
        call(handle)


def test_a_name_is_a_table():
    name = uuid.uuid4().hex
    first = ops.dynamic_table(2, shared_name=name)
    ops.dynamic_lookup(first, ids_of([1]), True)
    assert counters(ops.dynamic_table(2, shared_name=name))["rows"] == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="made with other options"):
        ops.dynamic_table(2, shared_name=name, seed=1)
    del first
    gc.collect()
    assert counters(ops.dynamic_table(2, shared_name=name))["rows"] == 1
