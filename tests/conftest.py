"""Quiet TensorFlow in the process of the tests, and only there."""

import os

import hypothesis

# The same examples every time, few enough for each run; `--hypothesis-profile=long` looks for more.
_COMMON = {"deadline": None, "print_blob": True}  # A busy machine is no failure: see timeouts.
hypothesis.settings.register_profile("quick", derandomize=True, database=None, **_COMMON)
hypothesis.settings.register_profile("long", max_examples=5000, **_COMMON)
hypothesis.settings.load_profile("quick")

# TensorFlow reads the variable when it is loaded. The programs that tests start must not inherit
# it: that they are quiet by themselves is tested.
if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow  # noqa: F401

    del os.environ["TF_CPP_MIN_LOG_LEVEL"]
