"""The scorers of pycocoevalcap, each with the values of every caption."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fuse_index.errors import MissingDependencyError
from fuse_index.evaluate.interval import Floats, Score, mean_score
from fuse_index.evaluate.java import require_java, stdout_to_stderr
from fuse_index.evaluate.tokenization import metrics_module

Words = Sequence[Sequence[str]]
BLEU_ORDER = 4
_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's guards against a division by 0
_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def bleu(candidates: Words, references: Sequence[Words]) -> list[Score]:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002) against the reference closest in length.

    Args:
        candidates: n captions, as words.
        references: of each, as words.

    Returns:
        Four scores. The corpus value adds matches up over captions before it divides.

    Raises:
        MissingDependencyError: pycocoevalcap is missing.
    """
    scorer = metrics_module("BLEU", "bleu.bleu_scorer").BleuScorer(n=BLEU_ORDER)
    texts, reference_texts = _joined(candidates, references)
    for text, others in zip(texts, reference_texts, strict=True):
        scorer += (text, others)
    values, items = scorer.compute_score(option="closest", verbose=0)
    parts = np.array(
        [
            [found["testlen"], _closest(found), *found["guess"], *found["correct"]]
            for found in scorer.ctest
        ],
        np.float64,
    )
    return [
        Score(f"BLEU-{n}", float(value), np.array(own), parts, partial(_bleu_of, order=n))
        for n, (value, own) in enumerate(zip(values, items, strict=True), 1)
    ]


def _closest(found: dict[str, Any]) -> int:
    """Length of the reference closest in length to a caption, the shorter of two."""
    return int(min((abs(length - found["testlen"]), length) for length in found["reflen"])[1])


def _bleu_of(totals: Floats, order: int) -> Floats:
    """Corpus BLEU of one order, with the scorer's own guards.

    Args:
        totals: ``(r, 10)``: caption length, reference length, n-grams, matches.
        order: longest n-gram.
    """
    length, wanted = totals[:, 0], totals[:, 1]
    guess = totals[:, 2 : 2 + order]
    correct = totals[:, 2 + BLEU_ORDER : 2 + BLEU_ORDER + order]
    precision = np.prod((correct + _TINY) / (guess + _SMALL), axis=1) ** (1 / order)
    share = (length + _TINY) / (wanted + _SMALL)
    values: Floats = precision * np.exp(np.minimum(0.0, 1 - 1 / share))
    return values


def rouge_l(candidates: Words, references: Sequence[Words]) -> Score:
    """ROUGE-L (Lin 2004), F-measure with beta 1.2; a caption without words has 0.

    Raises:
        MissingDependencyError: pycocoevalcap is missing.
    """
    scorer = metrics_module("ROUGE-L", "rouge.rouge").Rouge()
    _, items = scorer.compute_score(*_by_image(candidates, references))
    # The scorer takes an empty text for one empty word, which an empty reference has as well.
    items = np.where([bool(words) for words in candidates], items, 0.0)
    return mean_score("ROUGE-L", items)


def cider(candidates: Words, references: Sequence[Words]) -> Score:
    """CIDEr-D (Vedantam et al. 2015), times 10; frequencies come from these references.

    The interval resamples captions with those frequencies as they are.

    Raises:
        MissingDependencyError: pycocoevalcap is missing.
    """
    scorer = metrics_module("CIDEr", "cider.cider").Cider()
    if not any(words for others in references for words in others):
        return mean_score("CIDEr", np.zeros(len(candidates)))  # the scorer cannot count nothing
    _, items = scorer.compute_score(*_by_image(candidates, references))
    return mean_score("CIDEr", items)


def meteor(candidates: Words, references: Sequence[Words]) -> Score:
    """METEOR 1.5 (Denkowski and Lavie 2014), by its Java program.

    The corpus value comes from statistics that the program keeps, so there is no interval.

    Raises:
        MissingDependencyError: pycocoevalcap or Java is missing, or the program failed.
    """
    module = metrics_module("METEOR", "meteor.meteor")
    require_java("METEOR")
    scorer = module.Meteor()
    try:
        value, items = scorer.compute_score(*_by_image(candidates, references))
    except (OSError, ValueError) as error:
        raise MissingDependencyError(
            f"METEOR failed: its Java program ended early ({error})",
            remedy="it needs 2 GB of memory; or try another Java runtime",
        ) from error
    finally:
        if scorer.lock.locked():  # it is kept on any exception, and the destructor waits for it
            scorer.lock.release()
        _close(scorer.meteor_p)
    return Score("METEOR", float(value), np.array(items, np.float64), None)


def _close(process: subprocess.Popen[bytes]) -> None:
    """End a program and close its pipes, which the scorer leaves open."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # what was left to write has no reader any more
                pipe.close()


def spice(candidates: Words, references: Sequence[Words]) -> Score:
    """SPICE (Anderson et al. 2016), by its Java program; nothing is downloaded.

    Raises:
        MissingDependencyError: pycocoevalcap, Java or Stanford CoreNLP is missing, or the program
            failed.
    """
    module = metrics_module("SPICE", "spice.spice")
    require_java("SPICE")
    folder = Path(module.__file__).parent / "lib"
    missing = [name for name in _SPICE_JARS if not (folder / name).is_file()]
    if missing:  # pycocoevalcap itself would download them
        raise MissingDependencyError(
            f"SPICE needs {' and '.join(missing)}, which are not part of pycocoevalcap",
            remedy="download them once with 'python -m pycocoevalcap.spice.get_stanford_models'",
        )
    try:
        with stdout_to_stderr():
            _, found = module.Spice().compute_score(*_by_image(candidates, references))
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        reason = (
            f"java ended with code {error.returncode}"
            if isinstance(error, subprocess.CalledProcessError)
            else f"{type(error).__name__}: {error}"
        )
        raise MissingDependencyError(
            f"SPICE failed: {reason}",
            remedy="it needs Java 8 or 11 (newer ones refuse what it does), 8 GB of memory, and "
            "to write into pycocoevalcap's folder",
        ) from error
    return mean_score("SPICE", [float(item["All"]["f"]) for item in found])


def _joined(candidates: Words, references: Sequence[Words]) -> tuple[list[str], list[list[str]]]:
    texts = [" ".join(words) for words in candidates]
    return texts, [[" ".join(words) for words in others] for others in references]


def _by_image(
    candidates: Words, references: Sequence[Words]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return references and captions as pycocoevalcap takes them: by image, captions in lists."""
    texts, others = _joined(candidates, references)
    return dict(enumerate(others)), {index: [text] for index, text in enumerate(texts)}
