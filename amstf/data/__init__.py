"""Samples on disk: TFRecord shards with a schema and a manifest, written, read and checked."""

from amstf.data.batch_order import BatchOrder, Stretches
from amstf.data.groups import GROUP_INDEX, GROUP_SIZE, impressions_of, is_group, per_impression
from amstf.data.input_specs import input_specs
from amstf.data.manifest import Manifest, ShardFile, add_info, set_image_store
from amstf.data.parsing import feature_spec, parse_batch, parse_groups
from amstf.data.record_errors import find_bad_record, record_errors
from amstf.data.record_offsets import record_offsets, write_record_offsets
from amstf.data.samples_reader import Samples
from amstf.data.samples_writer import SampleWriter

__all__ = [
    "GROUP_INDEX",
    "GROUP_SIZE",
    "BatchOrder",
    "Manifest",
    "SampleWriter",
    "Samples",
    "ShardFile",
    "Stretches",
    "add_info",
    "feature_spec",
    "find_bad_record",
    "impressions_of",
    "input_specs",
    "is_group",
    "parse_batch",
    "parse_groups",
    "per_impression",
    "record_errors",
    "record_offsets",
    "set_image_store",
    "write_record_offsets",
]
