"""Files of results: links, FIFOs and devices; and results that are kept where a file fails."""

from __future__ import annotations

import ast
import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuse_index.cli import _console, _outputs
from fuse_index.cli import main as cli
from fuse_index.common import files
from fuse_index.optimize import Result
from tests.cli.running import run

VERBS = Path(cli.__file__).parent

pytestmark = pytest.mark.usefixtures("use_cache")


def test_no_verb_opens_a_file_to_write_by_itself():
    """All go through ``save``, so that what holds here holds for every verb."""
    for path in sorted(VERBS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", ""))
            assert name not in ("write_text", "write_bytes", "write_atomically"), path
            assert path.name == "_outputs.py" or name != "write_out", path


def read_later(path: Path) -> Callable[[], bytes]:
    """Read a FIFO in another thread; the result waits for its end."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()

    def wait() -> bytes:
        reader.join(60)
        return found[0]

    return wait


def test_a_result_goes_through_a_fifo_and_a_link(capsys, file, tmp_path):
    out, events, state = tmp_path / "out.json", tmp_path / "events", tmp_path / "state"
    os.mkfifo(tmp_path / "fifo")
    out.symlink_to(tmp_path / "fifo")
    events.symlink_to(tmp_path / "real.jsonl")
    state.symlink_to(tmp_path / "real.state")
    wait = read_later(tmp_path / "fifo")
    flags = ["--steps", 1, "--out", out, "--events", events, "--checkpoint", state]
    code, stdout, stderr = run(capsys, file, *flags, "--json")
    assert (code, stderr) == (0, "")
    assert json.loads(wait()) == json.loads(stdout)
    assert all(path.is_symlink() for path in (out, events, state))
    assert stat.S_ISFIFO(out.stat().st_mode)
    assert (tmp_path / "real.jsonl").read_text(encoding="utf-8").count("\n") == 4
    assert (tmp_path / "real.state").stat().st_size > 1000


@pytest.mark.parametrize("flag", ["--checkpoint"])
def test_a_checkpoint_is_a_regular_file(capsys, file, tmp_path, flag):
    os.mkfifo(tmp_path / "fifo")
    code, _, stderr = run(capsys, file, flag, tmp_path / "fifo")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "fifo; expected a regular file" in stderr


@pytest.fixture
def failing(monkeypatch) -> Callable[..., None]:
    """Files cannot be written: all, or all but those beside the one that is named."""
    write = files.write_atomically

    def fail(number: int = errno.ENOSPC, only: str = "") -> None:
        def refuse(path: Any, data: bytes) -> None:
            if not only or Path(path).name == only:
                raise OSError(number, os.strerror(number), str(path))
            write(path, data)

        monkeypatch.setattr(files, "write_atomically", refuse)

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_at_the_end_leaves_the_result_on_stdout(
    capsys, file, tmp_path, failing, number
):
    failing(number)
    out = tmp_path / "out.json"
    code, stdout, stderr = run(capsys, file, "--steps", 1, "--out", out)
    assert (code, stderr.count("\n")) == (2, 1)
    assert stderr.endswith(
        f"--out {out}: {os.strerror(number)}; expected a file that can be written; its content is "
        "on standard output\n"
    )
    shown, brace, text = stdout.partition("\n{\n")
    result = Result.from_json(json.loads(brace + text))
    assert shown.startswith(result.text.strip())
    assert "stopped by steps" in shown
    assert not out.exists()


def test_with_json_the_result_stands_in_the_error(capsys, file, tmp_path, failing):
    failing()
    out = tmp_path / "out.json"
    code, stdout, stderr = run(capsys, file, "--steps", 1, "--out", out, "--json")
    assert (code, stderr.count("\n")) == (2, 1)
    found = json.loads(stdout)
    assert found["error"]["type"] == "StorageError"
    assert Result.from_json(found["result"]).spent["steps"] == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_a_file_that_cannot_be_replaced_gets_one_beside_it(
    capsys, file, tmp_path, failing, as_json
):
    failing(errno.EBUSY, only="out.json")
    out = tmp_path / "out.json"
    json_flag = ["--json"] if as_json else []
    code, stdout, stderr = run(capsys, file, "--steps", 1, "--out", out, *json_flag)
    (beside,) = tmp_path.glob("out.*.json")
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"its content is in {beside}" in stderr
    result = Result.load(beside)
    if as_json:
        assert json.loads(stdout)["result"] == result.to_json()
    else:
        assert stdout.startswith(result.text.strip())
        assert "{" not in stdout


def test_a_device_that_is_full_keeps_the_result(capsys, file):
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    code, stdout, stderr = run(capsys, file, "--steps", 1, "--out", "/dev/full")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "its content is on standard output" in stderr
    assert '"format": "fuse_index result"' in stdout
    assert Path("/dev/full").is_char_device()


def test_events_that_cannot_be_written_keep_the_result(capsys, file):
    """The disk is full from the first event on."""
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    code, stdout, stderr = run(capsys, file, "--steps", 1, "--events", "/dev/full", "--json")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "No space left on device" in stderr
    assert json.loads(stdout)["result"]["stop"] == "failed"


def test_the_last_event_that_cannot_be_written_keeps_the_result(capsys, file, monkeypatch):
    from fuse_index.run import EventWriter

    def full(self, result):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events")

    monkeypatch.setattr(EventWriter, "end", full)
    code, stdout, stderr = run(capsys, file, "--steps", 1, "--events", os.devnull)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "events cannot be written (No space left on device)" in stderr
    assert "stopped by steps" in stdout


def test_several_files_are_each_said(capsys, tmp_path, failing):
    failing()
    unsaved = [
        _outputs.save(b"a,b\n", tmp_path / "a.csv", "--csv"),
        _outputs.save(b"\x89PNG", tmp_path / "b.png", "--picture", is_text=False),
        _outputs.save(b"", None, "--out"),
    ]
    with pytest.raises(Exception, match=r"a\.csv: No space") as caught:
        _outputs.finish(False, {}, lambda: _console.say("shown"), unsaved)
    out, err = capsys.readouterr()
    assert out == "shown\na,b\n"
    assert "--picture" in err
    assert "its content is lost" in err
    assert "on standard output" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fits"),
    [("file", True), ("link", True), ("fifo", True), ("folder", False), ("nowhere", False)],
)
def test_what_can_be_written_is_known_before_the_work(tmp_path, kind, fits):
    path = tmp_path / "out"
    if kind == "link":
        path.symlink_to(tmp_path / "new")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "nowhere":
        path.symlink_to(tmp_path / "missing" / "new")
    if fits:
        _outputs.require_writable(path, "--out")
        return
    with pytest.raises(Exception, match=r"--out .*/out; expected a file"):
        _outputs.require_writable(path, "--out")
