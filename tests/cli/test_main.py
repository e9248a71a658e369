"""The command tree: speed, exit codes, error lines, JSON errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from fuse_index.cli import main as cli
from fuse_index.errors import OptionError

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuse_index.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        **options,
    )


@pytest.fixture
def verb(monkeypatch):
    """Put a function on the command line as the verb ``try``."""

    def install(function) -> None:
        monkeypatch.setitem(cli.VERBS, "try", cli.Verb(__name__, "command", "Try."))
        monkeypatch.setattr(sys.modules[__name__], "command", function, raising=False)

    return install


def test_help_lists_all_verbs_without_importing_any():
    code = (
        "import sys; from fuse_index.cli.main import main\n"
        "code = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'transformers', 'open_clip', 'faiss'}\n"
        "verbs = {'fuse_index.cli.build', 'fuse_index.cli.inspect', 'fuse_index.cli.doctor'}\n"
        "print('LOADED', sorted((heavy | verbs) & set(sys.modules)), code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED [] 0"
    for name, verb in cli.VERBS.items():
        assert f"\n  {name} " in done.stdout
        assert verb.summary.split()[0] in done.stdout


def test_help_answers_in_half_a_second():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_every_verb_has_json_and_helps_without_torch():
    code = (
        "import sys; from fuse_index.cli import main as cli\n"
        "for name in cli.VERBS:\n"
        "    print('VERB', name, cli.main([name, '--help']))\n"
        "print('TORCH', 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    *helps, last = done.stdout.split("Usage: ")[1:]
    for name, text in zip(cli.VERBS, [*helps, last], strict=True):
        assert text.startswith(f"fuse-index {name} ")
        assert "--json" in text
        assert f"VERB {name} 0" in text
    assert "TORCH False" in last


@pytest.mark.smoke
def test_without_arguments_it_helps(capsys):
    assert cli.main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: fuse-index")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fuse-index {cli.fuse_index.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'. (see 'fuse-index --help')"),
        (["inspct"], "No such command 'inspct'."),
        (["inspect", "x", "--jso"], "No such option"),
        (["--nothing"], "No such option"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(capsys, arguments, message):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fuse-index: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_missing_argument_names_the_verbs_help(capsys):
    assert cli.main(["inspect"]) == 2
    assert "(see 'fuse-index inspect --help')" in capsys.readouterr().err


def test_our_errors_are_the_users_and_code_2(capsys, verb):
    def command() -> None:
        raise OptionError("ridge=-1", expected="a number\nof at least 0", remedy="raise \x1b[31mit")

    verb(command)
    assert cli.main(["try"]) == 2
    assert capsys.readouterr().err == (
        "fuse-index: error: ridge=-1; expected a number of at least 0; raise \\x1b[31mit\n"
    )


def test_errors_under_json_are_one_object_on_stdout(capsys, verb):
    def command(json: bool = typer.Option(False, "--json")) -> None:
        raise OptionError("ridge=-1", expected="at least 0")

    verb(command)
    assert cli.main(["try", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "error": {
            "type": "OptionError",
            "message": "ridge=-1; expected at least 0",
            "exit_code": 2,
        }
    }
    assert captured.err == "fuse-index: error: ridge=-1; expected at least 0\n"


def test_usage_errors_under_json(capsys):
    assert cli.main(["inspect", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_a_word_after_two_dashes_is_not_an_option(capsys, verb):
    def command(words: list[str]) -> None:
        raise OptionError(" ".join(words))

    verb(command)
    assert cli.main(["try", "--", "--json", "--debug"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "fuse-index: error: --json --debug\n"


def test_bugs_are_code_1_and_say_how_to_report(capsys, verb):
    def command() -> None:
        raise KeyError("lost")

    verb(command)
    assert cli.main(["try"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "internal error: KeyError: 'lost'; this is a bug of fuse_index: please report" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("where", [["--debug", "try"], ["try", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(capsys, verb, where):
    def command() -> None:
        raise KeyError("lost")

    verb(command)
    assert cli.main(where) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.splitlines()[-1].startswith("fuse-index: error: internal error: KeyError")


def test_out_of_memory_says_so(capsys, verb):
    def command() -> None:
        raise MemoryError

    verb(command)
    assert cli.main(["try"]) == 1
    assert "error: out of memory; use a smaller corpus" in capsys.readouterr().err


def test_interrupt_is_130(capsys, verb):
    def command() -> None:
        raise KeyboardInterrupt

    verb(command)
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err.strip() == "fuse-index: error: interrupted"


def test_sigterm_is_an_interrupt_with_its_own_code(capsys, verb):
    def command(json: bool = typer.Option(False, "--json")) -> None:
        signal.raise_signal(signal.SIGTERM)

    verb(command)
    assert cli.main(["try", "--json"]) == 143
    out, err = capsys.readouterr()
    assert err.strip() == "fuse-index: error: interrupted"
    assert json.loads(out)["error"]["exit_code"] == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_exit_code_of_a_verb_is_kept(verb):
    def command() -> None:
        raise typer.Exit(7)

    verb(command)
    assert cli.main(["try"]) == 7


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_run_clean_up(tmp_path, sent, code):
    program = (
        "import sys, time\n"
        "from fuse_index.cli import main as cli\n"
        "def command(folder: str) -> None:\n"
        "    from pathlib import Path\n"
        "    from fuse_index.bundle.staging import staged\n"
        "    with staged(Path(folder)):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "cli.VERBS['try'] = cli.Verb('__main__', 'command', 'Try.')\n"
        "sys.exit(cli.main(['try', sys.argv[1]]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "bundle")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(sent)
    assert process.wait(30) == code
    assert list(tmp_path.iterdir()) == []
    process.stdout.close()


def test_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fuse_index.cli.main", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "--ray"], ["a", "--ray", "auto"]),
        (["--ray", "--json", "a"], ["--ray", "auto", "--json", "a"]),
        (["--ray", "host:1", "a"], ["--ray", "host:1", "a"]),
        (["a"], ["a"]),
    ],
)
def test_an_option_that_may_stand_without_a_value(arguments, expected):
    assert cli.with_value(arguments, "--ray", "auto") == expected
