import tensorflow as tf

from amstf import ops


def test_without_a_cluster_it_is_localhost():
    for run in (ops.task_location, tf.function(ops.task_location)):
        job, task = run()
        assert (job.numpy(), task.numpy()) == (b"localhost", 0)


def test_it_works_in_an_input_pipeline():
    data = tf.data.Dataset.range(2).map(lambda i: ops.task_location())
    assert [(job.numpy(), int(task)) for job, task in data] == [(b"localhost", 0)] * 2
