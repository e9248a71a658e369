"""Options check themselves, and say what was given and expected."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from enum import Enum
from typing import ClassVar

import pytest

from fuse_index.common.options import Count, Natural, NonNegative, Positive, Share, options
from fuse_index.errors import OptionError


class Unit(str, Enum):
    TOKEN = "token"
    WORD = "word"


@options()
class Base:
    type: ClassVar[str] = ""


@options()
class Search(Base):
    width: Count = 512
    unit: Unit = Unit.TOKEN
    weight: NonNegative = 1.0
    most: Count | None = None
    seed: Natural = 0
    share: Share = 0.5
    rate: Positive = 0.1
    names: tuple[str, ...] = ()
    type: ClassVar[str] = "gcg"

    def __post_init__(self) -> None:
        if self.width == 7:
            raise OptionError("gcg: width=7 with nothing", expected="another width")


@options(label="budget", kw_only=True)
class Budget:
    steps: Count


def test_strings_become_enums_and_lists_become_tuples():
    made = Search(unit="word", names=["a"])
    assert made.unit is Unit.WORD
    assert made.names == ("a",)


def test_they_are_frozen_dataclasses():
    made = Search(width=3)
    with pytest.raises(FrozenInstanceError):
        made.width = 4
    assert replace(made, width=4) == Search(width=4)
    assert [field.name for field in fields(made)][:2] == ["width", "unit"]
    assert hash(made) == hash(Search(width=3))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "gcg: width=0; expected at least 1"),
        ({"width": True}, "gcg: width=True; expected a whole number"),
        ({"width": "x"}, "gcg: width 'x'; expected a whole number"),
        ({"width": 2.5}, "gcg: width=2.5; expected a whole number"),
        ({"unit": "phrase"}, "gcg: unit 'phrase'; expected one of token, word"),
        ({"weight": -1.0}, "gcg: weight=-1.0; expected at least 0"),
        ({"weight": float("nan")}, "gcg: weight=nan; expected a finite number"),
        ({"most": 0}, "gcg: most=0; expected at least 1"),
        ({"seed": -1}, "gcg: seed=-1; expected at least 0"),
        ({"share": 0.0}, "gcg: share=0.0; expected more than 0"),
        ({"share": 1.5}, "gcg: share=1.5; expected at most 1"),
        ({"rate": 0}, "gcg: rate=0; expected more than 0"),
        ({"width": 7}, "gcg: width=7 with nothing; expected another width"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(given, message):
    with pytest.raises(OptionError) as caught:
        Search(**given)
    assert str(caught.value) == message


def test_an_argument_without_a_name_is_named():
    with pytest.raises(OptionError, match=r"gcg: unit 'phrase'; expected one of token, word"):
        Search(3, "phrase")


def test_a_replaced_field_is_checked_again():
    with pytest.raises(OptionError, match=r"gcg: width=0"):
        replace(Search(), width=0)


def test_a_label_names_options_without_a_type():
    with pytest.raises(OptionError, match=r"budget: steps=0; expected at least 1"):
        Budget(steps=0)


@pytest.mark.parametrize("call", [Budget, lambda: Budget(steps=1, other=2)])
def test_a_wrong_call_is_a_type_error_as_for_any_dataclass(call):
    with pytest.raises(TypeError):
        call()
