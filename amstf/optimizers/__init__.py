"""Optimizers whose updates are safe when several workers train the same variables."""

from amstf.optimizers.adagrad import Adagrad
from amstf.optimizers.adam import Adam
from amstf.optimizers.ftrl import Ftrl
from amstf.optimizers.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "Ftrl"]
