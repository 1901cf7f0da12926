"""Keras layers."""

from amstf.layers.ams_embedding import AmsEmbedding
from amstf.layers.dynamic_embedding import (
    DynamicEmbedding,
    dynamic_embeddings,
    follow_tables,
    named_dynamic_embeddings,
)
from amstf.layers.evict_rows import EvictRows, evict_rows

__all__ = [
    "AmsEmbedding",
    "DynamicEmbedding",
    "EvictRows",
    "dynamic_embeddings",
    "evict_rows",
    "follow_tables",
    "named_dynamic_embeddings",
]
