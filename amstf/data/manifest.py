"""The manifest: which files a data set has, how many records, and what they must look like.

TensorFlow's reader can end silently where a file is cut off, so the manifest's sizes are the only
way to see that a copy broke in the middle. No TensorFlow is needed to read or check one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.errors import SampleError

MANIFEST_FILE = "manifest.json"
VERSION = 1
GROUPED_VERSION = 2
"""Of a data set with groups: programs that read version 1 only would not understand its records."""
_CHUNK = 1 << 20
# A TFRecord is: uint64 length, 4 bytes CRC of it, the data, 4 bytes CRC of the data.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """One file of a split.

    Attributes:
        path: Name of the file, relative to the data set directory.
        records: TFRecords in the file: samples, or groups of them.
        bytes: Size of the file in bytes.
        crc32: CRC-32 (zlib) of the whole file, as eight hex digits.
        impressions: Samples in the file if each record is a group of them, see
            `amstf.data.groups`; None if each record is one sample.
    """

    path: str
    records: int
    bytes: int
    crc32: str
    impressions: int | None = None


@dataclasses.dataclass
class Manifest:
    """What a data set directory holds; stored as `manifest.json`.

    Attributes:
        splits: The files of each split, in order.
        images: Path of each image store by name, absolute or relative to the directory.
        info: Free facts about the data, JSON values; for example how it was made.

    Example:
        >>> file = ShardFile("train-00000-of-00001.tfrecord", 3, 210, "89abcdef")
        >>> Manifest(splits={"train": (file,)}).records("train")
        3
    """

    splits: dict[str, tuple[ShardFile, ...]] = dataclasses.field(default_factory=dict)
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    info: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Manifest:
        """Reads the manifest of a data set.

        Args:
            directory: The data set directory.

        Raises:
            SampleError: If there is none, or the file is not a manifest.
        """
        path = files.join(directory, MANIFEST_FILE)
        try:
            text = files.read_text(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if files.is_remote(path):
                # Seen: the s3 file system says "not found" of a server that does not answer, too.
                raise SampleError(
                    f"{path} does not exist, or its server cannot be reached; check the address, "
                    "and of s3:// S3_ENDPOINT and AWS_* in the environment (docs/design/samples.md)"
                ) from error
            raise SampleError(
                f"{path} does not exist, so {directory} is not a data set (or its writing never "
                "finished); give a directory made by `python -m launch.prepare` or SampleWriter"
            ) from error
        except (OSError, ValueError) as error:
            raise SampleError(f"{path} cannot be read: {error}") from error
        return cls.from_json(text, where=path)

    @classmethod
    def from_json(cls, text: str, where: str = MANIFEST_FILE) -> Manifest:
        """Reads a manifest from JSON text; `where` names the text in error messages."""
        try:
            content = files.parse_json(text)
            if content["version"] not in (VERSION, GROUPED_VERSION):
                raise SampleError(
                    f"{where} has version {content['version']!r}; this program reads {VERSION} "
                    f"and {GROUPED_VERSION}"
                )
            splits = {
                split: tuple(_shard_file(f) for f in entry["files"])
                for split, entry in content["splits"].items()
            }
            for split, shards in splits.items():
                if not shards:
                    raise ValueError(f"split {split!r} has no files")
                if len({shard.impressions is None for shard in shards}) > 1:
                    raise ValueError(f"some files of split {split!r} hold groups, some do not")
            images = dict(content.get("images", {}))
            for name, path in images.items():
                if not isinstance(path, str) or not path or "\0" in path:
                    raise ValueError(f"the path of image store {name!r} is {path!r}")
            return cls(splits, images, dict(content.get("info", {})))
        except SampleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SampleError(
                f"{where} is not a manifest: {error!r}; write the data set again"
            ) from error

    def to_json(self) -> str:
        """Returns the manifest as JSON text."""
        splits = {
            split: {
                "records": sum(file.records for file in files),
                "files": [_as_json(file) for file in files],
            }
            for split, files in self.splits.items()
        }
        content = {
            "version": GROUPED_VERSION if any(map(self.is_grouped, self.splits)) else VERSION,
            "splits": splits,
            "images": self.images,
            "info": self.info,
        }
        return json.dumps(content, indent=1) + "\n"

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `manifest.json` in one step: a reader sees the old file or the new one."""
        write_atomically(pathlib.Path(directory, MANIFEST_FILE), self.to_json())

    @classmethod
    @contextlib.contextmanager
    def update(cls, directory: str | os.PathLike) -> Iterator[Manifest]:
        """Loads the manifest (or begins an empty one) to change it, and saves it at the end.

        Two programs that change one manifest at a time wait for each other. Nothing is saved when
        the block raises.

        Example:
            >>> import tempfile
            >>> with Manifest.update(tempfile.mkdtemp()) as manifest:
            ...     manifest.info["made_by"] = "hand"
        """
        files.refuse_remote(directory, "manifest of", SampleError)
        with _locked(directory):
            exists = pathlib.Path(directory, MANIFEST_FILE).exists()
            manifest = cls.load(directory) if exists else cls()
            yield manifest
            manifest.save(directory)

    def files(self, split: str) -> tuple[ShardFile, ...]:
        """Returns the files of a split.

        Raises:
            SampleError: If there is no such split; the message lists those that exist.
        """
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise SampleError(f"the data set has no split {split!r}; its splits are: {known}")
        return self.splits[split]

    def records(self, split: str) -> int:
        """Returns the number of records of a split: of its samples, or of groups of them."""
        return sum(file.records for file in self.files(split))

    def is_grouped(self, split: str) -> bool:
        """Whether the records of a split are groups of samples."""
        return any(file.impressions is not None for file in self.files(split))

    def impressions(self, split: str) -> int:
        """Returns the number of samples of a split."""
        if not self.is_grouped(split):
            return self.records(split)
        return sum(file.impressions or 0 for file in self.files(split))

    def verify(self, directory: str | os.PathLike, *, checksums: bool = False) -> None:
        """Checks that every file is there and has its size, to find what was cut or lost in a copy.

        Args:
            directory: The data set directory.
            checksums: Also read every byte and compare the CRC-32, which finds changed bits too,
                and follow the lengths of all records: TensorFlow's reader reserves what a length
                says, and its process ends if a stranger made that a million times the file.

        Raises:
            SampleError: Names the first file that is missing or differs.
        """
        for shards in self.splits.values():
            for file in shards:
                path = files.join(directory, file.path)
                try:
                    size = files.size(path)
                except FileNotFoundError as error:
                    raise SampleError(
                        f"{path} is missing, but {MANIFEST_FILE} lists it with {file.records:,} "
                        "records; copy or write the data set again"
                    ) from error
                except OSError as error:
                    raise SampleError(f"{path} cannot be read: {error}") from error
                if size != file.bytes:
                    raise SampleError(
                        f"{path} has {size:,} bytes, {MANIFEST_FILE} says {file.bytes:,}; the file "
                        "was cut or changed: copy or write the data set again"
                    )
                if not checksums:
                    continue
                if (found := file_crc32(path)) != file.crc32:
                    raise SampleError(
                        f"{path} has CRC-32 {found}, {MANIFEST_FILE} says {file.crc32}; the file "
                        "was changed: copy or write the data set again"
                    )
                _check_frames(path, file)


def _shard_file(entry: dict[str, Any]) -> ShardFile:
    path, records, size, crc32 = (entry[name] for name in ("path", "records", "bytes", "crc32"))
    # A name in the directory: a manifest of a stranger must not open files elsewhere.
    if not isinstance(path, str) or path != os.path.basename(path) or path in ("", ".", ".."):
        raise ValueError(f"a file's path is {path!r}, not a name in the directory")
    for name, value in (("records", records), ("bytes", size)):
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(f"{path!r} has {name} {value!r}")
    if not isinstance(crc32, str) or "\0" in path:
        raise ValueError(f"{path!r} has crc32 {crc32!r}")
    impressions = entry.get("impressions")
    # A group has at least one impression.
    if impressions is not None and (
        type(impressions) is not int or not records <= impressions < 2**63
    ):
        raise ValueError(f"{path!r} has impressions {impressions!r} in {records} groups")
    return ShardFile(path, records, size, crc32, impressions)


def _as_json(file: ShardFile) -> dict[str, Any]:
    entry = dataclasses.asdict(file)
    if file.impressions is None:
        del entry["impressions"]
    return entry


def set_image_store(
    directory: str | os.PathLike, path: str | os.PathLike, name: str = "images"
) -> None:
    """Records where the image store of a data set is.

    Args:
        directory: The data set directory.
        path: The store's file, or a pattern that matches its files; a relative path counts from
            the directory.
        name: Name of the store, as image fields of the schema use it.

    Raises:
        SampleError: If no file is there.
    """
    files.refuse_remote(directory, "manifest of", SampleError)
    if not files.is_remote(path) and not glob.glob(str(pathlib.Path(directory, path))):
        raise SampleError(
            f"image store {name!r}: {pathlib.Path(directory, path)} does not exist; "
            "write the store first, and give a path that is absolute or relative to the data set"
        )
    with Manifest.update(directory) as manifest:
        manifest.images[name] = str(path)


def add_info(directory: str | os.PathLike, **facts: Any) -> None:
    """Adds free facts (JSON values) to the manifest of a data set."""
    with Manifest.update(directory) as manifest:
        manifest.info.update(facts)


def file_crc32(path: str | os.PathLike) -> str:
    """Returns the CRC-32 of a file as eight hex digits, reading it in pieces."""
    crc = 0
    with files.open_binary(path) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _check_frames(path: str, file: ShardFile) -> None:
    ends = [end for _, end in frames(path, file.bytes)]
    count, end = len(ends), ends[-1] if ends else 0
    if (count, end) != (file.records, file.bytes):
        raise SampleError(
            f"{path} has {count:,} records that end at byte {end:,}, {MANIFEST_FILE} says "
            f"{file.records:,} and {file.bytes:,}; copy or write the data set again"
        )


def frames(path: str | os.PathLike, size: int) -> Iterator[tuple[int, int]]:
    """Yields first byte and end of every record of a file, as far as lengths can be followed."""
    offset = 0
    with files.open_binary(path) as file:
        while offset + _HEADER.size <= size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            end = offset + _HEADER.size + _HEADER.unpack(header)[0] + _FOOTER_BYTES
            yield offset, end
            offset = end


@contextlib.contextmanager
def _locked(directory: str | os.PathLike) -> Iterator[None]:
    # The directory itself is locked, so that no lock file is left behind.
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
