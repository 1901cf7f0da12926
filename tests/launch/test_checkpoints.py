"""Going back to the newest checkpoint that is whole."""

import pathlib

import pytest
import tensorflow as tf

from amstf.errors import ConfigError
from launch import checkpoints, impressions


@pytest.fixture
def made(tmp_path):
    """Three checkpoints of two variables: at step k both are k."""
    values = [tf.Variable(tf.zeros([1000])), tf.Variable(0.0)]
    checkpoint = tf.train.Checkpoint(a=values[0], b=values[1])
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path / "run"), max_to_keep=3)
    for step in (10, 20, 30):
        for value in values:
            value.assign(tf.fill(value.shape, float(step)))
        manager.save(checkpoint_number=step)
    return tmp_path / "run", values


def restore(directory, values):
    checkpoint = tf.train.Checkpoint(a=values[0], b=values[1])
    manager = tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=3)
    path = checkpoints.restore_newest(checkpoint, manager)
    step = 0 if path is None else checkpoints.step_of(path)
    assert {float(values[0][0]), float(values[0][-1]), float(values[1])} == {float(step)}
    return step


def data_file(directory, step):
    return next(directory.glob(f"ckpt-{step}.data-*"))


def cut(path: pathlib.Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_newest_is_used(made, capfd):
    assert restore(*made) == 30
    assert capfd.readouterr().err == ""


def test_what_a_killed_chief_left_half_written_is_removed(made):
    left = made[0] / "ckpt-40_temp"
    left.mkdir()
    (left / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    assert restore(*made) == 30
    assert not left.exists()


@pytest.mark.parametrize("damage", [cut, flip, pathlib.Path.unlink])
@pytest.mark.parametrize("part", ["data", "index"])
def test_one_that_is_not_whole_is_skipped_with_a_warning(made, capfd, damage, part):
    directory, _ = made
    damage(data_file(directory, 30) if part == "data" else directory / "ckpt-30.index")
    assert restore(*made) == 20
    warning = capfd.readouterr().err
    assert warning.startswith(f"warning: {directory}/ckpt-30 is not ")
    assert warning.endswith("; using the one before\n") and warning.count("\n") == 1


def test_none_is_whole(made):
    directory, _ = made
    for step in (10, 20, 30):
        cut(data_file(directory, step))
    with pytest.raises(
        checkpoints.CheckpointError, match=rf"ckpt-10 is not whole .* remove {directory}"
    ):
        restore(*made)


def test_a_lost_state_file_loses_no_checkpoint(made):
    directory, _ = made
    (directory / "checkpoint").unlink()
    assert restore(*made) == 30


def test_a_directory_without_checkpoints_is_step_0(tmp_path):
    assert restore(tmp_path, [tf.Variable([0.0]), tf.Variable(0.0)]) == 0


def test_another_model_is_named(made):
    directory, values = made
    checkpoint = tf.train.Checkpoint(a=values[0], c=tf.Variable(1.0))
    with pytest.raises(ConfigError, match="is of another model or version"):
        checkpoints.restore(checkpoint, f"{directory}/ckpt-30")


def test_a_count_of_impressions_comes_back_or_is_what_it_should_be(made):
    directory, _ = made
    saved = tf.train.Checkpoint(impressions=tf.Variable(640, dtype=tf.int64)).save(
        str(directory / "counted")
    )
    seen = tf.Variable(0, dtype=tf.int64)
    impressions.restore(seen, saved, otherwise=600)
    assert int(seen) == 640
    impressions.restore(seen, str(directory / "ckpt-30"), otherwise=600)
    assert int(seen) == 600
