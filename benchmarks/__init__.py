"""Benchmarks: each prints a table and, as its last line, one JSON object."""

import launch  # noqa: F401 - quiets TensorFlow, which must happen before it is imported
