"""Custom ops: thin wrappers that validate and name; the kernels are in `amstf/cc`."""

from amstf.ops._load import load_library
from amstf.ops.dynamic_table import (
    DYNAMIC_COUNTER_NAMES,
    EVICTION_POLICIES,
    MAX_PAGES,
    DynamicRows,
    dynamic_apply,
    dynamic_clear,
    dynamic_counters,
    dynamic_evict,
    dynamic_export,
    dynamic_filter,
    dynamic_import,
    dynamic_lookup,
    dynamic_merge_filter,
    dynamic_table,
)
from amstf.ops.image_errors import image_errors
from amstf.ops.image_lookup import (
    COUNTER_NAMES,
    image_lookup,
    image_store,
    image_store_counters,
)
from amstf.ops.meeting import (
    MEETING_COUNTER_NAMES,
    end_backward,
    join,
    join_gradient,
    meeting,
    meeting_counters,
    share,
)
from amstf.ops.read_records import read_records
from amstf.ops.replica_state import (
    accumulate_gradients,
    begin_round,
    is_present,
    replica_state,
    sum_present,
)
from amstf.ops.rounds import (
    GRADIENT_MEAN_COUNTER_NAMES,
    ROUND_COUNTER_NAMES,
    Round,
    enter_round,
    gradient_mean,
    gradient_mean_counters,
    mean_gradient,
    round_counters,
    round_table,
)
from amstf.ops.sparse_adam import sparse_adam
from amstf.ops.task_location import task_location

__all__ = [
    "COUNTER_NAMES",
    "DYNAMIC_COUNTER_NAMES",
    "EVICTION_POLICIES",
    "GRADIENT_MEAN_COUNTER_NAMES",
    "MAX_PAGES",
    "MEETING_COUNTER_NAMES",
    "ROUND_COUNTER_NAMES",
    "DynamicRows",
    "Round",
    "accumulate_gradients",
    "begin_round",
    "dynamic_apply",
    "dynamic_clear",
    "dynamic_counters",
    "dynamic_evict",
    "dynamic_export",
    "dynamic_filter",
    "dynamic_import",
    "dynamic_lookup",
    "dynamic_merge_filter",
    "dynamic_table",
    "end_backward",
    "enter_round",
    "gradient_mean",
    "gradient_mean_counters",
    "image_errors",
    "image_lookup",
    "image_store",
    "image_store_counters",
    "is_present",
    "join",
    "join_gradient",
    "load_library",
    "mean_gradient",
    "meeting",
    "meeting_counters",
    "read_records",
    "replica_state",
    "round_counters",
    "round_table",
    "share",
    "sparse_adam",
    "sum_present",
    "task_location",
]
