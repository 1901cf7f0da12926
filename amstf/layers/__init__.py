"""Keras layers."""

from amstf.layers.ams_embedding import AmsEmbedding

__all__ = ["AmsEmbedding"]
