"""Evaluation under `fit` and `evaluate` that counts each sample once, on a cluster too."""

from __future__ import annotations

import inspect
from typing import Any

from amstf.strategy import check_evaluation_data


class ExactEvaluation:
    """Refuses, before anything is trained, what could not be evaluated exactly on a cluster.

    To be inherited before `keras.Model`. `amstf.strategy.check_evaluation_data` says what is exact.
    """

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As in `keras.Model`.

        Raises:
            ConfigError: If `validation_data` on a cluster would not count each sample once.
        """
        arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        validation = arguments.get("validation_data")
        if arguments.get("validation_split"):
            self._check("validation_split", arguments.get("x"))
        elif validation is not None:
            data = validation[0] if isinstance(validation, list | tuple) else validation
            self._check("validation_data", data)
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As in `keras.Model`.

        Raises:
            ConfigError: If the data on a cluster would not count each sample once.
        """
        # Keras' `fit` says so when it asks for a validation, whose data have been looked at.
        if not kwargs.get("_use_cached_eval_dataset"):
            arguments = inspect.signature(super().evaluate).bind(*args, **kwargs).arguments
            self._check("x", arguments.get("x"))
        return super().evaluate(*args, **kwargs)

    def _check(self, argument: str, data: Any) -> None:
        num_shards = getattr(self, "_pss_evaluation_shards", 0)
        check_evaluation_data(data, self.distribute_strategy, num_shards, argument)
