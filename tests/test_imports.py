"""The import graph: floors, a light package, nothing that runs foreign code."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import fuse_index
from tests.cases import case

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fuse_index"
FLOORS = (
    "errors",
    "common",
    "ops",
    "tensors",
    "words",
    "bundle",
    "share",
    "adapter",
    "index",
    "models",
    "objectives",
    "predict",
    "optimize",
    "report",
    "evaluate",
    "build",
    "run",
    "demo",
    "cli",
)
"""From the lowest to the highest; a module imports from its own floor and those before it."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
def tree_of(module: str) -> ast.Module:
    """Every file is parsed once."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> list[tuple[str, int]]:
    """Every module of the package that ``module`` imports anywhere, with the line."""
    package = MODULES[module].name == "__init__.py"
    parent = module if package else module.rpartition(".")[0]
    found = []
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = parent.split(".")[: len(parent.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        ours = [name for name in names if name.split(".")[0] == "fuse_index"]
        found += [(name, node.lineno) for name in ours]
    return found


def floor_of(module: str) -> int | None:
    """Number of the floor; None for the package itself, whose public names load lazily."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1].startswith("__"):
        return None
    return FLOORS.index(parts[1])


@pytest.mark.smoke
def test_every_module_is_on_a_floor():
    assert {name.split(".")[1] for name in MODULES if "." in name} <= set(FLOORS)


@pytest.mark.smoke
def test_imports_go_down_the_floors_only():
    wrong = []
    for module in MODULES:
        own = floor_of(module)
        for imported, line in imports_of(module):
            floor = floor_of(imported)
            if floor is None:
                continue
            if own is None:
                # The package's own __init__ may import the errors; all else is under TYPE_CHECKING.
                allowed = imported in type_checking_imports() or floor == 0
            else:
                allowed = floor <= own
            if not allowed:
                wrong.append(f"{module}:{line} imports {imported}, which is a higher floor")
    assert not wrong


@cache
def type_checking_imports() -> set[str]:
    """What ``fuse_index/__init__.py`` imports for type checkers only."""
    found = set()
    for node in ast.walk(tree_of("fuse_index")):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom):
                    found |= {f"{inner.module}.{alias.name}" for alias in inner.names}
    return found


def test_the_graph_is_seen_at_all():
    """The test above would pass on a graph it cannot read."""
    assert ("fuse_index.words.table.WordTable") in {
        name for name, _ in imports_of("fuse_index.bundle.read")
    }
    assert floor_of("fuse_index.words.table.WordTable") == FLOORS.index("words")


@pytest.mark.smoke
def test_every_module_imports():
    for module in MODULES:
        with case(module=module):
            importlib.import_module(module)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light():
    code = (
        "import sys, fuse_index; dir(fuse_index)\n"
        "heavy = ('torch', 'faiss', 'transformers', 'open_clip', 'tokenizers', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    assert run(code) == "[]\n"


def test_public_names_load_neither_faiss_nor_transformers_nor_open_clip():
    """Not even when every one of them is used."""
    code = (
        "import sys, fuse_index\n"
        "for name in fuse_index.__all__: getattr(fuse_index, name)\n"
        "heavy = ('faiss', 'transformers', 'open_clip', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    assert run(code) == "[]\n"


def test_the_package_adds_at_most_a_third_of_a_second_to_torch():
    code = (
        "import torch, time; start = time.perf_counter(); import fuse_index\n"
        "print(time.perf_counter() - start)\n"
    )
    assert any(float(run(code)) < 0.3 for _ in range(2))


def test_public_names():
    names = [name for name in fuse_index.__all__ if name != "__version__"]
    assert 1 <= len(names) <= 15
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(fuse_index, name).__doc__, name
    assert dir(fuse_index) == sorted(fuse_index.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fuse_index.nothing


@cache
def attributes_and_keywords(module: str) -> set[str]:
    """Dotted names, imported modules and keyword arguments of a module."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found.add(f"{node.arg}={ast.unparse(node.value)}")
    return found


def test_nothing_is_unpickled_and_no_foreign_code_runs():
    for module in MODULES:
        with case(module=module):
            found = attributes_and_keywords(module)
            assert "trust_remote_code=True" not in found
            roots = {name.split(".")[0] for name in found}
            assert not roots & {"pickle", "dill", "joblib"}
            if "torch.load" in found:
                assert "weights_only=True" in found


READS_THE_ENVIRONMENT = "fuse_index.common.cache"
"""The one module beside the operators that does: where the cache is."""


def test_only_ops_and_the_cache_folder_read_the_environment():
    reading = [
        module
        for module in MODULES
        if ".ops" not in module and {"os.environ", "os.getenv"} & attributes_and_keywords(module)
    ]
    assert reading == [READS_THE_ENVIRONMENT]


def module_graph() -> dict[str, set[str]]:
    """Modules by module, imports in functions and for type checkers included.

    The ``__init__`` files re-export names for users and are left out; a name that is imported from
    one counts as imported from the module that it re-exports it from.
    """
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    exported = {
        f"{package}.{name.rpartition('.')[2]}": name
        for package in packages
        for name, _ in imports_of(package)
    }
    graph: dict[str, set[str]] = {}
    for module in set(MODULES) - packages:
        graph[module] = set()
        for name, _ in imports_of(module):
            target = name
            while target in exported and target not in MODULES:
                target = exported[target]
            while target not in MODULES:
                target = target.rpartition(".")[0]
            if target not in packages and target != module:
                graph[module].add(target)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or through others (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) > at + 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e2"}, "e2": {"e", "d"}}
    assert circles(graph) == [["a", "b", "c"], ["e", "e2"]]


def test_no_module_is_imported_back():
    """Not even through others, in a function or for type checkers."""
    assert circles(module_graph()) == []


def test_no_class_is_defined_twice():
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    twice = {name for name, modules in places.items() if len(modules) > 1}
    assert twice == set()
