"""Options are validated where they are made, in words a user can act on."""

from __future__ import annotations

import math

import pytest

from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.errors import OptionError

BAD = [
    ({"grouping": "both"}, "grouping 'both'; expected one of pair, target"),
    ({"ridge": -1.0}, 'ridge=-1.0; expected a finite number >= 0 or "auto"; 0 is plain'),
    ({"ridge": math.nan}, "ridge=nan; expected a finite number"),
    ({"ridge": "best"}, "ridge='best'; expected a finite number"),
    ({"ridge": True}, "ridge=True; expected a finite number"),
    ({"min_words": 0}, "min_words=0; expected at least 1"),
    ({"min_words": 2.5}, "min_words=2.5; expected a whole number"),
    ({"min_words": 20, "max_words": 19}, "max_words=19; expected at least min_words=20"),
    ({"holdout": 1.0}, "holdout=1.0; expected a share of the words, 0 <= holdout < 1"),
    ({"holdout": -0.1}, "holdout=-0.1; expected a share"),
    ({"seed": -1}, "seed=-1; expected at least 0"),
    ({"chunk_words": 0}, "chunk_words=0; expected at least 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_say_what_is_expected(options, message):
    with pytest.raises(OptionError) as caught:
        FitOptions(**options)
    assert str(caught.value).startswith(message)


def test_grouping_may_be_given_by_its_name():
    assert FitOptions(grouping="target").grouping is Grouping.TARGET
    assert FitOptions().grouping is Grouping.PAIR
