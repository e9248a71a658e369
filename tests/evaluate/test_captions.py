"""Caption metrics against values computed by hand, and what happens where something is missing."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.errors import CorpusError, MissingDependencyError, OptionError, ShapeError
from fuse_index.evaluate import (
    BootstrapOptions,
    CaptionMetric,
    CaptionOptions,
    Tokenization,
    paired_bootstrap,
    score_captions,
    scorers,
)
from fuse_index.evaluate.captions import PURE_METRICS, TEXT_METRICS
from tests.evaluate.captions import (
    fake_java,
    hide_java,
    needs_java,
    require_metrics,
    shorten_paraphrases,
)

ROOT = Path(__file__).parents[2]
PLAIN = CaptionOptions(PURE_METRICS, Tokenization.PLAIN)

texts = st.lists(st.sampled_from("abcde"), min_size=1, max_size=7).map(" ".join)
items = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=2, max_size=6)


@pytest.fixture(autouse=True)
def _metrics():
    require_metrics()


def values(candidates: list[str], references: list[list[str]]) -> dict[str, float]:
    report = score_captions(candidates, references, PLAIN)
    assert report.left_out == {}
    assert report.tokenization is Tokenization.PLAIN
    return {name: score.value for name, score in report.scores.items()}


# -- BLEU -------------------------------------------------------------------------------------


def test_bleu_clips_counts():
    """The example of Papineni et al. (2002), section 2.1.1."""
    found = values(["the the the the the the the"], [["The cat is on the mat."]])
    assert found["BLEU-1"] == pytest.approx(2 / 7)
    assert found["BLEU-2"] == pytest.approx(0, abs=1e-6)


@pytest.mark.smoke
def test_bleu_of_n_grams_by_hand():
    found = values(["a b c d e"], [["a b c d f"]])
    precisions = [4 / 5, 3 / 4, 2 / 3, 1 / 2]
    for n in range(1, 5):
        assert found[f"BLEU-{n}"] == pytest.approx(math.prod(precisions[:n]) ** (1 / n))


def test_bleu_is_cut_for_brevity_against_the_closest_reference():
    assert values(["a b"], [["a b c", "a b c d e f"]])["BLEU-1"] == pytest.approx(math.exp(-1 / 2))
    assert values(["a b"], [["a b c", "x"]])["BLEU-1"] == pytest.approx(1.0)  # ties: the shorter


def test_bleu_of_a_corpus_adds_up_before_it_divides():
    report = score_captions(["a b c d", "x"], [["a b c d"], ["y z"]], PLAIN)
    score = report.scores["BLEU-1"]
    assert score.value == pytest.approx(4 / 5 * math.exp(1 - 6 / 5))
    assert score.items == pytest.approx([1.0, 0.0], abs=1e-6)
    assert score.value != pytest.approx(score.items.mean(), abs=0.05)


@given(items)
def test_bleu_from_parts_is_the_scorers_own(pairs):
    """So every resample of a bootstrap is what pycocoevalcap would give for it."""
    candidates, references = (
        [pair[0].split() for pair in pairs],
        [[text.split() for text in pair[1]] for pair in pairs],
    )
    for score in scorers.bleu(candidates, references):
        assert score.parts is not None
        total = score.parts.sum(axis=0, keepdims=True)
        assert score.combine(total)[0] == pytest.approx(score.value, rel=1e-9, abs=1e-12)
    counts = np.random.default_rng(0).integers(len(pairs), size=len(pairs))
    drawn = scorers.bleu([candidates[i] for i in counts], [references[i] for i in counts])
    for score, again in zip(scorers.bleu(candidates, references), drawn, strict=True):
        assert score.parts is not None
        resampled = score.combine(score.parts[counts].sum(axis=0, keepdims=True))[0]
        assert resampled == pytest.approx(again.value, rel=1e-9, abs=1e-12)


# -- ROUGE-L ----------------------------------------------------------------------------------


def rouge(precision: float, recall: float) -> float:
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def test_rouge_by_hand():
    """The longest common subsequence of "a b c" and "a c d e" is "a c"."""
    assert values(["a b c"], [["a c d e"]])["ROUGE-L"] == pytest.approx(rouge(2 / 3, 2 / 4))
    # Precision and recall are each the best over references.
    found = values(["a b c"], [["a c d e", "b"]])
    assert found["ROUGE-L"] == pytest.approx(rouge(2 / 3, 1.0))


def test_rouge_of_a_corpus_is_the_mean():
    report = score_captions(["a b c", "x"], [["a b c"], ["y"]], PLAIN)
    assert report.scores["ROUGE-L"].items.tolist() == [1.0, 0.0]
    assert report.scores["ROUGE-L"].value == 0.5


# -- CIDEr ------------------------------------------------------------------------------------


def test_cider_by_hand():
    """Every n-gram is in one of two images, so all weights are log 2 and cancel in cosines."""
    report = score_captions(["a b", "c x"], [["a b"], ["c d"]], PLAIN)
    # Two words: unigrams and bigrams agree, there are no longer n-grams; times 10 over 4 orders.
    assert report.scores["CIDEr"].items == pytest.approx([10 * (1 + 1) / 4, 10 * (1 / 2) / 4])
    assert report.scores["CIDEr"].value == pytest.approx((5 + 1.25) / 2)


def test_cider_damps_by_length():
    """One bigram more: the scorer's length is the number of bigrams, its sigma 6."""
    report = score_captions(["a b z", "c"], [["a b"], ["d"]], PLAIN)
    cosines = 2 / math.sqrt(3 * 2) + 1 / math.sqrt(2)
    assert report.scores["CIDEr"].items[0] == pytest.approx(10 * cosines / 4 * math.exp(-1 / 72))


def test_cider_weighs_words_that_every_image_has_by_nothing():
    report = score_captions(["a", "a q"], [["a b"], ["a q"]], PLAIN)
    assert report.scores["CIDEr"].items[0] == 0
    # Of "a q" the word q and the bigram are of one image of two: cosines 1 and 1.
    assert report.scores["CIDEr"].items[1] == pytest.approx(5.0)


def test_cider_of_one_image_is_0_and_said(caplog):
    assert values(["a b"], [["a b"]])["CIDEr"] == 0
    assert "CIDEr of one image is always 0" in caplog.text


# -- all --------------------------------------------------------------------------------------


def test_captions_without_words_score_0():
    report = score_captions(["...", "a b c d"], [["!", "a"], ["a b c d"]], PLAIN)
    for score in report.scores.values():
        assert score.items[0] == pytest.approx(0, abs=1e-6), score.name
        assert score.items[1] == pytest.approx(10 if score.name == "CIDEr" else 1)
    nothing = values(["?", "a"], [["!"], ["."]])
    assert all(value == pytest.approx(0, abs=1e-6) for value in nothing.values())


@settings(max_examples=30)
@given(items)
def test_every_score_is_within_bounds_and_its_interval_too(pairs):
    report = score_captions([pair[0] for pair in pairs], [pair[1] for pair in pairs], PLAIN)
    for score in report.scores.values():
        top = (10 if score.name == "CIDEr" else 1) + 1e-6
        interval = score.interval(BootstrapOptions(20))
        assert 0 <= interval.low <= interval.high <= top
        assert 0 <= score.value <= top
        assert score.items.shape == (len(pairs),)


def test_the_better_of_two_systems_is_told_apart():
    rng = np.random.default_rng(0)
    references = [[" ".join(rng.choice(list("abcdefghij"), 8))] for _ in range(60)]
    good = [others[0] for others in references]
    worse = [" ".join([*text.split()[:6], "x", "y"]) for text in good]
    one, two = (score_captions(texts, references, PLAIN).scores for texts in (good, worse))
    for name in ("BLEU-4", "ROUGE-L", "CIDEr"):
        found = paired_bootstrap(one[name], two[name], BootstrapOptions(200))
        assert found.interval.low > 0
        assert found.p_value < 0.05


def test_progress_names_every_metric():
    seen = []
    score_captions(["a"], [["a"]], PLAIN, lambda *state: seen.append(state))
    assert seen == [("bleu", 0, 3), ("rouge", 1, 3), ("cider", 2, 3)]


@pytest.mark.parametrize(
    ("candidates", "references", "kind", "message"),
    [
        ([], [], ShapeError, "0 captions and 0 lists of references"),
        (["a"], [], ShapeError, "1 captions and 0 lists"),
        ("a", [["a"]], ShapeError, "expected a list of captions"),
        (["a", "b"], [["a"], []], CorpusError, r"references of item 1: \[\]"),
        (["a"], ["a"], CorpusError, "references of item 0: 'a'; expected a list of at least one"),
    ],
)
def test_bad_input(candidates, references, kind, message):
    with pytest.raises(kind, match=message):
        score_captions(candidates, references, PLAIN)


def test_bad_options():
    with pytest.raises(OptionError, match="metrics clipscore; expected one or several of bleu"):
        CaptionOptions((CaptionMetric.BLEU, CaptionMetric.CLIPSCORE))
    with pytest.raises(OptionError, match="expected one or several"):
        CaptionOptions(())


# -- Java -------------------------------------------------------------------------------------


@needs_java
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_meteor(whole, tmp_path, monkeypatch):
    """Values of METEOR 1.5 itself; a caption equal to its reference has exactly 1."""
    if not whole:
        shorten_paraphrases(monkeypatch, tmp_path / "meteor")
    candidates = ["a dog runs", "a cat lies", "", "q"]
    references = [["A dog runs."], ["a cat sits on a mat", "the cat"], ["x y z"], ["a dog"]]
    options = CaptionOptions((CaptionMetric.METEOR,), Tokenization.PLAIN)
    score = score_captions(candidates, references, options).scores["METEOR"]
    assert score.items == pytest.approx([1.0, 0.2696629213483146, 0.0, 0.0], abs=1e-9)
    # The corpus adds statistics up: the mean would be 0.32.
    assert score.value == pytest.approx(0.23759696298339023, abs=1e-9)
    assert score.interval() is None


def test_without_java_the_rest_is_scored(monkeypatch, tmp_path):
    hide_java(monkeypatch, tmp_path)
    report = score_captions(["a b", "c"], [["a b"], ["d"]])
    assert set(report.scores) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    assert report.tokenization is Tokenization.PLAIN
    assert list(report.left_out) == [CaptionMetric.METEOR, CaptionMetric.SPICE]
    for metric in (CaptionMetric.METEOR, CaptionMetric.SPICE):
        assert report.left_out[metric] == (
            f"{metric.value.upper()} needs Java, and there is no 'java' on the PATH; install a "
            "Java runtime (for example 'apt install default-jre-headless')"
        )


def test_without_the_extra_everything_is_left_out(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("pycocoevalcap"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    report = score_captions(["a"], [["a"]])
    assert report.scores == {}
    assert set(report.left_out) == set(TEXT_METRICS)
    assert report.left_out[CaptionMetric.CIDER] == (
        "CIDEr needs pycocoevalcap, which is not installed; pip install 'fuse-index[metrics]'"
    )


def test_meteor_that_ends_early_is_left_out_and_does_not_hang(monkeypatch, tmp_path):
    fake_java(monkeypatch, tmp_path / "bin", "exit 1")
    with pytest.raises(MissingDependencyError, match="METEOR failed: its Java program ended early"):
        scorers.meteor([["a"]], [[["a"]]])


SPICE_ROWS = """\
in="$4"; while [ "$1" != -out ]; do shift; done
echo 'Parsing reference captions'
[ -s "$in" ] || exit 9
echo '[{"image_id": 0, "scores": {"All": {"f": 0.5}}},
{"image_id": 1, "scores": {"All": {"f": null}}}]' > "$2"
"""


def spice_there(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if the parser of SPICE had been downloaded; work in a folder of the test's."""
    from pycocoevalcap.spice import spice

    monkeypatch.setattr(spice, "get_stanford_models", lambda: None)
    monkeypatch.setattr(spice, "__file__", str(folder / "spice.py"))
    (folder / "lib").mkdir(parents=True)
    for name in scorers._SPICE_JARS:
        (folder / "lib" / name).touch()


def test_spice_reads_its_programs_scores_and_keeps_stdout_clean(monkeypatch, tmp_path, capfd):
    spice_there(monkeypatch, tmp_path / "spice")
    fake_java(monkeypatch, tmp_path / "bin", SPICE_ROWS)
    score = scorers.spice([["a"], ["b"]], [[["a"]], [["b"]]])
    assert score.value == 0.5  # the item without a value is left out
    assert score.items[0] == 0.5
    assert math.isnan(score.items[1])
    sys.stdout.write("a result\n")
    assert capfd.readouterr() == ("a result\n", "Parsing reference captions\n")


def test_spice_that_fails_is_left_out_with_the_reason(monkeypatch, tmp_path):
    spice_there(monkeypatch, tmp_path / "spice")
    fake_java(monkeypatch, tmp_path / "bin", "exit 7")
    options = CaptionOptions((CaptionMetric.SPICE, CaptionMetric.ROUGE), Tokenization.PLAIN)
    report = score_captions(["a"], [["a"]], options)
    assert report.scores["ROUGE-L"].value == 1
    assert report.left_out[CaptionMetric.SPICE].startswith(
        "SPICE failed: java ended with code 7; it needs Java 8 or 11"
    )


def test_spice_never_downloads(monkeypatch, tmp_path):
    from pycocoevalcap.spice import spice

    def refuse() -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(spice, "get_stanford_models", refuse)
    monkeypatch.setattr(spice, "__file__", str(tmp_path / "spice.py"))
    fake_java(monkeypatch, tmp_path / "bin", "exit 0")
    with pytest.raises(MissingDependencyError) as caught:
        scorers.spice([["a"]], [[["a"]]])
    assert str(caught.value) == (
        "SPICE needs stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar, which are "
        "not part of pycocoevalcap; download them once with 'python -m "
        "pycocoevalcap.spice.get_stanford_models'"
    )


def test_text_metrics_need_no_torch():
    code = (
        "import sys\n"
        "from fuse_index.evaluate.captions import PURE_METRICS, CaptionOptions, score_captions\n"
        "score_captions(['a'], [['a']], CaptionOptions(PURE_METRICS))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
