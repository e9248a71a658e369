"""The scorers of pycocoevalcap, each with the values of every caption."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuse_index.errors import MissingDependencyError
from fuse_index.evaluate.interval import Floats, Score, mean_score
from fuse_index.evaluate.java import require_java, stdout_to_stderr
from fuse_index.evaluate.tokenization import missing_extra

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
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra("BLEU") from error
    scorer = BleuScorer(n=BLEU_ORDER)
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
        Score(f"BLEU-{n}", float(values[n - 1]), np.array(items[n - 1]), parts, _BleuOf(n))
        for n in range(1, BLEU_ORDER + 1)
    ]


def _closest(found: dict[str, Any]) -> int:
    """Length of the reference closest in length to a caption, the shorter of two."""
    return int(min((abs(length - found["testlen"]), length) for length in found["reflen"])[1])


class _BleuOf:
    """Corpus BLEU of one order from totals, with the scorer's own guards.

    Args:
        order: longest n-gram.
    """

    def __init__(self, order: int) -> None:
        self._order = order

    def __call__(self, totals: Floats) -> Floats:
        """(r, 10) totals: caption length, reference length, n-grams, matches -> (r,)."""
        length, wanted = totals[:, 0], totals[:, 1]
        guess = totals[:, 2 : 2 + self._order]
        correct = totals[:, 2 + BLEU_ORDER : 2 + BLEU_ORDER + self._order]
        precision = np.prod((correct + _TINY) / (guess + _SMALL), axis=1) ** (1 / self._order)
        share = (length + _TINY) / (wanted + _SMALL)
        values: Floats = precision * np.exp(np.minimum(0.0, 1 - 1 / share))
        return values


def rouge_l(candidates: Words, references: Sequence[Words]) -> Score:
    """ROUGE-L (Lin 2004), F-measure with beta 1.2; a caption without words has 0.

    Raises:
        MissingDependencyError: pycocoevalcap is missing.
    """
    try:
        from pycocoevalcap.rouge.rouge import Rouge  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra("ROUGE-L") from error
    _, items = Rouge().compute_score(*_by_image(candidates, references))
    # The scorer takes an empty text for one empty word, which an empty reference has as well.
    items = np.where([bool(words) for words in candidates], items, 0.0)
    return mean_score("ROUGE-L", items)


def cider(candidates: Words, references: Sequence[Words]) -> Score:
    """CIDEr-D (Vedantam et al. 2015), times 10; frequencies come from these references.

    The interval resamples captions with those frequencies as they are.

    Raises:
        MissingDependencyError: pycocoevalcap is missing.
    """
    try:
        from pycocoevalcap.cider.cider import Cider  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra("CIDEr") from error
    if not any(words for others in references for words in others):
        return mean_score("CIDEr", np.zeros(len(candidates)))  # the scorer cannot count nothing
    _, items = Cider().compute_score(*_by_image(candidates, references))
    return mean_score("CIDEr", items)


def meteor(candidates: Words, references: Sequence[Words]) -> Score:
    """METEOR 1.5 (Denkowski and Lavie 2014), by its Java program.

    The corpus value comes from statistics that the program keeps, so there is no interval.

    Raises:
        MissingDependencyError: pycocoevalcap or Java is missing, or the program failed.
    """
    try:
        from pycocoevalcap.meteor.meteor import Meteor  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra("METEOR") from error
    require_java("METEOR")
    scorer = Meteor()
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
            try:
                pipe.close()
            except OSError:  # what was left to write has no reader any more
                continue


def spice(candidates: Words, references: Sequence[Words]) -> Score:
    """SPICE (Anderson et al. 2016), by its Java program; nothing is downloaded.

    Raises:
        MissingDependencyError: pycocoevalcap, Java or Stanford CoreNLP is missing, or the program
            failed.
    """
    try:
        from pycocoevalcap.spice import spice as module  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra("SPICE") from error
    require_java("SPICE")
    require_spice_jars(Path(module.__file__).parent / "lib")
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


def require_spice_jars(folder: Path) -> None:
    """Check that the parser of SPICE is there, which pycocoevalcap itself would download.

    Raises:
        MissingDependencyError: it is not.
    """
    missing = [name for name in _SPICE_JARS if not (folder / name).is_file()]
    if missing:
        raise MissingDependencyError(
            f"SPICE needs {' and '.join(missing)}, which are not part of pycocoevalcap",
            remedy="download them once with 'python -m pycocoevalcap.spice.get_stanford_models'",
        )


def _joined(candidates: Words, references: Sequence[Words]) -> tuple[list[str], list[list[str]]]:
    texts = [" ".join(words) for words in candidates]
    return texts, [[" ".join(words) for words in others] for others in references]


def _by_image(
    candidates: Words, references: Sequence[Words]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return references and captions as pycocoevalcap takes them: by image, captions in lists."""
    texts, others = _joined(candidates, references)
    return dict(enumerate(others)), {index: [text] for index, text in enumerate(texts)}
