"""Values from files and flags: types, unknown names, docs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.errors import OptionError
from fuse_index.run.fields import FlagText, convert, field_docs, read_options


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    """Inside.

    Attributes:
        depth: how deep.
    """

    depth: int = 1


@dataclass(frozen=True)
class Sample(Inner):
    """A sample.

    Attributes:
        colour: which, in
            two lines.
        sizes: some numbers.
    """

    colour: Colour = Colour.RED
    sizes: tuple[int, ...] = ()
    rate: float | None = None
    label: str | int = "x"
    on: bool = False
    path: Path | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("depth", 3, 3),
        ("depth", 3.0, 3),
        ("depth", FlagText("3"), 3),
        ("colour", "blue", Colour.BLUE),
        ("colour", FlagText("blue"), Colour.BLUE),
        ("sizes", [1, 2], (1, 2)),
        ("sizes", 5, (5,)),
        ("sizes", FlagText("[1, 2]"), (1, 2)),
        ("sizes", FlagText("7"), (7,)),
        ("rate", 2, 2.0),
        ("rate", "1e-3", 0.001),
        ("rate", FlagText("none"), None),
        ("label", 4, 4),
        ("label", "4", "4"),
        ("label", FlagText("4"), 4),
        ("label", FlagText("four"), "four"),
        ("on", True, True),
        ("on", FlagText("true"), True),
        ("path", "a/b", Path("a/b")),
        ("path", FlagText("a"), Path("a")),
        ("inner", {"depth": 9}, Inner(9)),
        ("inner", FlagText("{depth: 9}"), Inner(9)),
    ],
)
def test_values_become_what_the_field_holds(name, value, expected):
    found = getattr(read_options(Sample, {name: value}, "sample"), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"colou": "red"},
            "sample: field 'colou' is unknown; expected one of depth, colour, sizes, rate, label, "
            "on, path, inner; did you mean 'colour'?",
        ),
        ({"depth": "deep"}, "sample.depth: 'deep'; expected a whole number"),
        ({"depth": 1.5}, "sample.depth: 1.5; expected a whole number"),
        ({"depth": True}, "sample.depth: True; expected a whole number"),
        ({"colour": "green"}, "sample.colour: 'green'; expected one of red, blue"),
        ({"sizes": [1, "x"]}, "sample.sizes[1]: 'x'; expected a whole number"),
        ({"rate": "fast"}, "sample.rate: 'fast'; expected a number"),
        ({"rate": float("nan")}, "sample.rate: nan; expected a number"),
        ({"rate": "nan"}, "sample.rate: 'nan'; expected a number"),
        ({"rate": 10**400}, f"sample.rate: 1{'0' * 76}...; expected a number"),
        ({"on": "maybe"}, "sample.on: 'maybe'; expected true or false"),
        ({"label": [1]}, "sample.label: [1]; expected a whole number or a text"),
        ({"inner": {"x": 1}}, "sample.inner: field 'x' is unknown; expected one of depth"),
        ({"inner": 3}, "sample.inner: 3; expected a mapping of names to values"),
    ],
)
def test_mistakes_name_the_field_and_what_it_holds(given, message):
    with pytest.raises(OptionError) as caught:
        read_options(Sample, given, "sample")
    assert str(caught.value) == message


def test_what_is_left_out_comes_from_the_base():
    base = Sample(depth=7, colour=Colour.BLUE)
    assert read_options(Sample, {"depth": 8}, "sample", base=base) == Sample(8, Colour.BLUE)


def test_required_fields():
    @dataclass(frozen=True)
    class Needs:
        name: str

    with pytest.raises(OptionError, match="needs: no 'name'; expected name to be given"):
        read_options(Needs, {}, "needs")


def test_docs_of_fields_come_from_the_docstrings():
    docs = field_docs(Sample)
    assert docs["colour"] == "which, in two lines."
    assert docs["sizes"] == "some numbers."
    assert docs["depth"] == "how deep."
    assert docs["rate"] == ""


@settings(max_examples=1000)
@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text(max_size=20))
def test_flags_say_the_same_as_files(value):
    """A plain value written as YAML on the command line is the value in a file."""
    import yaml

    text = FlagText(yaml.safe_dump(value).removesuffix("...\n").strip())
    for hint in (int, float, bool):
        try:
            expected = convert(value, hint, "x")
        except OptionError:
            continue
        assert convert(text, hint, "x") == expected
