"""Names and words from strangers cannot steer the terminal, wherever they are shown."""

from __future__ import annotations

import ast
import io
import logging
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fuse_index.cli import _console
from fuse_index.cli import main as cli
from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, Split, draw, make_scene, model_name
from fuse_index.demo.packaged import FOLDER

EVIL = "evil\x1b]0;title\x07\x1b[2J\x9b1A\u202e"
SHOWN = r"evil\x1b]0;title\x07\x1b[2J\x9b1A\u202e"
"""How it is shown."""


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("a\nb\tc\rd\x00", r"a\nb\tc\rd\x00"),
        ("\x7f\x85\u2028\u2066\u200b\ufeff\ud800", r"\x7f\x85\u2028\u2066\u200b\ufeff\ud800"),
        ("\U000e0041", r"\U000e0041"),  # a tag character, which nothing shows
        ("caf\xe9 \u4e2d\u6587 \U0001f600", "caf\xe9 \u4e2d\u6587 \U0001f600"),
        ("\u0646\u200c\u0647 a\xa0b \u3000", "\u0646\u200c\u0647 a\xa0b \u3000"),
        ("", ""),
    ],
)
def test_control_characters_are_escaped_and_the_rest_stays(text, shown):
    assert _console.clean(text) == shown
    assert _console.clean(shown) == shown


def test_every_character_that_is_no_control_stays():
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        if char.isprintable():
            assert _console.clean(char) == char
    for number in (*range(32), *range(0x7F, 0xA0)):
        assert "\\" in _console.clean(chr(number))


def test_verbs_print_through_the_console_alone():
    """So that what is escaped there is escaped everywhere."""
    folder = Path(cli.__file__).parent
    for path in sorted(folder.glob("*.py")):
        if path.name in ("_console.py", "_probe.py", "main.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "typer.echo", "typer.secho", "sys.stderr.write"), path
            assert called != "sys.stdout.write" or path.name == "_outputs.py", path


def test_all_that_the_console_writes_is_escaped(capsys):
    _console.set_up()
    _console.say(EVIL)
    _console.note(EVIL)
    _console.error(_console.one_line(EVIL))
    _console.print_table([EVIL], [[EVIL]], EVIL)
    logging.getLogger("fuse_index").warning("word %s", EVIL)
    out, err = capsys.readouterr()
    for char in "\x1b\x07\x9b\u202e":
        assert char not in out + err
    assert out.count(SHOWN) == 4
    assert err.count(SHOWN) == 3


def test_progress_is_escaped():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with _console.ProgressBar(after=0.0, console=console) as bar:
        for _ in range(1000):
            bar(f"loading {EVIL}", 1, 2)
            if SHOWN in out.getvalue():
                break
    assert "\x07" not in out.getvalue()
    assert "]0;" not in out.getvalue().replace(SHOWN, "")


def test_tracebacks_are_escaped(capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyError(EVIL, "a\nb")

    monkeypatch.setattr(cli, "command_tree", fail)
    assert main(["--debug"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") > 5
    assert "\x1b" not in error


def shown(capsys, *arguments: object, code: int = 0) -> str:
    assert main([str(item) for item in arguments]) == code
    out, err = capsys.readouterr()
    for char in "\x1b\x07\x9b\u202e":
        assert char not in out + err, arguments
    return out + err


def test_names_of_models_and_pictures(capsys, tmp_path, use_cache):
    shutil.copytree(FOLDER / "lm", tmp_path / EVIL)
    fluency = ["--objective", "{type: fluency}", "--initial", "a red circle"]
    short = ["--method", "random", "--method.search_width", 4, "--steps", 1]
    lm = ["--model", f"lm={tmp_path / EVIL}"]
    out = tmp_path / f"{EVIL}.json"
    assert "evil" in shown(capsys, "optimize", *lm, *fluency, *short, "--out", out)
    assert SHOWN in shown(capsys, "optimize", "--model", f"lm={EVIL}", *fluency, code=2)
    assert SHOWN in shown(capsys, "optimize", *lm, *fluency, "--out", f"no/{EVIL}", code=2)
    assert SHOWN in shown(capsys, "optimize", *lm, *fluency, f"--{EVIL}.a", "b", code=2)
    assert SHOWN in shown(capsys, "optimize", f"{EVIL}.yaml", code=2)
    assert SHOWN in shown(capsys, EVIL, code=2)
    draw(make_scene(Split.TEST, 0)).save(tmp_path / f"{EVIL}.png")
    clip = ["--lm", "demo:lm", "--clip", "demo:clip", "--initial", "a red circle"]
    text = shown(capsys, "caption", tmp_path / f"{EVIL}.png", *clip, *short)
    assert "evil" in text


def test_words_and_names_of_bundles(capsys, tmp_path):
    words = ["red", "blue", "circle", "star", "picture", "small", "left", f"s{EVIL}"]
    (tmp_path / "words.txt").write_text("\n".join(words), encoding="utf-8")
    pair = [model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)]
    bundle = tmp_path / EVIL
    build = ["build", *pair, "--words", tmp_path / "words.txt", "--min-group", 2]
    assert "evil" in shown(capsys, *build, "--out", bundle)
    for verb in ("inspect", "verify"):
        assert "evil" in shown(capsys, verb, bundle)
    assert "evil" in shown(capsys, "diff", bundle, bundle)
    assert "evil" in shown(capsys, "search", bundle, "red", f"s{EVIL}", "--top", 2)
    assert "evil" in shown(capsys, "doctor", *pair, "--words", tmp_path / "words.txt")
    assert "evil" in shown(capsys, "push", bundle, tmp_path / f"{EVIL} 2")
    assert "evil" in shown(capsys, "pull", bundle, "--out", tmp_path / f"{EVIL} 3")
    assert SHOWN in shown(capsys, "fit", f"{EVIL}", code=2)
