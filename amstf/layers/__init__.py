"""Keras layers."""

from amstf.layers.ams_embedding import AmsEmbedding
from amstf.layers.dynamic_embedding import (
    DynamicEmbedding,
    dynamic_embeddings,
    follow_tables,
    named_dynamic_embeddings,
)
from amstf.layers.evict_rows import EvictRows, evict_rows
from amstf.layers.learnt_missing import LearntMissing, learning_missing, missing_embedding

__all__ = [
    "AmsEmbedding",
    "DynamicEmbedding",
    "EvictRows",
    "LearntMissing",
    "dynamic_embeddings",
    "evict_rows",
    "follow_tables",
    "learning_missing",
    "missing_embedding",
    "named_dynamic_embeddings",
]
