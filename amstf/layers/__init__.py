"""Keras layers."""

from amstf.layers.ams_embedding import AmsEmbedding
from amstf.layers.dynamic_embedding import DynamicEmbedding

__all__ = ["AmsEmbedding", "DynamicEmbedding"]
