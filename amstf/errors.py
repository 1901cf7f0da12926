"""Errors that a user can cure: one clear message, which programs print without a stack trace."""


class AmstfError(Exception):
    """Base of the errors about input: a file, a record, an id, a flag, a configuration.

    The message names what was got, what was wanted and the cure. Programs of `launch` print it on
    one line and exit with a non-zero code.

    Args:
        message: One line. Names in it may come from a file of a stranger, so what would break the
            line or steer a terminal is shown escaped, and a very long one is shortened.
        lines: Further lines, for example the end of a log.
    """

    def __init__(self, message: object = "", *lines: str) -> None:
        super().__init__("\n    ".join(_printable(line) for line in (str(message), *lines)))


_LONGEST = 4000


def _printable(text: str) -> str:
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]} [{len(text) - _LONGEST:,} characters left out] {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
