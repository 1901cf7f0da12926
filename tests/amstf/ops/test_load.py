import os
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from amstf.ops import _load


def test_this_library_says_what_it_was_built_for():
    assert _load.built_for(_load.LIBRARY) == tf.__version__
    assert _load.load_library() is _load.load_library()


def test_a_missing_library(tmp_path):
    with pytest.raises(ImportError, match=r"library .*gone.so is missing; build it: pip install"):
        _load.load(tmp_path / "gone.so")


@pytest.mark.parametrize("content", [b"", b"\x7fELF, some other library", b"text\n" * 10_000])
def test_a_foreign_file(tmp_path, content):
    (tmp_path / "foreign.so").write_bytes(content)
    with pytest.raises(ImportError, match=r"foreign.so is not amstf's op library; rebuild it"):
        _load.load(tmp_path / "foreign.so")


def test_a_library_for_another_tensorflow_is_refused_before_it_is_loaded(tmp_path):
    mark = b"AMSTF_BUILT_FOR_TENSORFLOW="
    content = _load.LIBRARY.read_bytes()
    wanted = mark + tf.__version__.encode()
    other = mark + re.sub(rb"\d$", b"9", tf.__version__.encode())
    assert content.count(wanted) == 1 and other != wanted
    library = tmp_path / "_amstf_ops.so"
    library.write_bytes(content.replace(wanted, other))
    version = other.removeprefix(mark).decode()
    with pytest.raises(ImportError) as error:
        _load.load(library)
    assert f"built for TensorFlow {version}, but TensorFlow {tf.__version__} is" in str(error.value)
    assert f"install tensorflow=={version}" in str(error.value)


def test_a_damaged_library_is_one_import_error(tmp_path):
    """In a process of its own: what the loader of the system does with damage is its affair."""
    library = tmp_path / "_amstf_ops.so"
    shutil.copy(_load.LIBRARY, library)
    content = library.read_bytes()
    library.write_bytes(b"\0" * 64 + content[64:])  # no ELF header, but the marker is there
    source = f"""
import pathlib
from amstf.ops import _load
try:
    _load.load(pathlib.Path({str(library)!r}))
except ImportError as error:
    print("refused:", error)
"""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout.startswith("refused: amstf's op library") and "does not load" in done.stdout
