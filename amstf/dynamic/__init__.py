"""Tables of ids without a vocabulary, in this process or on the parameter servers."""

from amstf.dynamic.checkpoint import UNFINISHED_FILES
from amstf.dynamic.incremental import IncrementalCheckpoints
from amstf.dynamic.options import Admission, TableLimit, TableOptions
from amstf.dynamic.static_rows import StaticRows, index_of
from amstf.dynamic.table import DynamicTable, table_of

__all__ = [
    "UNFINISHED_FILES",
    "Admission",
    "DynamicTable",
    "IncrementalCheckpoints",
    "StaticRows",
    "TableLimit",
    "TableOptions",
    "index_of",
    "table_of",
]
