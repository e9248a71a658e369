"""Builds that are interrupted, and go on: the same bytes, or a clear refusal."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fuse_index.adapter.fit.store import FitStore
from fuse_index.build import BuildOptions, Resources, Stage, build_bundle
from fuse_index.build.work import Work
from fuse_index.bundle import verify_bundle
from fuse_index.common.files import write_atomically
from fuse_index.errors import CorpusError, OptionError, StorageError
from fuse_index.index import IndexOptions, Kind
from fuse_index.words.corpus.words import CorpusOptions
from tests.build.helpers import RUN, digest, load_once, make_shards_small

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")

SMALL = BuildOptions(corpus=CorpusOptions(min_count=2))


@pytest.fixture
def build(gpt2_dir, minilm_dir, captions_file, monkeypatch):
    make_shards_small(monkeypatch)
    load_once(monkeypatch)

    def run(output, options=SMALL, progress=None, corpus=(captions_file,), **given):
        return build_bundle(
            str(gpt2_dir),
            str(minilm_dir),
            output,
            list(corpus),
            options=options,
            progress=progress,
            resources=Resources(**given),
        )

    return run


def uninterrupted(folder, source, target, corpus):
    """The digest of a build that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        make_shards_small(patch)
        load_once(patch)
        build_bundle(str(source), str(target), folder / "b", corpus, options=SMALL)
    verify_bundle(folder / "b")
    assert [path.name for path in folder.iterdir()] == ["b"]  # no work is left
    return digest(folder / "b")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, gpt2_dir, minilm_dir, captions_file):
    folder = tmp_path_factory.mktemp("reference")
    return uninterrupted(folder, gpt2_dir, minilm_dir, [captions_file])


class StopError(Exception):
    pass


def stop_at(stage: Stage, share: float):
    """Progress that fails somewhere in a stage."""

    def progress(now, done, total):
        if now is stage and done and (total is None or done >= share * total):
            raise StopError

    return progress


@pytest.mark.parametrize(
    ("stage", "share"),
    [
        (Stage.COUNT, 0.4),
        (Stage.TOKENIZE, 0.5),
        (Stage.FIT, 0.7),
        (Stage.FIT, 0.97),
        (Stage.WRITE, 0.5),
    ],
)
def test_a_build_that_goes_on_ends_with_the_same_bytes(build, reference, tmp_path, stage, share):
    with pytest.raises(StopError):
        build(tmp_path / "b", progress=stop_at(stage, share))
    assert [path.name for path in tmp_path.iterdir()] == [".b.work"]
    build(tmp_path / "b", resume=True)
    assert digest(tmp_path / "b") == reference
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_was_done_is_not_done_again(build, tmp_path, monkeypatch):
    from fuse_index.build import stages

    with pytest.raises(StopError):
        build(tmp_path / "b", progress=stop_at(Stage.FIT, 0.85))

    def never(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(stages, "count_task", never)
    monkeypatch.setattr(stages, "tabulate_task", never)
    recalled = []
    load = FitStore.load_group

    def spy(self, number):
        found = load(self, number)
        recalled.append(found is not None)
        return found

    monkeypatch.setattr(FitStore, "load_group", spy)
    build(tmp_path / "b", resume=True)
    assert recalled[0]
    assert not recalled[-1]


def test_other_options_are_refused_and_named(build, tmp_path):
    with pytest.raises(StopError):
        build(tmp_path / "b", progress=stop_at(Stage.TOKENIZE, 0.5))
    other = BuildOptions(corpus=CorpusOptions(min_count=5, lowercase=True), groups=False)
    message = (
        r"--resume: groups was true, now false; lowercase was false, now true; "
        r"min_count was 2, now 5; expected the options"
    )
    with pytest.raises(OptionError, match=message):
        build(tmp_path / "b", other, resume=True)
    build(tmp_path / "b", resume=True)  # nothing was lost


def test_another_corpus_is_refused_and_named(build, tmp_path, captions_file, wikitext_file):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(wikitext_file.read_bytes())
    corpus = [captions_file, copy]
    out = tmp_path / "out" / "b"
    with pytest.raises(StopError):
        build(out, corpus=corpus, progress=stop_at(Stage.TOKENIZE, 0.5))
    with pytest.raises(OptionError, match=r"copy\.txt is no longer in the corpus"):
        build(out, corpus=[captions_file], resume=True)
    copy.write_bytes(wikitext_file.read_bytes() + b"more")
    with pytest.raises(OptionError, match=r"copy\.txt changed"):
        build(out, corpus=corpus, resume=True)


def test_a_build_without_resume_begins_anew(build, reference, tmp_path):
    with pytest.raises(StopError):
        build(tmp_path / "b", progress=stop_at(Stage.TOKENIZE, 0.5))
    build(tmp_path / "b")
    assert digest(tmp_path / "b") == reference
    build(tmp_path / "c", resume=True)  # with nothing to go on from
    assert digest(tmp_path / "c") == reference


def test_work_may_lie_elsewhere(build, reference, tmp_path):
    work = tmp_path / "fast" / "disk"
    with pytest.raises(StopError):
        build(tmp_path / "b", work_dir=work, progress=stop_at(Stage.FIT, 0.5))
    assert [path.name for path in work.iterdir()] == ["b.work"]
    build(tmp_path / "b", work_dir=work, resume=True)
    assert digest(tmp_path / "b") == reference
    assert not list(work.iterdir())


def test_a_folder_that_no_build_made_is_never_removed(tmp_path):
    (tmp_path / ".b.work").mkdir()
    (tmp_path / ".b.work" / "thesis.txt").write_text("mine", encoding="ascii")
    with pytest.raises(StorageError, match="is not the work of a build"), Work(tmp_path / "b", {}):
        pass
    assert (tmp_path / ".b.work" / "thesis.txt").exists()


def test_two_builds_to_one_place(tmp_path):
    with (
        Work(tmp_path / "b", {}),
        pytest.raises(StorageError, match="another build is at work"),
        Work(tmp_path / "b", {}),
    ):
        pass


def test_standard_input_cannot_be_resumed(build, tmp_path):
    with pytest.raises(OptionError, match="--resume with standard input"):
        build(tmp_path / "b", corpus=["-"], resume=True)


def test_an_unreadable_shard_is_named_and_the_others_are_kept(
    build, reference, tmp_path, captions_file, wikitext_file
):
    bad = tmp_path / "z.txt"
    bad.write_bytes(b"caf\xe9 " * 9)
    message = r"z\.txt is not utf-8: byte 0xe9 at byte offset 3.*is kept in .*b\.work: .*--resume"
    with pytest.raises(CorpusError, match=message):
        build(tmp_path / "b", corpus=[captions_file, wikitext_file, bad])
    counted = [p.name for p in (tmp_path / ".b.work" / "counts").glob("*.parquet")]
    assert len(counted) == 8  # all but the last


def test_a_full_disk_is_one_line_and_nothing_is_lost(build, reference, tmp_path, monkeypatch):
    from fuse_index.build import stages

    written = []

    def full(path, *arguments):
        if path.suffix == ".npz":
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
        write_atomically(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "write_atomically", full)
        message = r"no space left while writing .*b\.work.*with --resume goes on"
        with pytest.raises(StorageError, match=message):
            build(tmp_path / "b")
    build(tmp_path / "b", resume=True)
    assert digest(tmp_path / "b") == reference


def test_a_word_index_is_of_the_plan(build, tmp_path):
    flat = BuildOptions(
        corpus=CorpusOptions(min_count=20), groups=False, index=IndexOptions(Kind.FLAT)
    )
    with pytest.raises(StopError):
        build(tmp_path / "b", flat, progress=stop_at(Stage.WRITE, 0.1))
    other = replace(flat, index=IndexOptions(Kind.TOKENS))
    with pytest.raises(OptionError, match="--resume: index was"):
        build(tmp_path / "b", other, resume=True)
    assert "target" in build(tmp_path / "b", flat, resume=True).manifest.indexes


@pytest.mark.parametrize("removed", [0, 1, 2, 4])
def test_a_build_killed_while_its_work_is_removed_begins_anew(
    build, reference, tmp_path, monkeypatch, removed
):
    """The work may be half gone: nothing goes on from it, and the folder is known as a build's."""
    counted = []

    def killed(remove):
        def call(*arguments, **options):
            if len(counted) == removed:
                raise SystemExit("killed")
            counted.append(remove)
            return remove(*arguments, **options)

        return call

    from fuse_index.build import work

    with monkeypatch.context() as patch:
        patch.setattr(work.shutil, "rmtree", killed(shutil.rmtree))
        patch.setattr(Path, "unlink", killed(Path.unlink))
        with suppress(SystemExit):
            build(tmp_path / "b")
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    build(tmp_path / "b", resume=True)
    assert digest(tmp_path / "b") == reference
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.slow
def test_a_build_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path, tmp_path_factory, gpt2_dir, minilm_dir, captions_file, wikitext_file
):
    folder = tmp_path_factory.mktemp("reference")
    reference = uninterrupted(folder, gpt2_dir, minilm_dir, [captions_file, wikitext_file])
    out = tmp_path / "b"
    command = [sys.executable, "-c", RUN, "build", str(gpt2_dir), str(minilm_dir), "--resume"]
    command += ["-c", str(captions_file), "-c", str(wikitext_file), "-o", str(out)]
    killed = 0
    for seconds in (2.0, 4.0, 5.0, 6.0, 7.0, 7.5, 8.0, 8.5, 9.0, 60.0, 300.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
            process.wait()
            if out.exists():  # killed after its work: the next one begins anew
                assert digest(out) == reference
                shutil.rmtree(out)
            continue
        assert process.returncode == 0, process.stderr.read()
        break
    assert killed >= 3
    assert digest(out) == reference
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_work_of_a_failed_small_build_is_removed(tmp_path, gpt2_dir, minilm_dir):
    text = tmp_path / "text.txt"
    text.write_text("a b a b", encoding="ascii")
    with pytest.raises(StopError):
        build_bundle(
            str(gpt2_dir),
            str(minilm_dir),
            tmp_path / "deep" / "b",
            [text],
            progress=stop_at(Stage.LOAD, 0.5),
        )
    assert [path.name for path in Path(tmp_path).iterdir()] == ["text.txt"]
