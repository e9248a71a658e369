"""Moves under a schedule: its phases, budget, end, and resumption bit for bit in each of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse_index.adapter import Adapter
from fuse_index.errors import ModelError, OptionError
from fuse_index.models import Model
from fuse_index.objectives import Fluency, ImageSimilarity, TextSimilarity
from fuse_index.optimize import (
    AutoDAN,
    Budget,
    Greedy,
    Moves,
    Predictor,
    Problem,
    Result,
    Run,
    RunOptions,
    Stop,
    Term,
    Unit,
    optimize,
    passes,
)

WORDS = ("a", "the", "small", "star", "circle", "red", "blue", "azure", "arrow", "above")
FIRST = "a small star"
LITTLE: dict[str, Any] = {
    "predictor": "embedding", "drafts": 8, "swaps": 1, "insertions": 0, "omissions": 1,
    "rewrites": 3, "crossings": 2, "length": 3, "beam": 2, "search_width": 3,
}  # fmt: skip
STEPS = 30


@pytest.fixture(scope="module", autouse=True)
def short_sentences() -> Iterator[None]:
    """Sentences of few tokens, so that the schedule comes to all of its phases soon."""
    with pytest.MonkeyPatch.context() as patch:
        short = partial(passes.write_sentences, longest=5)
        patch.setattr(passes, "write_sentences", short)
        yield


@pytest.fixture(scope="module")
def caption(lm: Model, clip: Model, clip_adapter: Adapter, image_path: Path) -> Problem:
    """Fluent, and like the picture."""
    terms = [
        Term(Fluency(weight=0.1, include_end=True), lm),
        Term(ImageSimilarity(images=image_path), clip, clip_adapter),
    ]
    return Problem(lm, terms, words=WORDS)


def values_of(run: Run) -> dict[str, Any]:
    values: dict[str, Any] = run.method._values  # type: ignore[attr-defined]
    return values


class Watched:
    """A run with a checkpoint of every step, and what the schedule was about to do then."""

    def __init__(self, problem: Problem, folder: Path, **given: Any) -> None:
        self.method = Moves(**LITTLE | given)
        self.problem, self.folder = problem, folder
        self.phases: list[str] = []
        self._path = folder / "now"
        self.result = self.run(STEPS, self._path, self._note)
        self._keep(STEPS)

    def run(self, steps: int, path: Path, *callbacks: Any) -> Result:
        return optimize(
            self.problem,
            FIRST,
            method=self.method,
            budget=Budget(steps=steps),
            options=RunOptions(seed=3, balance=True),
            checkpoint=path,
            checkpoint_every=1,
            callbacks=callbacks,
        )

    def _note(self, run: Run, point: Any) -> None:
        self._keep(point.step - 1)
        values, writing = values_of(run), run.method._writing  # type: ignore[attr-defined]
        name = str(values["phase"])
        if values["combine"] is not None:
            name = "combine"
        elif writing is not None:
            name = "written" if writing.to_json()["begun"] else "first words"
        elif values["best"] is not None:
            name = "crossed" if values["stale"] % 2 else "rewritten"
        elif values["since"]:
            name = "second round"
        self.phases.append(name)

    def _keep(self, step: int) -> None:
        if step > 0:
            shutil.copy(self._path, self.folder / str(step))

    def resumed(self, step: int, more: int) -> Result:
        return self.run(step + more, self.folder / str(step))


@pytest.fixture(scope="module")
def watched(caption: Problem, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(caption, tmp_path_factory.mktemp("drafts"))


@pytest.fixture(scope="module")
def grafted(caption: Problem, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("grafts")
    return Watched(caption, folder, grafts=("an arrow above",), temperature=2.0)


def course(result: Result) -> list[Any]:
    return [(p.ids, p.losses, p.best, p.candidates, p.forward_passes) for p in result.trajectory]


@pytest.mark.smoke
def test_the_schedule_comes_to_every_phase(watched: Watched, grafted: Watched) -> None:
    assert watched.phases[0] == "draft"
    assert grafted.phases[0] == "graft"
    found = {*watched.phases, *grafted.phases}
    wanted = {"improve", "combine", "rewritten", "crossed", "first words", "written"}
    assert wanted | {"second round"} <= found
    totals = [point.best for point in watched.result.trajectory]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0]


@pytest.mark.parametrize("which", ["watched", "grafted"])
def test_it_resumes_bit_for_bit_in_every_phase(request: Any, which: str) -> None:
    whole: Watched = request.getfixturevalue(which)
    seen: dict[tuple[str, str], int] = {}
    for step, pair in enumerate(zip(whole.phases, whole.phases[1:], strict=False)):
        seen.setdefault(pair, step)  # each kind of step once, by what comes after it
    for step in sorted(seen.values()):
        if step == 0:
            continue
        again = whole.resumed(step, min(4, STEPS - step))
        expected = course(whole.result)[: step + 5]
        assert course(again) == expected, (step, whole.phases[step])


def test_a_run_repeats_itself(watched: Watched, tmp_path: Path) -> None:
    again = watched.run(6, tmp_path / "again")
    assert course(again) == course(watched.result)[:7]


def test_grafts_are_beginnings_and_endings_of_sentences(grafted: Watched) -> None:
    assert grafted.result.trajectory[1].candidates == 2 * len(["an", "arrow", "above"])
    run = started(grafted.problem, grafted.method)
    proposals = run.method.propose(run.search.select())
    texts = [grafted.problem.decode(row).strip() for row in proposals.prompts.to_lists()]
    assert texts == [
        f"an {FIRST}",
        f"an arrow {FIRST}",
        f"an arrow above {FIRST}",
        f"{FIRST} above",
        f"{FIRST} arrow above",
        f"{FIRST} an arrow above",
    ]


def started(problem: Problem, method: Moves) -> Run:
    initial = [problem.encode(FIRST)]
    return Run(problem, initial, method=method, search=Greedy(), options=RunOptions(seed=3))


def test_a_step_of_edits_makes_every_edit_once(caption: Problem) -> None:
    method = Moves(**LITTLE | {"drafts": 0, "swaps": 2, "insertions": 1})
    run = started(caption, method)
    rows = run.method.propose(run.search.select()).prompts.to_lists()
    lengths = [len(caption.decode(row).split()) for row in rows]
    words = len(FIRST.split())
    swaps, gaps, out = (lengths.count(size) for size in (words, words + 1, words - 1))
    assert out == words
    assert gaps == words + 1
    assert words <= swaps <= 2 * words  # a word may be swapped for itself
    assert len({tuple(row) for row in rows}) == len(rows)


def test_drafts_are_a_quarter_of_the_passes_at_most(caption: Problem) -> None:
    for most, drafts in ((None, 8), (100, 8), (32, 4)):
        run = started(caption, Moves(**LITTLE))
        run.method.propose(run.search.select(), most)
        assert run.spent.predicted == drafts


@pytest.mark.parametrize("passes", [7, 40, 150, 300])
def test_the_budget_is_kept_to(caption: Problem, passes: int) -> None:
    result = optimize(caption, FIRST, method=Moves(**LITTLE), budget=Budget(forward_passes=passes))
    assert result.stop is Stop.FORWARD_PASSES
    spent = [point.forward_passes for point in result.trajectory]
    longest = max(len(caption.decode(point.ids).split()) for point in result.trajectory)
    # one step may begin below the limit: it judges every position, and scores one prompt
    assert passes <= spent[-1] <= passes + 2 * (2 * longest + 3) + 4
    assert spent[-2] < passes


def test_it_is_finished_when_nothing_new_can_be_made(lm: Model) -> None:
    problem = Problem(lm, [Term(Fluency(), lm)], words=["star", "circle"])
    method = Moves(**LITTLE | {"drafts": 0, "rewrites": 0, "crossings": 0, "length": 1, "beam": 1})
    result = optimize(problem, "star", method=method, budget=Budget(steps=200))
    assert result.stop is Stop.FINISHED
    assert result.spent["steps"] < 20
    assert result.text.strip() in {"star", "circle"}


def test_idle_moves_count_against_the_budget(lm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The language model writes the same again and again: it is not asked beyond the budget."""
    problem = Problem(lm, [Term(Fluency(), lm)], words=["star", "circle"])
    row = problem.encode("star")
    monkeypatch.setattr(
        passes, "write_sentences", lambda model, starts, *_, **__: [row for _ in starts]
    )
    method = Moves(**LITTLE | {"crossings": 0, "length": 1, "beam": 1})
    budget = Budget(forward_passes=90)
    result = optimize(problem, "star", method=method, budget=budget)
    assert result.spent["forward_passes"] <= 90 + 4


def test_without_rewrites_nothing_is_rewritten(caption: Problem) -> None:
    method = Moves(**LITTLE | {"drafts": 0, "rewrites": 0})
    run = started(caption, method)
    for _ in range(12):
        run.step()
    best = run.method._memory.best(2)  # type: ignore[attr-defined]
    before = run.spent.predicted
    assert run.method._rewritten(best, None) == []  # type: ignore[attr-defined]
    assert run.spent.predicted == before


def test_the_first_writing_takes_the_best_and_others_are_drawn() -> None:
    method = Moves(temperature=0.7, length=9, search_width=5, weight=1.5, margin=0.3)
    writer = AutoDAN(
        unit=Unit.WORD,
        predictor=Predictor.LAYERS,
        length=9,
        search_width=5,
        weight=1.5,
        margin=0.3,
        temperature=0.7,
    )
    assert method.writer(first=False) == writer
    assert method.writer(first=True).temperature == 0
    assert method.ranking == (Unit.WORD, Predictor.LAYERS)
    assert Moves(weight=0.0).ranking is None


def test_without_the_gradient_none_is_taken(caption: Problem) -> None:
    method = Moves(**LITTLE | {"weight": 0.0})
    result = optimize(caption, FIRST, method=method, budget=Budget(steps=6))
    assert result.spent["gradients"] == 0
    assert result.total < result.trajectory[0].total


def test_layers_need_no_adapter_and_adapters_do(caption: Problem) -> None:
    terms = [Term(term.objective, term.model) for term in caption.terms]
    caption = Problem(caption.source, terms, words=WORDS)
    method = Moves(**LITTLE | {"predictor": "layers"})
    result = optimize(caption, FIRST, method=method, budget=Budget(steps=4))
    assert result.spent["gradients"] > 0
    for predictor in ("adapter", "mixture"):
        with pytest.raises(OptionError, match="no adapter"):
            optimize(caption, FIRST, method=Moves(predictor=predictor))


def test_a_source_that_cannot_write_is_refused(clip: Model) -> None:
    problem = Problem(clip, [Term(TextSimilarity(texts="a star"), clip)], words=["star", "ring"])
    with pytest.raises(ModelError, match=r"moves: .* as the source; expected a causal"):
        optimize(problem, "a ring", method=Moves(predictor="embedding"))


def test_no_words_are_refused(lm: Model) -> None:
    with pytest.raises(OptionError, match="word-level moves without words"):
        optimize(Problem(lm, [Term(Fluency(), lm)]), "a ring", method=Moves())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 0}, "moves: length=0; expected at least 1"),
        ({"swaps": -1}, "moves: swaps=-1; expected at least 0"),
        ({"margin": -1.0}, "moves: margin=-1.0; expected at least 0"),
        ({"predictor": "bus"}, "moves: predictor 'bus'; expected one of embedding"),
    ],
)
def test_options_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Moves(**given)


def test_memory_holds_the_totals_of_the_run(watched: Watched) -> None:
    """With balanced weights too, which are not the problem's."""
    run = Run(
        watched.problem,
        [watched.problem.encode(FIRST)],
        method=watched.method,
        search=Greedy(),
        options=RunOptions(seed=3, balance=True),
    )
    for _ in range(3):
        run.step()
    assert run.weights.tolist() != watched.problem.weights.tolist()
    tensors = {name: value.clone() for name, value in run.method.tensors().items()}
    before = dict(run.method._memory.states)  # type: ignore[attr-defined]
    run.method.load_tensors(tensors)
    assert run.method._memory.states == before  # type: ignore[attr-defined]
    assert isinstance(tensors["values"], torch.Tensor)
