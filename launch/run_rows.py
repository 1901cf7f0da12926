"""CSV files of a run that are a table of numbers by step."""

from __future__ import annotations

import csv
import io
import pathlib

from amstf import files
from amstf.errors import ConfigError


def read_rows(path: pathlib.Path) -> tuple[list[str] | None, list[dict[str, float]]]:
    """Reads a CSV file of numbers that has a column `step`.

    Returns:
        The names of the columns, and the values of each row that has some by name.

    Raises:
        ConfigError: If the file cannot be read or is of another kind; names the line.
    """
    rows: list[dict[str, float]] = []
    line = 1
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(path)))
        for row in reader:
            line = reader.line_num
            rows.append({name: float(value) for name, value in row.items() if value})
            if "step" not in rows[-1]:
                raise ValueError("it has no step")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"{path}, line {line}: not a row of numbers of a run ({error}); remove the line or "
            "the file"
        ) from error
    return list(reader.fieldnames or ()) or None, rows
