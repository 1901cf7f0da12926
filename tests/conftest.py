"""Quiet TensorFlow in the process of the tests, and only there."""

import os

# TensorFlow reads the variable when it is loaded. The programs that tests start must not inherit
# it: that they are quiet by themselves is tested.
if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow  # noqa: F401

    del os.environ["TF_CPP_MIN_LOG_LEVEL"]
