"""Callbacks of progress."""

from __future__ import annotations

from fuse_index.common.progress import adding, silent, stage


def test_units_are_added_up():
    seen = []
    add = adding(lambda done, total: seen.append((done, total)), 9, done=2)
    for count in (3, 0, 4):
        add(count)
    assert seen == [(5, 9), (9, 9)]
    adding(None, None)(3)


def test_a_stage_is_fixed():
    seen = []
    stage(lambda *given: seen.append(given), "counting")(1, None)
    assert seen == [("counting", 1, None)]
    stage(None, "counting")(1, 2)
    silent("counting", 1, 2)
