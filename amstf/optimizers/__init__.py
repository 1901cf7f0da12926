"""Optimizers whose updates are safe when several workers train the same variables."""

from amstf.optimizers.adam import Adam

__all__ = ["Adam"]
