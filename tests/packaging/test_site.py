"""The documentation site: every public name has its place, and the tutorials are the examples."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import yaml

import fuse_index
from fuse_index.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGES = sorted(
    module.name
    for module in pkgutil.iter_modules(fuse_index.__path__)
    if module.name
    not in {"cli", "common", "words"}  # the verbs; and modules that are imported one by one
)


def pages() -> dict[str, str]:
    """The texts of the reference's pages."""
    return {
        path.name: path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")
    }


def directives() -> set[str]:
    """What the reference's pages ask to be written out."""
    return {found for text in pages().values() for found in re.findall(r"^::: (\S+)$", text, re.M)}


def public_names(package: str) -> list[str]:
    """``__all__``, or what a module defines itself."""
    module = importlib.import_module(f"fuse_index.{package}")
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    )


def config() -> dict:
    """The configuration of the site; its keys need no custom tags."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def navigation(item=None) -> list[str]:
    """The pages that the navigation names."""
    item = config()["nav"] if item is None else item
    if isinstance(item, str):
        return [item]
    parts = item.values() if isinstance(item, dict) else item
    return [page for part in parts for page in navigation(part)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_asked_for(package):
    asked = directives()
    full = f"fuse_index.{package}"
    assert full in asked
    module = importlib.import_module(full)
    inner = {m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))}
    names = public_names(package)
    assert names
    # A function that hides the module of its name is written out by its full path.
    hidden = [name for name in names if name in inner and f"{full}.{name}.{name}" not in asked]
    assert hidden == []


def test_the_words_modules_are_all_modules_that_others_import_from():
    asked = {name for name in directives() if name.startswith("fuse_index.words.")}
    examples = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "examples").glob("*.py"))
    imported = set(re.findall(r"fuse_index\.words\.\w+", examples))
    assert imported <= asked
    for name in asked:
        importlib.import_module(name)


def test_the_names_of_the_package_itself_are_in_the_reference():
    text = pages()["index.md"]
    for name in fuse_index.__all__:
        if name == "__version__":
            assert "`__version__`" in text
        else:
            assert f"[`{name}`][{fuse_index._HOMES[name]}.{name}]" in text


@pytest.mark.smoke
def test_the_navigation_is_the_folder():
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(navigation()) == sorted(found)


def test_every_example_is_a_tutorial_and_no_code_is_written_twice():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    tutorials = {p.stem: p.read_text(encoding="utf-8") for p in (DOCS / "tutorials").glob("*.md")}
    assert set(tutorials) == examples | {"index"}
    for name in examples:
        blocks = re.findall(r"```python\n(.*?)```", tutorials[name], flags=re.DOTALL)
        assert blocks == [f'--8<-- "examples/{name}.py"\n']
        assert f"python examples/{name}.py" in tutorials[name]
        assert f"({name}.md)" in tutorials["index"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "for example in examples/*.py" in script  # which runs them all
    assert "mkdocs build --strict" in script


def test_a_tutorial_shows_what_its_code_prints():
    text = (DOCS / "tutorials" / "pull_back_by_hand.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output: pull_back_by_hand -->\n```text\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "pull_back_by_hand.py")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", done.stdout) == number.sub("#", shown.group(1))
    for said, found in zip(
        number.findall(shown.group(1)), number.findall(done.stdout), strict=True
    ):
        assert float(found) == pytest.approx(float(said), rel=1e-3)


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert "docs/word-index.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_command_line_page_is_the_help_of_every_verb(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "site"))
    hooks = importlib.import_module("hooks")
    text = hooks.on_page_markdown(pages()["cli.md"])
    assert hooks.MARKER not in text
    assert re.findall(r"^## (\S+)$", text, re.M) == list(VERBS)
    assert text.count("Usage: fuse-index ") == len(VERBS)
    assert text.count("  --json") == len(VERBS)
    assert hooks.on_page_markdown("no marker") == "no marker"


def test_roles_of_docstrings_become_links(monkeypatch):
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "site"))
    roles = importlib.import_module("roles")
    paths = {"Adapter": "fuse_index.adapter.Adapter", "a.b": "a.b"}
    text = roles.as_links("of :class:`Adapter`, :func:`~a.b` and :data:`NOWHERE`", paths.get)
    assert text == (
        'of <autoref identifier="fuse_index.adapter.Adapter" optional><code>Adapter</code>'
        '</autoref>, <autoref identifier="a.b" optional><code>b</code></autoref> and `NOWHERE`'
    )


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_lists_every_public_name(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split()[0] for line in zlib.decompress(lines).decode().splitlines()}
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in public_names(package)
        if f"fuse_index.{package}.{name}" not in known
        and f"fuse_index.{package}.{name}.{name}" not in known
    ]
    assert missing == []
    page = (tmp_path / "reference" / "adapter" / "index.html").read_text(encoding="utf-8")
    assert 'id="fuse_index.adapter.Adapter.pull_back"' in page
    assert ":class:`" not in page
