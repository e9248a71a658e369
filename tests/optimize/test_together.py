"""Runs at once: the same numbers as alone, rows run once, failures kept apart."""

from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch

from fuse_index.demo import Split, draw, make_scene
from fuse_index.errors import LossError, OptionError
from fuse_index.objectives import ClassifierLabel, Fluency, ImageSimilarity, TokenReduction
from fuse_index.objectives.features import FeatureLoss
from fuse_index.objectives.language import FluencyLoss
from fuse_index.optimize import Budget, Moves, Problem, RunOptions, Stop, Term, optimize
from fuse_index.optimize.passes import Passes, PassMemo
from fuse_index.optimize.together import Together
from fuse_index.predict.spans import span_gradients
from fuse_index.words.ragged import Ragged

MOVES = Moves(
    drafts=12, swaps=2, insertions=1, rewrites=4, crossings=6, length=5, beam=2, search_width=6
)
WORDS = ("red", "blue", "star", "ring", "the", "a", "small", "big", "left", "of", "above", "plus")


@pytest.fixture(scope="module")
def pictures():
    return [draw(make_scene(Split.TEST, number)) for number in range(3)]


@pytest.fixture(scope="module")
def base(lm, clip, pictures):
    fluency = Fluency(include_end=True, reduction=TokenReduction.SUM, weight=1 / 12)
    terms = [Term(fluency, lm), Term(ImageSimilarity(images=pictures[0], weight=40.0), clip)]
    return Problem(lm, terms, words=WORDS)


def variant(base, picture, memo=None):
    problem = base.with_objective(1, ImageSimilarity(images=picture, weight=40.0))
    problem.runner = memo or problem.runner
    return problem


def run(problem, callbacks=()):
    return optimize(
        problem,
        "a red star",
        method=MOVES,
        budget=Budget(forward_passes=110),
        options=RunOptions(seed=1),
        callbacks=callbacks,
    )


def steps(result):
    return [(point.ids, point.losses, point.forward_passes) for point in result.trajectory]


@pytest.fixture(scope="module")
def alone(lm, clip, pictures):
    """Each picture by a problem of its own."""
    fluency = Fluency(include_end=True, reduction=TokenReduction.SUM, weight=1 / 12)
    found = []
    for picture in pictures:
        terms = [Term(fluency, lm), Term(ImageSimilarity(images=picture, weight=40.0), clip)]
        found.append(run(Problem(lm, terms, words=WORDS)))
    return found


def test_another_objective_gives_the_same_numbers_bit_for_bit(base, pictures, alone):
    found = [run(variant(base, picture)) for picture in pictures]
    assert [steps(one) for one in found] == [steps(one) for one in alone]
    assert len({one.text for one in found}) > 1
    assert [one.configuration for one in found] == [one.configuration for one in alone]


def test_runs_at_once_are_those_alone_bit_for_bit(base, pictures, alone):
    together = Together(base.losses, PassMemo(), merge=False)
    jobs = [partial(run, variant(base, picture, together)) for picture in pictures]
    assert [steps(one) for one in together.run(jobs)] == [steps(one) for one in alone]


def test_one_batch_for_all_scores_each_distinct_row_once(base, pictures, alone, monkeypatch):
    rows = []
    outputs = FluencyLoss.outputs

    def counted(self, batch):
        rows.append(len(batch))
        return outputs(self, batch)

    monkeypatch.setattr(FluencyLoss, "outputs", counted)
    together = Together(base.losses, Passes(), merge=True)
    jobs = [partial(run, variant(base, picture, together)) for picture in pictures]
    found = together.run(jobs)
    for one, other in zip(found, alone, strict=True):
        assert one.trajectory[1].losses == pytest.approx(other.trajectory[1].losses, abs=1e-4)
        assert one.total == pytest.approx(other.total, rel=0.2)
    joined, batches = sum(rows), len(rows)
    rows.clear()
    for picture in pictures:
        run(variant(base, picture, Passes()))
    assert joined < 0.95 * sum(rows)
    assert batches < 0.7 * len(rows)


def test_gradients_of_several_images_make_one_batch(base, pictures):
    losses = [variant(base, picture).losses[1] for picture in pictures]
    words = base.targets[1].model.words
    contents = [words.encode_text(text) for text in ("a red star", "blue", "the ring")]
    spans = np.array([[1, 2], [0, 1], [0, 1]])
    own = losses[0].joined(losses)
    for layers in (False, True):
        values, sums = span_gradients(own, Ragged.from_lists(contents), spans, layers=layers)
        for row, loss in enumerate(losses):
            alone = span_gradients(
                loss,
                Ragged.from_lists(contents[row : row + 1]),
                spans[row : row + 1],
                layers=layers,
            )
            assert torch.allclose(values[row], alone[0][0], atol=1e-5)
            assert torch.allclose(sums[row], alone[1][0], atol=1e-4)
    assert losses[0].joined([losses[0]] * 2) is losses[0]


def test_a_run_that_fails_stops_no_other(base, pictures, alone, monkeypatch):
    problems = [variant(base, picture) for picture in pictures]
    bad, finish = problems[1].losses[1], FeatureLoss.from_outputs

    def failing(self, values):
        return finish(self, values) * (torch.nan if self is bad else 1.0)

    monkeypatch.setattr(FeatureLoss, "from_outputs", failing)
    together = Together(base.losses, PassMemo(), merge=False)
    for problem in problems:
        problem.runner = together
    first, second, third = together.run([partial(run, problem) for problem in problems])
    assert isinstance(second, LossError)
    assert [steps(first), steps(third)] == [steps(alone[0]), steps(alone[2])]


def test_an_interrupt_ends_all_of_them_after_their_step(base, pictures, alone):
    together = Together(base.losses, PassMemo(), merge=False)

    def interrupt(_, point):
        if point.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def job(picture, callbacks):
        return run(variant(base, picture, together), callbacks)

    handler = signal.getsignal(signal.SIGINT)
    jobs = [partial(job, pictures[0], ()), partial(job, pictures[1], (interrupt,))]
    first, second = together.run(jobs)
    assert (first.stop, second.stop) == (Stop.INTERRUPTED, Stop.INTERRUPTED)
    assert {first.spent["steps"], second.spent["steps"]} <= {1, 2}
    assert steps(second) == steps(alone[1])[: len(steps(second))]
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_fails_in_one_batch_is_tried_alone(base, pictures, alone, monkeypatch):
    def refuse(*_):
        raise RuntimeError("the batch")

    monkeypatch.setattr(Together, "_outputs", refuse)
    together = Together(base.losses, PassMemo(), merge=True)
    found = together.run([partial(run, variant(base, p, together)) for p in pictures[:2]])
    assert [one.total for one in found] == pytest.approx([one.total for one in alone[:2]], rel=0.2)


def test_only_objectives_of_similarity_are_exchanged(base, pictures, sentiment, lm):
    own = Problem(lm, [Term(ClassifierLabel(label="positive"), sentiment)])
    with pytest.raises(OptionError, match="expected one of similarity, with the same text around"):
        own.with_objective(0, ClassifierLabel(label="negative"))
    for other in (
        ImageSimilarity(images=pictures[0], prefix="Look:"),
        ImageSimilarity(items=[{"images": pictures[0]}, {"images": pictures[1]}]),
    ):
        with pytest.raises(OptionError, match="'image' in place of 'image'"):
            base.with_objective(1, other)
