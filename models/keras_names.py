"""The name under which Keras finds the classes of `models` when it loads a configuration."""

PACKAGE = "amstf_models"
