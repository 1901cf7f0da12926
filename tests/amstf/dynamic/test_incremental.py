"""Incremental checkpoints: a full one and what follows are the table, whatever was killed."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from amstf.dynamic import (
    UNFINISHED_FILES,
    Admission,
    DynamicTable,
    IncrementalCheckpoints,
    TableLimit,
    TableOptions,
)
from amstf.errors import ConfigError
from launch import checkpoints
from tests.amstf.dynamic.killed_training import train

ROOT = pathlib.Path(__file__).parents[3]
ADAM = [0.1, 0.9, 0.999, 1e-7]


def table(limit=None):
    return DynamicTable(TableOptions(4, seed=7, limit=limit or TableLimit()))


def saver_of(one, directory, full_every, whole=2):
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(table=one),
        str(directory),
        max_to_keep=IncrementalCheckpoints.checkpoints_to_keep(whole, full_every),
    )
    return IncrementalCheckpoints(manager, [one], full_every)


def rows_of(one):
    """Id -> weights with slots, and when and how often it was seen."""
    found = {}
    for _, page in one.pages():
        for row_id, values, seen in zip(*(part.numpy() for part in page[:3]), strict=True):
            found[int(row_id)] = values.tolist(), seen.tolist()
    return found


def without_seconds(rows):
    return {i: (values, step, sights) for i, (values, (step, _, sights)) in rows.items()}


def restored(path):
    one = table()
    tf.train.Checkpoint(table=one).restore(path).assert_consumed()
    return one


def see(one, ids, step, update=True):
    ids = tf.constant(ids, tf.int64)
    rows = one.lookup(ids, training=True)
    if update:
        one.apply(tf.IndexedSlices(tf.cos(rows * step), ids), "adam", ADAM, step)


def size(path):
    return sum(file.stat().st_size for file in pathlib.Path(path).parent.glob(
        pathlib.Path(path).name + ".data*"))  # fmt: skip


def test_the_full_one_and_what_follows_are_the_table(tmp_path):
    one = table()
    saver = saver_of(one, tmp_path, 10)
    see(one, range(5000), 1, update=False)  # Without slots: no optimizer has been there yet.
    paths, wanted = [saver.save()], [rows_of(one)]
    for step, ids in ((2, [1, 2, 3]), (3, [3, 9000]), (4, range(0, 5000, 50))):
        see(one, ids, step)
        paths.append(saver.save())
        wanted.append(rows_of(one))
    for path, rows in zip(paths, wanted, strict=True):
        copy = restored(path)
        assert rows_of(copy) == rows
        assert copy.counters()["clock"] == one.counters()["clock"] - (3 - paths.index(path))
    assert size(paths[1]) < size(paths[0]) / 20 > size(paths[2])
    # The copy goes on as the table does.
    for each in (one, copy):
        see(each, [1, 77], 5)
    assert rows_of(copy) == rows_of(one)


def test_rows_that_died_do_not_come_back(tmp_path):
    one = table()
    saver = saver_of(one, tmp_path, 10)
    see(one, range(100), 1)
    saver.save()
    see(one, range(50), 2)
    assert one.evict("unseen_steps", 1) == 50
    saver.save()
    see(one, [99, 3], 3)  # Born again, with its initial value.
    saver.save()
    one.evict("least_recent", 2)
    last = saver.save()
    assert rows_of(restored(last)).keys() == {3, 99}
    assert rows_of(restored(last)) == rows_of(one)
    one.evict("unseen_steps", 0)
    assert rows_of(restored(saver.save())) == rows_of(one) == {}


def test_rows_whose_place_others_took_do_not_come_back(tmp_path):
    one = table(TableLimit(rows=300))
    saver = saver_of(one, tmp_path, 5)
    for step in range(1, 13):
        see(one, np.random.default_rng(step).choice(2000, 120, replace=False), step)
        path = saver.save()
        assert rows_of(restored(path)) == rows_of(one)
    assert one.counters()["rows_evicted"] > 500


def test_enough_is_kept_and_one_whose_parent_is_gone_is_skipped(tmp_path, capfd):
    one = table()
    saver = saver_of(one, tmp_path, 3, whole=2)
    rows = []
    for step in range(1, 12):
        see(one, [step, step + 100], step)
        saver.save(step)
        rows.append(rows_of(one))
        for path in tf.train.get_checkpoint_state(str(tmp_path)).all_model_checkpoint_paths[-2:]:
            assert rows_of(restored(path)) == rows[checkpoints.step_of(path) - 1]
    kept = sorted(checkpoints.step_of(p.stem) for p in tmp_path.glob("*.index"))
    assert kept == [8, 9, 10, 11]
    # 10 is a full one: 1, 4, 7 and 10 are.
    assert size(tmp_path / "ckpt-10") > size(tmp_path / "ckpt-11")
    for file in tmp_path.glob("ckpt-10.*"):
        file.unlink()
    checkpoint = tf.train.Checkpoint(table=table())
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=4)
    with pytest.raises(checkpoints.CheckpointError, match="and there is none before"):
        checkpoints.restore_newest(checkpoint, manager)
    warnings = capfd.readouterr().err
    assert warnings.startswith(
        f"warning: {tmp_path}/ckpt-11 is not whole: it adds to a checkpoint that is not there; "
    )
    assert f"{tmp_path}/ckpt-10 is not there" in warnings


def test_another_checkpoint_in_the_place_of_the_parent_is_seen(tmp_path):
    one = table()
    saver = saver_of(one, tmp_path, 10)
    see(one, range(10), 1)
    saver.save(1)
    see(one, [3], 2)
    increment = saver.save(2)
    # As after going back to a checkpoint before 1.
    other = table()
    see(other, range(10), 1)
    saver_of(other, tmp_path, 10).save(1)
    with pytest.raises(checkpoints.CheckpointError, match=r"ckpt-2 is not whole \(.*ckpt-1 is not"):
        checkpoints.restore(tf.train.Checkpoint(table=table()), increment)


def counting(filter_bytes=6400):
    return DynamicTable(TableOptions(4, admission=Admission(after=3, filter_bytes=filter_bytes)))


def test_sights_of_ids_without_a_row_are_in_full_checkpoints(tmp_path):
    one = counting()
    saver = saver_of(one, tmp_path, 10)
    see(one, [1, 2], 1)
    see(one, [1], 2)
    full = saver.save()
    see(one, [2, 3], 3)
    increment = saver.save()
    assert size(increment) < 4000 < size(full)
    for path in (full, increment):
        copy = counting()
        see(copy, [8, 8, 8], 1)  # Restoring forgets it.
        tf.train.Checkpoint(table=copy).restore(path).assert_consumed()
        assert rows_of(copy) == {}
        see(copy, [1, 2, 8], 4)
        # That 2 was seen a second time came after the full one.
        assert set(rows_of(copy)) == {1}
        see(copy, [2], 5)
        assert set(rows_of(copy)) == {1, 2}
    # Of another size, or none: ids begin again, or need no sights.
    other = counting(filter_bytes=12800)
    tf.train.Checkpoint(table=other).restore(full).assert_consumed()
    see(other, [1], 4)
    assert rows_of(other) == {} and 1 <= other.counters()["filter_counters_used"] <= 4
    see(copy := restored(full), [1], 4)
    assert set(rows_of(copy)) == {1}
    none = table()
    tf.train.Checkpoint(table=counting()).restore(
        tf.train.Checkpoint(table=none).save(tmp_path / "none")
    ).assert_consumed()


def test_what_was_cleared_or_is_asked_for_is_saved_in_full(tmp_path):
    one = table()
    saver = saver_of(one, tmp_path, 10)
    see(one, range(1000), 1)
    full = saver.save()
    see(one, [1], 2)
    assert size(saver.save()) < size(full) / 5
    assert size(saver.save(full=True)) == size(full)
    assert size(saver.save()) < size(full) / 5
    other = saver_of(one, tmp_path / "other", 10)  # Of another directory: the first is full.
    assert size(other.save()) == size(full)
    one.clear()
    see(one, range(500), 1)
    path = saver.save()
    assert rows_of(restored(path)) == rows_of(one) and size(path) > size(full) / 3
    with pytest.raises(ConfigError, match="full_every is 0; wanted a number of checkpoints >= 1"):
        saver_of(one, tmp_path, 0)


def test_each_checkpoint_is_full_by_default(tmp_path):
    one = table()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(table=one), str(tmp_path), 3)
    saver = IncrementalCheckpoints(manager, [one])
    see(one, range(1000), 1)
    assert size(saver.save()) == size(saver.save())


def test_a_training_that_is_killed_ends_as_if_it_had_not_been(tmp_path):
    directory = str(tmp_path / "killed")

    def go_on(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "tests.amstf.dynamic.killed_training", directory, "16",
             *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    saving = go_on("saving", 6)
    assert saving.returncode == -signal.SIGKILL and "begins at 0" in saving.stdout
    assert list((tmp_path / "killed").glob(f"ckpt-6{UNFINISHED_FILES}"))
    # From a full one and an increment; the first of the new process is full.
    stepping = go_on("stepping", 13)
    assert stepping.returncode == -signal.SIGKILL and "begins at 4" in stepping.stdout
    end = train(directory, 16)
    straight = train(str(tmp_path / "straight"), 16)
    assert len(rows_of(end.table)) >= 45 and straight.table.counters()["rows_evicted"] > 0
    assert not list((tmp_path / "killed").glob(UNFINISHED_FILES))
    wanted = without_seconds(rows_of(straight.table))
    assert without_seconds(rows_of(end.table)) == wanted
    assert without_seconds(rows_of(train(directory, 16).table)) == wanted
