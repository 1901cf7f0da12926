"""What is kept after an interrupt, in the middle of TensorFlow."""

import pytest
import tensorflow as tf

from launch import fresh_thread


def test_a_scope_that_was_never_left_is_not_in_the_way(tmp_path):
    checkpoint = tf.train.Checkpoint(value=tf.Variable(1.0))
    scope = tf.device("/job:worker/task:7")
    scope.__enter__()  # As an interrupt leaves it.
    try:
        with pytest.raises(tf.errors.InvalidArgumentError, match="unknown device"):
            checkpoint.write(str(tmp_path / "here"))
        path = fresh_thread.call(lambda: checkpoint.write(str(tmp_path / "there")))
    finally:
        scope.__exit__(None, None, None)
    assert [name for name, _ in tf.train.list_variables(path) if name.startswith("value")]


def test_errors_come_out(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fresh_thread.call(lambda: 1 / 0)
