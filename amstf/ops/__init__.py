"""Custom ops: thin wrappers that validate and name; the kernels are in `amstf/cc`."""

from amstf.ops._load import load_library
from amstf.ops.image_errors import image_errors
from amstf.ops.image_lookup import (
    COUNTER_NAMES,
    MISSING_POLICIES,
    image_lookup,
    image_store,
    image_store_counters,
)
from amstf.ops.sparse_adam import sparse_adam
from amstf.ops.task_location import task_location

__all__ = [
    "COUNTER_NAMES",
    "MISSING_POLICIES",
    "image_errors",
    "image_lookup",
    "image_store",
    "image_store_counters",
    "load_library",
    "sparse_adam",
    "task_location",
]
