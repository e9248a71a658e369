"""YAML and JSON as people write them, read strictly: errors name the key and the line.

A key that stands twice is refused, and so is what no file of options has: nesting without end, tags
of other types than text, numbers, lists and mappings, and numbers of thousands of digits. Keys are
texts, whatever they look like.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

MAX_DEPTH = 64
"""Lists and mappings inside each other, aliases of YAML followed."""
MAX_VALUES = 1_000_000
"""Values of one text, each alias of YAML counted with all it stands for."""
MAX_DIGITS = 100
"""Characters of a number."""

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_KINDS = {"sequence": "seq", "mapping": "map"}
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:]')


class MarkupError(ValueError):
    """A text that is not YAML or JSON, or holds what no options are.

    Args:
        problem: what is wrong.
        line: where, counted from 1; None where it is not known.
        expected: what would have been accepted; "" where the text is of another language
            altogether, perhaps just a text.
    """

    def __init__(self, problem: str, line: int | None = None, *, expected: str = "") -> None:
        self.problem = problem
        """What is wrong."""
        self.line = line
        """Where, counted from 1; None where it is not known."""
        self.expected = expected
        """What would have been accepted; "" where the text is of another language."""
        super().__init__(problem if line is None else f"line {line}: {problem}")


def load_yaml(text: str) -> Any:
    """Read a value as YAML; ``1e-3`` is a number, as in YAML 1.2, and a date is a text.

    Raises:
        MarkupError: it is not YAML, a key stands twice, or it holds what no options are.
    """
    import yaml  # noqa: PLC0415

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        line = None if mark is None else mark.line + 1
        raise MarkupError(problem, line) from None


def load_json(text: str) -> Any:
    """Read a value as JSON.

    Raises:
        MarkupError: it is not JSON, a key stands twice, or it holds what no options are.
    """
    try:
        value = json.loads(text, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise MarkupError(f"{error.msg} at column {error.colno}", error.lineno) from None
    except RecursionError:
        raise _too_deep(None) from None
    _check_json(text)
    return value


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _too_long(text, None)
    return int(text)


def _too_deep(line: int | None) -> MarkupError:
    expected = f"at most {MAX_DEPTH} lists and mappings inside each other"
    return MarkupError("nested too deeply", line, expected=expected)


def _too_long(text: str, line: int | None) -> MarkupError:
    problem = f"a number of {len(text):,} characters ({text[:8]}...)"
    return MarkupError(problem, line, expected=f"at most {MAX_DIGITS}, or a text in quotes")


def _twice(key: str, line: int, first: int) -> MarkupError:
    before = "the same line" if line == first else f"line {first}"
    shown = key if len(key) <= 40 else key[:37] + "..."
    problem = f"key {shown!r} stands twice, first in {before}"
    return MarkupError(problem, line, expected="every key once")


def _check_json(text: str) -> None:
    """Refuse keys that stand twice and deep nesting in what is known to be JSON."""
    open_keys: list[dict[str, int]] = []
    line, position, before = 1, 0, ""
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        line += text.count("\n", position, match.start())
        position = match.start()
        if token in ("{", "["):
            open_keys.append({})
            if len(open_keys) > MAX_DEPTH:
                raise _too_deep(line)
        elif token in ("}", "]"):
            open_keys.pop()
        elif token == ":":
            key = json.loads(before)
            if key in open_keys[-1]:
                raise _twice(key, line, open_keys[-1][key])
            open_keys[-1][key] = line
        before = token


@cache
def _yaml_loader() -> Any:
    import yaml  # noqa: PLC0415

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads what options consist of; the tree of nodes is checked before any value is made."""

        _depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self._depth > MAX_DEPTH:
                raise _too_deep(self.peek_event().start_mark.line + 1)
            self._depth += 1
            node = super().compose_node(parent, index)
            self._depth -= 1
            return node

        def get_single_node(self) -> Any:
            node = super().get_single_node()
            if node is not None:
                _check_node(node, {})
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                if isinstance(error, MarkupError):
                    raise
                kind = node.tag.removeprefix(_TAG)
                line = node.start_mark.line + 1
                problem = f"{str(node.value)[:40]!r} is no {kind}"
                raise MarkupError(problem, line, expected="a value of its tag") from None

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
            self.flatten_mapping(node)
            return {key.value: self.construct_object(item, deep) for key, item in node.value}

    number = re.compile(r"[-+]?(\d+|\d+\.\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver(_TAG + "float", number, list("-+.0123456789"))
    Loader.yaml_implicit_resolvers = {
        first: [item for item in resolvers if item[0] in _TAGS]  # dates and "=" are texts
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    return Loader


def _check_node(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Refuse what no options are in a tree of YAML nodes; return its depth and its values.

    An alias is the node that it stands for, which comes earlier in the text: ``known`` has it.
    """
    line = node.start_mark.line + 1
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            problem = "an alias inside what it stands for"
            raise MarkupError(problem, line, expected="values that end")
        return found
    known[id(node)] = None
    if _TAG + _KINDS.get(node.id, node.tag.removeprefix(_TAG)) != node.tag or node.tag not in _TAGS:
        tag = node.tag.replace(_TAG, "!!")
        raise MarkupError(f"tag {tag[:40]}", line, expected="texts, numbers, lists and mappings")
    inner = node.value
    if isinstance(inner, str):
        if len(inner) > MAX_DIGITS and node.tag in (_TAG + "int", _TAG + "float"):
            raise _too_long(inner, line)
        inner = []
    elif node.id == "mapping":
        _check_keys(node)
        inner = [item for _, item in inner]
    sizes = [_check_node(item, known) for item in inner]
    depth = 1 + max((size[0] for size in sizes), default=0)
    count = 1 + sum(size[1] for size in sizes)
    if depth > MAX_DEPTH + 1:
        raise _too_deep(line)
    if count > MAX_VALUES:
        expected = f"at most {MAX_VALUES:,}, each alias counted with what it stands for"
        raise MarkupError(f"{count:,} values", line, expected=expected)
    known[id(node)] = depth, count
    return depth, count


def _check_keys(node: Any) -> None:
    """Refuse keys of a YAML mapping that are no texts, or stand twice."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise MarkupError("a key that is a list or a mapping", line, expected="a text")
        if key.value in lines:
            raise _twice(key.value, line, lines[key.value])
        lines[key.value] = line
