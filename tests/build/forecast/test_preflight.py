"""What a pre-flight says, against builds that are really made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.build import BuildOptions, build_bundle
from fuse_index.build.forecast import preflight as preflight_module
from fuse_index.build.forecast.preflight import EXAMPLES, preflight
from fuse_index.build.forecast.report import MEMORY_FACTOR
from fuse_index.build.forecast.size import footprint, weighted_sizes
from fuse_index.demo import DemoModel, model_name, write_corpus
from fuse_index.errors import CorpusError, ModelError, VocabularyError
from fuse_index.words.corpus.words import CorpusOptions
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import TableOptions, WordTable

LM, SENTIMENT = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)
EVERY_WORD = BuildOptions(corpus=CorpusOptions(min_count=1))
TENSORS = ("words.safetensors", "adapter.safetensors", "groups.safetensors")


@pytest.fixture(autouse=True)
def quickly(monkeypatch, request):
    """Measure the machine for a moment only, where the figures are not looked at."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(preflight_module, "_MEASURED", 0.05)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    write_corpus(path)
    return path


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (SENTIMENT, BuildOptions()),
        (SENTIMENT, BuildOptions(groups=False)),
        (SENTIMENT, BuildOptions(fit=FitOptions(grouping=Grouping.TARGET, min_words=3))),
        (SENTIMENT, BuildOptions(fit=FitOptions(max_words=20, holdout=0.3))),
        (SENTIMENT, BuildOptions(table=TableOptions(max_tokens=2))),
        (LM, BuildOptions()),
    ],
)
def test_files_are_of_the_size_that_was_said(tmp_path, corpus, target, options):
    found = preflight(LM, target, [corpus], options=options)
    built = build_bundle(LM, target, tmp_path / "b", [corpus], options=options)
    sizes = {name: record.size for name, record in built.manifest.files.items()}
    expected = found.footprint.files
    assert {n: expected[n] for n in TENSORS if n in expected} == {
        n: sizes[n] for n in TENSORS if n in sizes
    }
    assert expected["README.md"] == pytest.approx(sizes["README.md"], rel=0.5)
    manifest = (tmp_path / "b" / "manifest.json").stat().st_size
    assert expected["manifest.json"] == pytest.approx(manifest, rel=0.5)
    assert found.identity == built.manifest.identity
    assert {item.reason: item.words for item in found.left_out} == dict(built.manifest.left_out)
    own = [group.name for group in found.footprint.groups if group.own]
    assert own == [name for name in built.manifest.group_names if name != "fallback"]
    assert round(found.words) == built.manifest.words


def test_a_sample_stands_for_its_words():
    one = Ragged.from_lists([[0], [1, 2], [3, 4, 5]])
    table = WordTable(("a", "bb", "cé"), np.ones(3, np.int64), one, one)
    weights = np.array([100.0, 200.0, 4.0])
    assert weighted_sizes(table, weights) == {(1, 1): 100, (2, 2): 200, (3, 3): 4}
    found = footprint(table, weights, (8, 4), BuildOptions(fit=FitOptions(holdout=0)))
    assert [(group.name, group.words, group.own) for group in found.groups] == [
        ("1x1", 100, True),
        ("2x2", 200, True),
        ("3x3", 4, False),
    ]
    assert found.adapter_bytes == 4 * 8 * 4 * (1 + 2 + 1)
    rows = 100 * 1 + 200 * 2 + 4 * 3
    assert found.files["groups.safetensors"] == pytest.approx(4 * 12 * rows, abs=1024)
    text, ids = 100 + 2 * 200 + 3 * 4, 2 * rows
    assert found.files["words.safetensors"] == pytest.approx(text + 8 * (5 * 304 + ids), abs=1024)


def test_words_that_do_not_align_are_named(tmp_path):
    path = tmp_path / "list.txt"
    words = ["circle", "red", "incomprehensibilities", "unconstitutionally", "\u7d75"]
    path.write_text("\n".join(words), encoding="utf-8")
    found = preflight(LM, SENTIMENT, word_list=path, options=EVERY_WORD)
    reasons = {item.reason: item for item in found.left_out}
    assert reasons["source: more than 4 tokens"].examples[0] in words
    assert sum(item.words for item in found.left_out) + found.words == len(words)
    assert all(1 <= len(item.examples) <= EXAMPLES for item in found.left_out)
    report = found.to_dict()
    assert report["words"]["from"] == "list of words"
    assert "more than half of the words are left out" in "".join(report["notes"])


def test_the_report_is_complete_json(corpus):
    found = preflight(LM, SENTIMENT, [corpus])
    report = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert report["source"]["tokenizer"] == "byte-level BPE (GPT-2)"
    assert report["target"]["tokenizer"] == "WordPiece (BERT)"
    assert report["bundle"]["bytes"] == sum(report["bundle"]["files"].values())
    stages = report["build"]["stages"]
    assert set(stages) == {
        "loading embeddings",
        "counting words",
        "tokenizing words",
        "fitting adapters",
        "writing the bundle",
    }
    assert report["build"]["seconds"] == pytest.approx(sum(stages.values()), abs=0.1)
    weights = sum((Path(m) / "model.safetensors").stat().st_size for m in (LM, SENTIMENT))
    assert report["run_time"]["weights_bytes"] == weights
    numbers = (4 + 1) * 192 + (2 + 1) * 128  # of a word, in the layers of both models
    assert report["run_time"]["states_bytes"] == pytest.approx(
        4 * numbers * report["words"]["kept"], rel=0.01
    )
    assert report["native"]["retokenizer"] in {"native", "python", "tokenizers"}
    assert report["native"]["pull_back"]["cpu"] in {"native", "torch"}
    same = preflight(LM, LM, [corpus]).to_dict()
    assert same["native"]["pull_back"] == {"cpu": "not needed", "cuda": "not needed"}
    assert same["build"]["stages"]["fitting adapters"] == 0


def test_weights_of_open_clip_are_not_known(corpus):
    report = preflight(LM, model_name(DemoModel.CLIP), [corpus]).to_dict()
    assert report["target"]["tokenizer"] == "end-of-word BPE (CLIP)"
    assert report["target"]["weights_bytes"] is None
    assert report["run_time"]["weights_bytes"] is None
    assert report["run_time"]["states_bytes"] is None


def test_progress_names_what_is_done(corpus):
    said: list[str] = []
    preflight(LM, SENTIMENT, [corpus], progress=lambda label, _done, _total: said.append(label))
    assert list(dict.fromkeys(said)) == [
        "loading embeddings",
        "counting words",
        "trying words",
        "measuring this machine",
    ]


def test_without_text_the_vocabularies_stand_in():
    report = preflight(LM, SENTIMENT).to_dict()
    assert report["words"]["from"] == "vocabularies"
    assert report["words"]["kept"] > 50
    assert report["words"]["corpus_bytes"] == 0


def test_mistakes_are_one_clear_line(tmp_path, corpus):
    with pytest.raises(
        CorpusError, match=r"both a corpus and a word list; expected one of the two"
    ):
        preflight(LM, SENTIMENT, [corpus], word_list=corpus)
    with pytest.raises(CorpusError, match="does not exist"):
        preflight(LM, SENTIMENT, [tmp_path / "missing.txt"])
    with pytest.raises(ModelError, match="missing-model"):
        preflight(str(tmp_path / "missing-model"), SENTIMENT, [corpus], local_files_only=True)
    path = tmp_path / "list.txt"
    path.write_text("incomprehensibilities", encoding="utf-8")
    with pytest.raises(VocabularyError, match=r"none of 1 words.*'incomprehensibilities'"):
        preflight(LM, SENTIMENT, word_list=path, options=EVERY_WORD)


@pytest.mark.slow
def test_a_real_pair_takes_what_was_said(
    tmp_path, gpt2_dir, minilm_dir, captions_file, wikitext_file
):
    """Size within 2 %, memory within the stated factor; time loosely, for others may work too."""
    corpus = [captions_file, wikitext_file]
    options = BuildOptions(corpus=CorpusOptions(min_count=2))
    found = preflight(str(gpt2_dir), str(minilm_dir), corpus, options=options)
    code = (  # the high-water mark of this program, not of the process that started it
        "import json, re, sys\n"
        "from fuse_index.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "status = open('/proc/self/status').read()\n"
        "peak = int(re.search(r'VmHWM:\\s*(\\d+) kB', status)[1]) * 1024\n"
        "print(json.dumps({'code': code, 'peak': peak}), file=sys.stderr)\n"
    )
    arguments = ["build", gpt2_dir, minilm_dir, "--out", tmp_path / "b", "--json"]
    for path in corpus:
        arguments += ["--corpus", path]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["code"] == 0
    built = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in (tmp_path / "b").iterdir())
    assert found.bundle_bytes == pytest.approx(size, rel=0.02)
    assert round(found.words) == built["words"]
    assert 1 / MEMORY_FACTOR < found.build_bytes / told["peak"] < MEMORY_FACTOR
    assert 0.1 < sum(found.seconds.values()) / built["seconds"] < 10
