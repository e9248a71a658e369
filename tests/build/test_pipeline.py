"""Whole builds on the real pair: results, determinism, identity, bad input, kills."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fuse_index.adapter import Adapter
from fuse_index.build import BuildOptions, Stage, build_bundle
from fuse_index.build.timing import pace
from fuse_index.bundle import read_bundle, verify_bundle
from fuse_index.errors import CorpusError, ModelError, StorageError, VocabularyError
from fuse_index.models.embeddings import load_embeddings
from fuse_index.words.corpus.words import CorpusOptions

SMALL = BuildOptions(corpus=CorpusOptions(min_count=10))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_bundle_of_the_real_pair_holds_what_the_models_say(
    tmp_path, gpt2_dir, minilm_dir, captions_file
):
    seen = []
    result = build_bundle(
        str(gpt2_dir),
        str(minilm_dir),
        tmp_path / "b",
        [captions_file],
        options=SMALL,
        progress=lambda stage, done, total: seen.append(stage),
    )
    assert list(dict.fromkeys(seen)) == [
        Stage.COUNT,
        Stage.LOAD,
        Stage.TOKENIZE,
        Stage.FIT,
        Stage.WRITE,
    ]
    bundle = read_bundle(tmp_path / "b", parts=("words", "adapter", "groups"))
    source = load_embeddings(str(gpt2_dir))
    row = bundle.table.words.index("skateboard")
    assert bundle.table.source[row].tolist() == source.words.encode_text(" skateboard")
    name = bundle.manifest.group_names[bundle.word_groups[row]]
    place = int((bundle.word_groups[:row] == bundle.word_groups[row]).sum())
    tensor = bundle.groups.load(f"source.{name}")[place]
    ids = torch.from_numpy(bundle.table.source[row])
    torch.testing.assert_close(tensor[: len(ids)], source.table[ids], rtol=0, atol=0)
    quality = result.manifest.quality["1x1"]
    assert quality["relative_error"] < quality["baseline_error"]
    assert quality["cosine"] > quality["baseline_cosine"] + 0.1
    verify_bundle(tmp_path / "b")


def test_the_same_inputs_give_the_same_bytes(tmp_path, gpt2_dir, minilm_dir, captions_file):
    for name in ("first", "second"):
        build_bundle(
            str(gpt2_dir), str(minilm_dir), tmp_path / name, [captions_file], options=SMALL
        )
    assert digest(tmp_path / "first") == digest(tmp_path / "second")


def test_one_model_on_both_sides_is_the_identity(tmp_path, minilm_dir, captions_file):
    result = build_bundle(
        str(minilm_dir), str(minilm_dir), tmp_path / "b", [captions_file], options=SMALL
    )
    assert result.manifest.identity
    assert any("the adapter is the identity" in note for note in result.notes)
    adapter = Adapter.from_pretrained(tmp_path / "b")
    grad = torch.randn(5, adapter.target_width)
    assert torch.equal(adapter.pull_back(grad, adapter.layout([2, 3], [2, 3])), grad)


def test_saving_an_adapter_keeps_it(tmp_path, gpt2_dir, minilm_dir, captions_file):
    build_bundle(str(gpt2_dir), str(minilm_dir), tmp_path / "b", [captions_file], options=SMALL)
    adapter = Adapter.from_pretrained(tmp_path / "b")
    adapter.save_pretrained(tmp_path / "copy")
    other = Adapter.from_pretrained(tmp_path / "copy")
    assert torch.equal(other.faces, adapter.faces)
    assert other.group_names == adapter.group_names
    assert other.bundle.manifest.quality == adapter.bundle.manifest.quality
    with pytest.raises(StorageError, match="exists"):
        adapter.save_pretrained(tmp_path / "copy")


def test_words_of_a_list_need_no_counts(tmp_path, gpt2_dir, minilm_dir, captions_file):
    words = sorted(set(captions_file.read_text(encoding="utf-8").split()))[:400]
    listed = tmp_path / "words.txt"
    listed.write_text("\n".join(words), encoding="utf-8")
    options = BuildOptions(corpus=CorpusOptions())
    result = build_bundle(
        str(gpt2_dir), str(minilm_dir), tmp_path / "b", word_list=listed, options=options
    )
    left_out = sum(result.manifest.left_out.values())
    assert result.manifest.words + left_out == len(words)
    assert np.unique(read_bundle(tmp_path / "b").table.counts).tolist() == [1]


def test_nothing_to_read_is_refused(tmp_path, gpt2_dir, minilm_dir):
    with pytest.raises(CorpusError, match=r"no corpus.*--corpus"):
        build_bundle(str(gpt2_dir), str(minilm_dir), tmp_path / "b")
    with pytest.raises(CorpusError, match="both a corpus and a word list"):
        build_bundle(str(gpt2_dir), str(minilm_dir), tmp_path / "b", ["x"], word_list="y")
    assert not list(tmp_path.iterdir())


def test_bad_input_leaves_nothing_behind(tmp_path, gpt2_dir, minilm_dir):
    text = tmp_path / "text.txt"
    text.write_text("word " * 3 + "x" * 300, encoding="utf-8")
    out = tmp_path / "b"
    with pytest.raises(ModelError, match="does not exist"):
        build_bundle(str(tmp_path / "nowhere"), str(minilm_dir), out, [text])
    text.write_text(
        ("pneumonoultramicroscopicsilicovolcanoconiosis" * 3 + " ") * 2, encoding="utf-8"
    )
    with pytest.raises(VocabularyError, match="none of 1 words can be tokenized by both"):
        build_bundle(str(gpt2_dir), str(minilm_dir), out, [text])
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.slow
def test_a_build_killed_at_any_moment_leaves_no_half_bundle(
    tmp_path, gpt2_dir, minilm_dir, captions_file
):
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "fuse_index.cli.main", "build", str(gpt2_dir), str(minilm_dir)]
    command += ["--corpus", str(captions_file), "--out", str(out), "--min-count", "5"]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - start
    reference = digest(out)
    rng = random.Random(0)
    killed = 0
    for _ in range(20):
        process = subprocess.Popen(
            [*command, "--overwrite"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0, whole))
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert digest(out) == reference
        verify_bundle(out)
    assert killed >= 10
    subprocess.run([*command, "--overwrite"], check=True, capture_output=True)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_pace_says_how_far_how_fast_and_how_long():
    text = "1,000 of 8,200 words, 10 a second, 0:12:00 left"
    assert pace(1000, 8200, 100.0, "words") == text
    assert pace(5000, None, 2.0, "bytes") == "5,000 bytes, 2,500 a second"
