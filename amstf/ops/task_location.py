"""Op that tells which task of the cluster runs it."""

from __future__ import annotations

import tensorflow as tf

from amstf.ops._load import load_library


def task_location() -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the job (string scalar) and the task index (int32 scalar) of the running device.

    Under ParameterServerStrategy neither a step function nor an input pipeline is told which worker
    runs it. The op works in both; without a cluster it gives "localhost" and 0.
    """
    outputs = load_library().ams_task_location()
    return outputs.job, outputs.task


tf.no_gradient("AmsTaskLocation")
