"""Errors that a user can cure: one clear message, which programs print without a stack trace."""


class AmstfError(Exception):
    """Base of the errors about input: a file, a record, an id, a flag, a configuration.

    The message names what was got, what was wanted and the cure. Programs of `launch` print it on
    one line and exit with a non-zero code.
    """


class SchemaError(AmstfError, ValueError):
    """A schema that contradicts itself, or a schema file that is not one."""


class SampleError(AmstfError, ValueError):
    """A data set or a record in it that cannot be read or written; names file and offset."""


class MetricError(AmstfError, ValueError):
    """Labels, scores or groups from which a metric cannot be computed."""


class StoreError(AmstfError, ValueError):
    """An image store that cannot be written, opened or read."""


class MissingImageError(StoreError, KeyError):
    """Ids that the image store does not hold, under the policy `error`; names some of them."""

    __str__ = Exception.__str__


class ConfigError(AmstfError, ValueError):
    """A configuration (flag, TF_CONFIG, AmsConfig) that cannot work."""


class ExportError(AmstfError, ValueError):
    """A model that cannot be exported, or an export that cannot be loaded."""
