"""JSON files of runs and results: an object in each."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.errors import ConfigError


def read_json(path: pathlib.Path, what: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        path: The file.
        what: What the directory of the file should be, for the message.

    Raises:
        ConfigError: If the file is missing or not JSON.
    """
    try:
        content = files.parse_json(files.read_text(path))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path} does not exist: {path.parent} is not {what}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is there whole or not at all."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")
