"""Values from files and flags: types, unknown names, docs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from fuse_index.common.options import Flag, Number, field, options
from fuse_index.common.reading import FlagText, field_docs, load_yaml, read_options
from fuse_index.errors import OptionError

Whole = Annotated[int, Field(strict=True)]


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@options()
class Inner:
    """Inside.

    Attributes:
        depth: how deep.
    """

    depth: Whole = 1


@options()
class Sample(Inner):
    """A sample.

    Attributes:
        colour: which, in
            two lines.
        sizes: some numbers.
    """

    colour: Colour = Colour.RED
    sizes: tuple[Whole, ...] = ()
    rate: Number | None = None
    label: int | str = "x"
    on: Flag = False
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
        ("rate", load_yaml("1e-3"), 0.001),
        ("rate", FlagText("-1E+3"), -1000.0),
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
        ({"rate": float("nan")}, "sample: rate=nan; expected a finite number"),
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


def test_required_fields():
    @options()
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


@options()
class Kinds:
    whole: Whole = 0
    number: Number = 0.0
    flag: Flag = False


@settings(max_examples=1000)
@given(
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text(max_size=20)
)
def test_flags_say_the_same_as_files(value):
    """A plain value written as YAML on the command line is the value in a file."""
    import yaml

    text = FlagText(yaml.safe_dump(value).removesuffix("...\n").strip())
    for name in ("whole", "number", "flag"):
        try:
            expected = read_options(Kinds, {name: value}, "x")
        except OptionError:
            continue
        assert read_options(Kinds, {name: text}, "x") == expected
