"""Values of list flags, as numbers."""

from collections.abc import Sequence

from amstf.errors import ConfigError


def widths(flag: str, values: Sequence[str]) -> tuple[int, ...]:
    """Reads the widths of layers, e.g. 128,64; `flag` is named in the ConfigError."""
    try:
        numbers = tuple(int(value) for value in values)
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or max(numbers) > 1 << 20:
        raise ConfigError(f"--{flag}: got {','.join(values)!r}, wanted widths such as 128,64")
    return numbers


def image_servers(values: Sequence[str] | None) -> tuple[int, ...] | None:
    """Reads indices of parameter servers, e.g. 0,1; None stays None.

    Raises:
      ConfigError: a value is no index.
    """
    if values is None:
        return None
    if not all(value.isdecimal() and len(value) < 5 for value in values):
        raise ConfigError(f"--image_servers: got {','.join(values)!r}, wanted indices such as 0,1")
    return tuple(map(int, values))
