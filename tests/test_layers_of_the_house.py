"""The rules of the tree that no linter knows: imports point one way, files stay readable."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("amstf", "models", "launch", "benchmarks", "tests")
MAX_LINES = 450

# What each part may import of this project. The longest name that fits counts.
COMMON = {
    "amstf.atomic_file",
    "amstf.compat",
    "amstf.errors",
    "amstf.files",
    "amstf.schema",
    "amstf.config",
}
MAY_IMPORT = {
    "amstf.atomic_file": set(),
    "amstf.compat": set(),
    "amstf.errors": set(),
    "amstf.files": {"amstf.errors", "amstf.remote_files"},
    "amstf.remote_files": set(),
    "amstf.schema": {"amstf.errors", "amstf.files"},
    "amstf.config": {"amstf.errors", "amstf.schema"},
    "amstf.ops": COMMON,
    "amstf.store": COMMON,
    "amstf.metrics": COMMON,
    "amstf.data": COMMON | {"amstf.ops", "amstf.store"},
    "amstf.dynamic": COMMON | {"amstf.ops", "amstf.store", "amstf.strategy"},
    "amstf.layers": COMMON | {"amstf.ops", "amstf.store", "amstf.strategy", "amstf.dynamic"},
    "amstf.strategy": COMMON | {"amstf.ops", "amstf.store"},
    "amstf": {"amstf"},  # the facade, the export: the top of the library
    "models": {"amstf"},
    "launch": {"amstf", "models"},
    "benchmarks": {"amstf", "models", "launch"},
    "tests": {"amstf", "models", "launch", "benchmarks"},
}

# The only files that may touch TensorFlow's private modules, each with the reason in it.
COMPAT_FILES = {"amstf/compat.py"}


def python_files() -> list[pathlib.Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def module_name(file: pathlib.Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file) for file in python_files()}


def is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def part_of(module: str) -> str:
    return max((part for part in MAY_IMPORT if is_in(module, part)), key=len)


def imports(file: pathlib.Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of each import, those inside functions too; not those for type checkers."""
    own = module_name(file).split(".")
    package = own if file.name == "__init__.py" else own[:-1]
    for node in walk_at_run_time(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, node.module] if node.module else up)
            for alias in node.names:
                # `from amstf import schema` imports amstf.schema, `from amstf import Schema` amstf.
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in MODULES else base


def walk_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from walk_at_run_time(node)


def refused_imports(file: pathlib.Path, source: str) -> list[str]:
    part = part_of(module_name(file))
    found = []
    for line, target in imports(file, ast.parse(source)):
        if not any(is_in(target, package) for package in PACKAGES):
            continue
        allowed = MAY_IMPORT[part] | {part}
        # Of amstf's parts only the named ones may be imported; of the others, all.
        bare = part.startswith("amstf.") and target == "amstf"
        if bare or not any(is_in(target, other) for other in allowed):
            found.append(f"{file.relative_to(ROOT)}:{line}: {part} must not import {target}")
    return found


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    assert refused_imports(file, file.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("amstf/ops/x.py", "import launch.train"),
        ("amstf/ops/x.py", "from amstf.layers import ams_embedding"),
        ("amstf/store/x.py", "def f():\n    from models import dicm"),
        ("amstf/data/x.py", "import amstf"),
        ("amstf/errors.py", "from amstf import schema"),
        ("models/x.py", "from launch import train"),
        ("launch/x.py", "from tests import cluster"),
    ],
)
def test_an_upward_import_is_found(path, source):
    assert len(refused_imports(ROOT / path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("amstf/ops/x.py", "from amstf.ops import _load\nfrom amstf.errors import StoreError"),
        ("amstf/layers/x.py", "from amstf import ops, store"),
        ("models/x.py", "import amstf\nfrom models import blocks"),
        ("amstf/layers/x.py", "if TYPE_CHECKING:\n    from models import dicm"),
    ],
)
def test_a_downward_import_is_allowed(path, source):
    assert refused_imports(ROOT / path, source) == []


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_tensorflows_private_modules_are_left_alone(file):
    private = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for line, name in imports(file, ast.parse(file.read_text()))
        if is_in(name, "tensorflow.python") or is_in(name, "tf_keras.src")
    ]
    assert not private or str(file.relative_to(ROOT)) in COMPAT_FILES, private


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_read_that_could_run_code(file):
    # ruff's rules S102, S301, S307, S506 and others know calls; these modules have no other use.
    dangerous = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code"}
    tree = ast.parse(file.read_text())
    assert not dangerous & {name.split(".")[0] for _, name in imports(file, tree)}
    allowing = [k for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == "allow_pickle"]
    assert not allowing


def test_files_stay_short():
    code = [*python_files(), *(ROOT / "amstf/cc").rglob("*.cc"), *(ROOT / "amstf/cc").rglob("*.h")]
    lines = {str(file.relative_to(ROOT)): file.read_text().count("\n") for file in code}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_the_op_library_is_loaded_in_one_place():
    loading = [
        str(file.relative_to(ROOT))
        for file in python_files()
        if any(
            isinstance(node, ast.Attribute)
            and node.attr in ("load_op_library", "load_library")
            and isinstance(node.value, ast.Name)
            and node.value.id == "tf"
            for node in ast.walk(ast.parse(file.read_text()))
        )
    ]
    assert loading == ["amstf/ops/_load.py"]


def test_cc_logic_knows_no_kernels():
    for file in (ROOT / "amstf/cc/store").iterdir():
        text = file.read_text()
        for forbidden in ("amstf/cc/kernels", "amstf/cc/ops", "tensorflow/core/framework"):
            assert f'#include "{forbidden}' not in text, f"{file.name} includes {forbidden}"
