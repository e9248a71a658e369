"""The verbs push, pull, diff and verify as a user types them, interruptions included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fuse_index.bundle import verify_bundle, write_bundle
from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, model_name
from tests.bundle import sample
from tests.share.conftest import bundle, caches, files_of, hub  # noqa: F401 - fixtures
from tests.share.hub_server import WRITER, Hub

ROOT = Path(__file__).parents[2]
GROUPS = "groups.safetensors"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def user(tmp_path):
    """Starts the command line in a process of its own, against a Hub named by HF_ENDPOINT."""
    with Hub() as server:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
            "HF_TOKEN": WRITER,
            "FUSE_INDEX_CACHE": str(tmp_path / "cache"),
        }

        def start(*arguments, before: str = "pass") -> subprocess.Popen[str]:
            code = f"{before}; import sys; from fuse_index.cli.main import main; sys.exit(main())"
            return subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)],
                cwd=ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

        start.hub = server
        yield start


def test_push_and_pull_as_processes(user, bundle, tmp_path):  # noqa: F811
    pushing = user("push", bundle, "org/name", "--license", "mit", "--json")
    out, err = pushing.communicate(timeout=120)
    assert pushing.returncode == 0, err
    report = json.loads(out)
    assert report["revision"] == user.hub.repositories["org/name"].branches["main"]
    assert err.count("note: ") == len(report["notes"]) == 1
    pulling = user("pull", "org/name", "--out", tmp_path / "out", "--json")
    out, err = pulling.communicate(timeout=120)
    assert (pulling.returncode, err) == (0, "")
    pulled = json.loads(out)
    assert pulled["revision"] == report["revision"]
    assert sorted(pulled["files"]) == sorted(set(files_of(bundle)) - {"manifest.json"})
    verify_bundle(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_pull_that_is_stopped_leaves_nothing_that_a_load_finds(user, bundle, tmp_path, number):  # noqa: F811
    user.hub.add("org/name", files_of(bundle))
    reached, released = threading.Event(), threading.Event()

    def hold(path):
        if path == GROUPS:
            reached.set()
            released.wait(60)

    user.hub.faults.on_content = hold
    pulling = user("pull", "org/name", "--out", tmp_path / "deep" / "out")
    assert reached.wait(60)
    time.sleep(0.1)
    pulling.send_signal(number)
    out, err = pulling.communicate(timeout=60)
    released.set()
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert pulling.returncode == expected[number]
    assert (out, err.count("\n")) == ("", 0 if number is signal.SIGKILL else 1)
    assert not (tmp_path / "deep").exists()
    user.hub.faults.on_content = lambda path: None
    user.hub.log.clear()
    again = user("pull", "org/name", "--out", tmp_path / "deep" / "out")
    assert again.wait(timeout=60) == 0
    assert not user.hub.fetched("adapter")  # was fetched before the stop
    verify_bundle(tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("cached", [False, True])
def test_a_disk_that_fills_while_pulling(user, bundle, tmp_path, cached):  # noqa: F811
    """A limit on the size of files stands for the end of the disk."""
    write_bundle(tmp_path / "out", sample.contents(groups=None))
    before = files_of(tmp_path / "out")
    user.hub.add("org/name", files_of(bundle))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))"
    place = [] if cached else ["--out", tmp_path / "out", "--overwrite"]
    pulling = user("pull", "org/name", *place, before=limit)
    out, err = pulling.communicate(timeout=60)
    assert (pulling.returncode, out, err.count("\n")) == (2, "", 1), err
    assert "no space left while writing" in err
    assert files_of(tmp_path / "out") == before
    assert not list(tmp_path.rglob("snapshots/*/manifest.json"))
    assert all(path.stat().st_size <= 900 for path in tmp_path.rglob("*.incomplete"))


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["push", "{bundle}", "name"], "'name' is no Hub id; expected a Hub id such as owner/"),
            (["push", "{bundle}", "a b/c"], "'a b/c' is neither a folder nor a Hub id"),
            (["push", "nowhere", "org/name"], "bundle {cwd}/nowhere does not exist"),
            (["push", "{bundle}", "org/name", "--license", "My Own"], "license 'My Own'"),
            (["push", "{bundle}", "memory://x", "--private"], "--private for memory://x"),
            (
                ["push", "{bundle}", "memory://x", "--storage", "anon"],
                "--storage anon; expected KEY",
            ),
            (["push", "{bundle}", "{bundle}"], "exists"),
            (["pull", "name"], "name is neither a folder nor a Hub id"),
            (["pull", "{bundle}"], "is a folder; expected --out"),
            (["pull", "org/name@a@b"], "neither a folder nor a Hub id"),
            (["pull", "org/name@v1", "--revision", "v2"], "revision 'v2' of org/name@v1"),
            (["pull", "memory://x", "--revision", "v2"], "of the Hub only"),
            (["pull", "org/name", "--revision", "../x"], "expected a branch, a tag or a commit"),
            (["pull", "org/name"], "HF_HUB_OFFLINE is set"),
            (["pull", "org/name", "--offline"], "the Hub is not asked (local_files_only)"),
            (["pull", "memory://none"], "memory://none holds no bundle"),
            (["diff", "{bundle}", "nowhere"], "bundle nowhere does not exist"),
            (["verify", "nowhere"], "bundle nowhere does not exist"),
            (["verify", "{bundle}", "--words", "x"], "expected --rebuild with them"),
            (["verify", "{plain}", "--rebuild"], "does not say how the bundle was built"),
        ],
    )
    def test_one_line_and_code_2(
        self,
        capsys,
        monkeypatch,
        tmp_path,
        bundle,  # noqa: F811
        caches,  # noqa: F811
        arguments,
        message,
    ):
        import huggingface_hub.constants as hub_constants

        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        monkeypatch.chdir(tmp_path)
        plain = tmp_path / "plain"
        write_bundle(plain, sample.contents())
        names = {"bundle": str(bundle), "plain": str(plain), "cwd": os.path.realpath(tmp_path)}
        given = [item.format(**names) for item in arguments]
        before = sorted(tmp_path.iterdir())
        code, out, err = run(capsys, *given, "--json")
        assert code == 2
        assert message.format(**names) in err
        assert err.count("\n") == 1
        assert message.format(**names) in json.loads(out)["error"]["message"]
        assert [path for path in sorted(tmp_path.iterdir()) if path != caches] == [
            path for path in before if path != caches
        ]


class TestDiff:
    def test_equal_bundles_are_code_0(self, capsys, bundle, tmp_path):  # noqa: F811
        write_bundle(tmp_path / "a", sample.contents())
        write_bundle(tmp_path / "b", sample.contents())
        code, out, _ = run(capsys, "diff", tmp_path / "a", tmp_path / "b")
        assert (code, out.count("\n")) == (0, 1)
        assert "are the same, byte for byte" in out

    def test_what_changed_is_shown_and_code_1(self, capsys, tmp_path):
        adapters = sample.adapters()
        adapters["1x1"] = adapters["1x1"] * 1.5
        quality = {"2x1": {"words": 2, "held_out": 1, "relative_error": 0.5, "cosine": 0.5}}
        write_bundle(tmp_path / "a", sample.contents())
        write_bundle(
            tmp_path / "b",
            sample.contents(adapters=adapters, options={"seed": 1}, quality=quality),
        )
        code, out, _ = run(capsys, "diff", tmp_path / "a", tmp_path / "b")
        assert code == 1
        rows = [line.split() for line in out.splitlines()]
        assert ["seed", "0", "1"] in rows
        assert ["1x1", "5.00e-01"] in rows
        assert ["2x1", "=", "=", "0.750", "0.500"] in rows
        code, out, _ = run(capsys, "diff", tmp_path / "a", tmp_path / "b", "--json")
        report = json.loads(out)
        assert code == 1
        assert report["adapters"] == {"1x1": 0.5}
        assert report["options"]["seed"] == [0, 1]
        assert report["same"] is False
        assert report["fits"] == {"source": True, "target": True}

    def test_a_bundle_of_the_hub(self, capsys, hub, bundle):  # noqa: F811
        hub.add("org/name", files_of(bundle))
        code, out, _ = run(capsys, "diff", bundle, "org/name")
        assert code == 0, out


class TestVerify:
    def test_intact_and_damaged(self, capsys, tmp_path):
        plain = tmp_path / "plain"
        write_bundle(plain, sample.contents())
        code, out, _ = run(capsys, "verify", plain)
        assert (code, out) == (0, f"{plain}: 4 files, every one is intact\n")
        (plain / GROUPS).write_bytes(b"x")
        code, out, err = run(capsys, "verify", plain)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "groups.safetensors is truncated" in err

    def test_a_word_index_that_is_none(self, capsys, bundle):  # noqa: F811
        code, out, err = run(capsys, "verify", bundle)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "index/target.json is not a " in err

    def test_rebuild(self, capsys, tmp_path):
        source, target = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)
        text = tmp_path / "text.txt"
        text.write_text("a red circle is above two blue squares and left of a circle\n" * 3)
        out = tmp_path / "b"
        assert main(["build", source, target, "-c", str(text), "-o", str(out)]) == 0
        capsys.readouterr()
        code, stdout, _ = run(capsys, "verify", out, "--rebuild", "--json")
        report = json.loads(stdout)["rebuild"]
        assert (code, report["same"]) == (0, True)
        assert {file["name"]: file["outcome"] for file in report["files"]} == dict.fromkeys(
            ["README.md", "adapter.safetensors", GROUPS, "words.safetensors", "manifest.json"],
            "same",
        )
        text.write_text("another text with a green circle in it\n" * 3)
        code, stdout, _ = run(capsys, "verify", out, "--rebuild", "--corpus", text)
        assert code == 1
        assert "building it again gives other bytes" in stdout
        rows = [line.split() for line in stdout.splitlines()]
        assert any(row[:2] == ["words.safetensors", "differs"] for row in rows)
        code, _, stderr = run(capsys, "verify", out, "--rebuild", "--source", target)
        assert code == 2
        assert f"the source model is '{target}'" in stderr
        assert f"expected '{source}'" in stderr
