"""Which images there are: ids and paths, from a directory, a pattern or a CSV file."""

from __future__ import annotations

import csv
import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import numpy as np

from amstf import files
from amstf.errors import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
"""Names that a directory is searched for. What is in a file is told by its first bytes."""

_MAX_ID = 2**63 - 1
_NUMBER_AT_END = re.compile(r"(\d+)$", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ImageList:
    """Images by id.

    Attributes:
        ids: int64 [n], in the order found, each once.
        paths: Their files.
        ignored: Files of a directory that are not called like images.
    """

    ids: np.ndarray
    paths: list[str]
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, image_id: int) -> str:
        """Returns the path of one image."""
        return self.paths[int(np.flatnonzero(self.ids == image_id)[0])]

    def path_of(self) -> dict[int, str]:
        """Returns the path of each id."""
        return dict(zip(self.ids.tolist(), self.paths, strict=True))


def list_images(images: str) -> ImageList:
    """Finds images and their ids.

    Args:
        images: A directory (searched with its subdirectories, hidden ones left out), a pattern such
            as "pictures/*.jpg", or a CSV file with columns `id` and `path`; paths there count from
            the directory of the CSV file. Otherwise the id is the number that the file's name ends
            with: 17 for "17.jpg" and for "item-00017.png".

    Raises:
        ConfigError: If there is none, a name holds no number, or two files have one id.
    """
    files.refuse_remote(images, "--images", ConfigError)
    ignored = 0
    if os.path.isdir(images):
        found, ignored = _in_directory(images)
        entries: Iterable[tuple[int, str]] = ((_id_of(path), path) for path in found)
    elif images.lower().endswith(".csv") and os.path.isfile(images):
        entries = _read_csv(pathlib.Path(images))
    else:
        names = [images] if os.path.isfile(images) else sorted(glob.glob(images, recursive=True))
        entries = ((_id_of(path), path) for path in names if os.path.isfile(path))
    path_of: dict[int, str] = {}
    for image_id, path in entries:
        if (other := path_of.setdefault(image_id, path)) is not path:
            raise ConfigError(
                f"--images={images}: {other} and {path} both have the image id {image_id}; give "
                "ids of their own in a CSV file with the columns id,path"
            )
    if not path_of:
        raise ConfigError(
            f"--images={images}: no images there (looked for {', '.join(SUFFIXES)}); give a "
            "directory, a pattern in quotes, or a CSV file with the columns id,path"
        )
    return ImageList(np.fromiter(path_of, np.int64, len(path_of)), list(path_of.values()), ignored)


def _in_directory(directory: str) -> tuple[list[str], int]:
    found, ignored = [], 0
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        visible = [name for name in sorted(names) if not name.startswith(".")]
        pictures = [name for name in visible if name.lower().endswith(SUFFIXES)]
        ignored += len(visible) - len(pictures)
        found += [os.path.join(parent, name) for name in pictures]
    return found, ignored


def _id_of(path: str) -> int:
    number = _NUMBER_AT_END.search(pathlib.Path(path).stem)
    if number is None or int(number[1]) > _MAX_ID:
        raise ConfigError(
            f"{path}: the name does not end in a number, which would be the image id; rename the "
            "files, or give a CSV file with the columns id,path"
        )
    return int(number[1])


def _read_csv(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            if not {"id", "path"} <= set(header):
                raise ConfigError(
                    f"{path}, line 1: got the columns {','.join(header) or 'nothing'}, wanted "
                    "id,path (in any order, others are left alone)"
                )
            id_column, path_column = header.index("id"), header.index("path")
            for row in reader:
                if not row:
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(row) != len(header):
                    raise ConfigError(f"{where}: got {len(row)} values, wanted {len(header)}")
                text = row[id_column].strip()
                if not (text.isascii() and text.isdecimal()) or int(text) > _MAX_ID:
                    raise ConfigError(
                        f"{where}: the id is {text!r}, wanted a whole number from 0 to {_MAX_ID}"
                    )
                if not row[path_column]:
                    raise ConfigError(f"{where}: the path is empty")
                yield int(text), os.path.join(path.parent, row[path_column])
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a CSV file in UTF-8: {error}") from error
