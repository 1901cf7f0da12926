"""Presets: recipes of training, each a Python file that a person can read and copy.

    python -m launch.train --preset=paper --dataset=DATASET --out=RUN
    python -m launch.train --preset=my_recipe.py --dataset=DATASET --out=RUN

A preset assigns values to names of launch.train's flags. What is on the command line wins. Names
that begin with an underscore, and modules that it imports, are its own.
"""

from __future__ import annotations

import ast
import pathlib
import runpy
import types
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from amstf.errors import ConfigError

_DIRECTORY = pathlib.Path(__file__).parent
# What a run is given by whoever starts it, and not by a recipe.
_NOT_IN_PRESETS = ("dataset", "out", "cluster", "preset", "connect_timeout_s", "max_restarts")


def names() -> list[str]:
    """Returns the names of the presets that come with this project.

    Example:
        >>> "paper" in names()
        True
    """
    return sorted(path.stem for path in _DIRECTORY.glob("[!_]*.py"))


def summary() -> str:
    """Returns the presets' names, each with the first line of its file, for a help page."""
    lines = []
    for name in names():
        text = (_DIRECTORY / f"{name}.py").read_text()
        first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        lines.append(f"{name}: {first}")
    return " ".join(lines)


def load(preset: str) -> dict[str, Any]:
    """Reads a preset.

    Args:
        preset: A name of `names`, or the path of a file that ends with .py.

    Returns:
        Name -> value, of all that it assigns.

    Raises:
        ConfigError: If it is not there, or does not run.
    """
    is_path = preset.endswith(".py")
    path = pathlib.Path(preset) if is_path else _DIRECTORY / f"{preset}.py"
    if not is_path and preset not in names():
        raise ConfigError(
            f"--preset={preset}: there is no such preset; use {', '.join(names())}, or the path of "
            "a file PRESET.py"
        )
    if not path.is_file():
        raise ConfigError(f"--preset={preset}: there is no such file")
    try:
        assigned = runpy.run_path(str(path))
    except Exception as error:
        raise ConfigError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return {
        name: value
        for name, value in assigned.items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def apply(preset: str, values: flags.FlagValues, allowed: Iterable[str]) -> None:
    """Gives flags the values of a preset, except those that are on the command line.

    Args:
        preset: As for `load`.
        values: The flags, parsed.
        allowed: Names of the program's flags.

    Raises:
        ConfigError: If the preset is not there, or has a name or value that is no flag's; names
            the file.
    """
    assigned = load(preset)
    known = sorted(set(allowed) - set(_NOT_IN_PRESETS))
    where = f"preset {preset}"
    if unknown := [name for name in assigned if name not in known]:
        raise ConfigError(
            f"{where}: {', '.join(unknown)} cannot be set by a preset; it may set "
            f"{', '.join(known)}"
        )
    for name, value in _texts(assigned).items():
        if values[name].present:
            continue
        try:
            values[name].parse(value)
        except flags.Error as error:
            raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error


def _texts(assigned: Mapping[str, Any]) -> dict[str, str]:
    """As they would be on a command line."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in assigned.items()
        if value is not None
    }
