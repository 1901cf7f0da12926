"""Builds amstf/ops/_amstf_ops.so, the one library that holds all C++ ops, against TensorFlow.

And launch/_bind_loopback.so, which knows nothing of TensorFlow (see launch/loopback.py).

The metadata is in pyproject.toml. Objects are kept in build/amstf_ops, and only what changed is
compiled again. (setuptools would compile one file after the other, and in an editable install into
a temporary directory.)
"""

import concurrent.futures
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
LIBRARY = ROOT / "amstf/ops/_amstf_ops.so"
LOOPBACK = ROOT / "launch/_bind_loopback.so"
LOOPBACK_SOURCE = ROOT / "launch/cc/bind_loopback.cc"
OBJECTS = ROOT / "build/amstf_ops"
OWN_FLAGS = ["-O3", "-fPIC", "-Wall", "-Wno-sign-compare", "-MMD"]


def sources() -> list[pathlib.Path]:
    """All C++ files of the library; those that end in _test.cc are programs of their own."""
    return sorted(
        file for file in (ROOT / "amstf/cc").rglob("*.cc") if not file.name.endswith("_test.cc")
    )


def compiler() -> str:
    """The C++ compiler: $CXX, or g++."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        sys.exit(
            f"error: the C++ compiler {name!r} is not installed; it builds the amstf ops. "
            "On Debian: apt-get install g++"
        )
    return name


def build_key(cxx: str) -> str:
    """What the objects depend on besides the sources: the versions of TensorFlow and compiler."""
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout
    facts = [importlib.metadata.version("tensorflow"), version, *OWN_FLAGS]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def is_stale(source: pathlib.Path, built: pathlib.Path) -> bool:
    """Whether a source or a header of ours that it includes is newer than its object."""
    rule = built.with_suffix(".d")
    if not built.exists() or not rule.exists():
        return True
    # TensorFlow's headers are left out: they change with its version only, which is in the key, and
    # `pip install` finds them at another temporary path each time.
    listed = (pathlib.Path(word) for word in rule.read_text().replace("\\\n", " ").split()[1:])
    own = [file for file in listed if file.is_relative_to(ROOT / "amstf")]
    built_at = built.stat().st_mtime
    return any(not file.exists() or file.stat().st_mtime > built_at for file in [source, *own])


def run(command: list[str]) -> None:
    """Runs one compiler command; its messages are the explanation when it fails."""
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"error: this command failed: {' '.join(command)}")


def build_library() -> None:
    """Brings the library up to date."""
    cxx = compiler()
    key_file, key = OBJECTS / "key", build_key(cxx)
    if key_file.exists() and key_file.read_text() != key:
        shutil.rmtree(OBJECTS)
    objects = {
        file: OBJECTS / file.relative_to(ROOT / "amstf/cc").with_suffix(".o") for file in sources()
    }
    if not objects:
        sys.exit(f"error: there is no C++ source in {ROOT / 'amstf/cc'}")
    stale = {source: built for source, built in objects.items() if is_stale(source, built)}
    names = "\n".join(str(source) for source in objects)
    names_file = OBJECTS / "sources"  # also notices a source that has gone
    if not stale and LIBRARY.exists() and names_file.exists() and names_file.read_text() == names:
        return

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # takes seconds, hence only here

    # As system headers: their warnings are not ours to cure.
    tf_flags = [
        f"-isystem{flag[2:]}" if flag.startswith("-I") else flag
        for flag in tf.sysconfig.get_compile_flags()
    ]
    compile_flags = [f"-I{ROOT}", *tf_flags, *OWN_FLAGS]
    for built in stale.values():
        built.parent.mkdir(parents=True, exist_ok=True)
    commands = [
        [cxx, *compile_flags, "-c", str(source), "-o", str(built)]
        for source, built in stale.items()
    ]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))
    # Linked beside its place, then renamed: a process that has the old one mapped keeps it.
    linked = LIBRARY.with_suffix(".so.new")
    inputs = [str(built) for built in objects.values()]
    run([cxx, "-shared", "-o", str(linked), *inputs, *tf.sysconfig.get_link_flags(), "-pthread"])
    linked.replace(LIBRARY)
    key_file.write_text(key)
    names_file.write_text(names)


def build_loopback() -> None:
    """Brings the library that is preloaded into local clusters up to date."""
    if LOOPBACK.exists() and LOOPBACK.stat().st_mtime >= LOOPBACK_SOURCE.stat().st_mtime:
        return
    built = LOOPBACK.with_suffix(".so.new")
    flags = ["-O2", "-fPIC", "-Wall", "-shared"]
    run([compiler(), *flags, str(LOOPBACK_SOURCE), "-o", str(built)])
    built.replace(LOOPBACK)


class BuildOps(build_ext):
    """The command `build_ext`, for our library instead of a Python extension module."""

    def run(self) -> None:
        """Builds in place, and for a wheel copies the library into it."""
        build_library()
        build_loopback()
        if self.inplace or getattr(self, "editable_mode", False):
            return
        for library in (LIBRARY, LOOPBACK):
            target = pathlib.Path(self.build_lib) / library.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)

    def get_source_files(self) -> list[str]:
        """The files that a source distribution needs."""
        files = [*sources(), *(ROOT / "amstf/cc").rglob("*.h"), LOOPBACK_SOURCE]
        return [str(file.relative_to(ROOT)) for file in files]

    def get_outputs(self) -> list[str]:
        """What an installation has to record."""
        built = pathlib.Path(self.build_lib)
        return [str(built / library.relative_to(ROOT)) for library in (LIBRARY, LOOPBACK)]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing to map: the library is built in place."""
        return {}


# The extension only tells setuptools that the package is not pure Python.
setup(
    ext_modules=[Extension("amstf.ops._amstf_ops", sources=[])],
    cmdclass={"build_ext": BuildOps},
)
