"""Optimizers whose updates are safe when several workers train the same variables."""

from amstf.optimizers.adagrad import Adagrad
from amstf.optimizers.adam import Adam

__all__ = ["Adagrad", "Adam"]
