"""Numbers that no library takes, and names that steer a terminal."""

from __future__ import annotations

import pytest

from fuse_index.cli.main import main

LM = ["optimize", "--model", "lm=demo:lm", "--objective", "fluency", "--steps", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", str(2**128 - 1)], "options: seed=34028236692093846346337460743176821"),
        (["--method", "gcg", "--method.search_width", "1" + "0" * 24], "gcg): search_width=1000"),
        (["--initial.length", "1" + "0" * 24], "initial: length=1000"),
    ],
)
def test_huge_whole_numbers_are_one_line(capsys, flags, message):
    """A seed was drawn beyond 64 bits: the error was a stack of C++.

    https://github.com/pytorch/torchtitan/issues/746
    """
    assert main([*LM, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_name_that_steers_the_terminal_is_escaped(capsys):
    """A file was named by somebody else, with sequences that a terminal obeys.

    https://github.com/Canop/broot/issues/1188
    """
    assert main(["optimize", "\x1b]52;c;cm0gLXJm\x07.yaml"]) == 2
    assert r"run file \x1b]52;c;cm0gLXJm\x07.yaml: No such file" in capsys.readouterr().err
