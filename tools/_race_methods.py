"""The methods of the race by name, and variants of them by their options."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any


def methods() -> dict[str, Any]:
    """Every method by name, as a method with a search."""
    from _race_apart import Apart

    from fuse_index.optimize import GCG, Beam, Choice, Greedy, RandomSearch

    published = {"search_width": 512, "draw": "uniform", "positions": 0, "memory": 0}
    words = {"unit": "word"}
    return {
        "gcg": Choice(GCG(**published), Greedy(keep_current=False), "as published"),
        "best": Choice(GCG(), Beam(width=4), "the default over tokens"),
        "layers": Choice(GCG(predictor="layers"), Beam(width=4), "tokens by layers"),
        "words": Choice(GCG(**words), Greedy(), "the default over words, by layers"),
        "words-embedding": Choice(
            GCG(**words, predictor="embedding", search_width=32, positions=2),
            Greedy(),
            "words by embedding",
        ),
        "words-adapter": Choice(
            GCG(**words, predictor="adapter", search_width=32, positions=2), Greedy(), "by adapter"
        ),
        "apart": Choice(Apart(), Greedy(), "candidates of each model apart"),
        "random": Choice(RandomSearch(), Greedy(), "random tokens"),
    }


def method_named(text: str) -> Any:
    """Return a method by its name, with some of its options changed.

    Args:
        text: a name, and options behind it: ``best+residual_scale=0.7+beam=8``. ``beam`` and
            ``buffer`` set the search.

    Raises:
        SystemExit: there is no such method or option.
    """
    from fuse_index.errors import FuseIndexError

    name, *changes = text.split("+")
    known = methods()
    if name not in known:
        raise SystemExit(f"method {name!r}; expected one of {', '.join(known)}, or theirs:NAME")
    choice = known[name]
    for change in changes:
        field, equals, value = change.partition("=")
        try:
            if not equals:
                raise SystemExit(f"{text!r}: {change!r}; expected OPTION=VALUE")
            choice = _changed(choice, field, _read(value), text)
        except FuseIndexError as error:
            raise SystemExit(f"{text!r}: {error}") from None
    return choice


def _changed(choice: Any, field: str, value: Any, text: str) -> Any:
    from fuse_index.optimize import Beam, Greedy

    if field == "beam":
        return replace(choice, search=Beam(width=value))
    if field == "buffer":
        return replace(choice, search=Greedy(buffer=value))
    options = [item.name for item in fields(choice.method)]
    if field not in options:
        raise SystemExit(f"{text!r}: option {field!r}; expected one of {', '.join(options)}, beam")
    return replace(choice, method=replace(choice.method, **{field: value}))


def _read(value: str) -> Any:
    """A number where it is one, else the text."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(value.lower(), value)
