"""The method and search that are chosen where none is given, and the line that says why."""

from __future__ import annotations

import pytest

from fuse_index.models import load_model
from fuse_index.objectives import CustomTextObjective, Fluency, TextSimilarity
from fuse_index.optimize import (
    GCG,
    Beam,
    Budget,
    Choice,
    Greedy,
    Moves,
    Predictor,
    Problem,
    RandomSearch,
    Stop,
    Term,
    Unit,
    choose,
    choose_moves,
    optimize,
)
from fuse_index.optimize import auto as auto_module
from fuse_index.predict import WordUnits
from tests.demo_models import START
from tests.models import factory
from tests.predict.helpers import WORDS

LARGE, SMALL = Budget(forward_passes=100_000), Budget(forward_passes=1)
NO_GRADIENT = CustomTextObjective(function=lambda texts: [float(len(text)) for text in texts])


@pytest.fixture
def unkept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No states are in memory or in the cache."""
    monkeypatch.setattr(WordUnits, "states_are_kept", lambda self, model: False)


def check_words(choice: Choice, predictor: Predictor, reason: str) -> None:
    method = choice.method
    assert isinstance(method, GCG)
    assert (method.unit, method.predictor) == (Unit.WORD, predictor)
    width, positions = (24, 3) if predictor is Predictor.LAYERS else (32, 2)
    assert (method.search_width, method.positions) == (width, positions)
    assert choice.search == Greedy()
    assert choice.reason == (
        f"GCG over words by {predictor.value}, the {width} best of {positions} positions, "
        f"corrected: {reason}"
    )


@pytest.mark.parametrize("words", [None, WORDS])
def test_without_a_gradient_random_search(lm, words):
    terms = [Term(NO_GRADIENT, lm), Term(Fluency(weight=0.0), lm)]
    choice = choose(Problem(lm, terms, words=words), Budget())
    unit = Unit.TOKEN if words is None else Unit.WORD
    assert choice.method == RandomSearch(unit=unit)
    assert choice.search == Greedy()
    assert choice.reason == "random search: no objective has a gradient"


def test_without_words_tokens(lm_problem):
    choice = choose(lm_problem, LARGE)
    assert (choice.method, choice.search) == (GCG(), Beam(width=4))
    assert choice.reason == (
        "GCG over tokens, the 128 best of 4 positions, corrected, with a beam of 4: the problem "
        "has no words"
    )


def test_layers_where_the_states_are_kept(clip_only, monkeypatch):
    monkeypatch.setattr(WordUnits, "states_are_kept", lambda self, model: True)
    for budget in (SMALL, LARGE, Budget(seconds=1.0)):
        kept = "the states of its words are kept"
        check_words(choose(clip_only, budget), Predictor.LAYERS, kept)


def test_layers_where_the_budget_bears_their_states(clip_only, unkept):
    worth = "the states of its words are worth their cost in this budget"
    for budget in (LARGE, Budget(), Budget(steps=5000)):
        check_words(choose(clip_only, budget), Predictor.LAYERS, worth)


def test_states_that_are_too_expensive(lm, clip, clip_only, unkept):
    count = len(clip_only.word_units)
    dear = f"states of {count} words take {4 * count} short passes of {clip.name}, the budget has 1"
    check_words(choose(clip_only, SMALL), Predictor.MIXTURE, dear)
    without = Problem(lm, [Term(clip_only.terms[0].objective, clip)], words=WORDS)
    dear = f"states of 6 words take 24 short passes of {clip.name}, the budget has 1"
    check_words(choose(without, SMALL), Predictor.EMBEDDING, dear)


def test_budgets_of_steps_are_counted_in_passes(clip_only, clip, monkeypatch, unkept):
    monkeypatch.setattr(auto_module, "_WORTH", 1 / 32)
    count = len(clip_only.word_units)
    bearing = Budget(steps=4 * count)
    assert choose(clip_only, bearing).method.predictor is Predictor.LAYERS
    assert choose(clip_only, Budget(steps=4 * count - 1)).method.predictor is Predictor.MIXTURE


def test_a_limit_of_seconds_alone_bears_only_kept_states(clip_only, clip, unkept):
    late = f"the states of words in {clip.name} are not kept, and the time is limited"
    check_words(choose(clip_only, Budget(seconds=60.0)), Predictor.MIXTURE, late)
    both = Budget(seconds=60.0, forward_passes=100_000)
    assert choose(clip_only, both).method.predictor is Predictor.LAYERS


def test_states_that_take_too_much_memory(clip_only, clip, monkeypatch, unkept):
    monkeypatch.setattr(auto_module, "_MOST_BYTES", 1000)
    size = 4 * len(clip_only.word_units) * (len(clip.layers) + 1) * clip.width
    much = f"states of {len(clip_only.word_units)} words in {clip.name} take {size / 1e9:.1f} GB"
    check_words(choose(clip_only, LARGE), Predictor.MIXTURE, much)


def test_layers_that_cannot_be_told_apart(lm, tmp_path):
    albert = load_model(str(factory.save_albert(tmp_path)), device="cpu", kind="encoder")
    terms = [Term(TextSimilarity(texts="a dog"), albert)]
    problem = Problem(lm, terms, words=WORDS)
    reason = f"the layers of {albert.name} cannot be told apart"
    check_words(choose(problem, LARGE), Predictor.EMBEDDING, reason)
    result = optimize(problem, "the left circle", budget=Budget(steps=2))
    assert reason in result.chosen
    assert result.total <= result.trajectory[0].total


def test_one_adapter_that_is_missing_leaves_embeddings(three_models, sentiment, unkept):
    source, terms = three_models.source, list(three_models.terms)
    assert choose(three_models, SMALL).method.predictor is Predictor.MIXTURE
    terms[2] = Term(terms[2].objective, sentiment)
    assert choose(Problem(source, terms), SMALL).method.predictor is Predictor.EMBEDDING
    alone = Problem(source, [Term(Fluency(), source)], words=WORDS)  # nothing needs one
    assert choose(alone, SMALL).method.predictor is Predictor.EMBEDDING


def test_moves_take_the_same_predictor(clip_only, unkept):
    choice = choose_moves(clip_only, LARGE)
    assert choice.method == Moves(predictor=Predictor.LAYERS)
    assert choice.reason.startswith("moves under a schedule, words by layers: the states")
    assert choose_moves(clip_only, SMALL).method == Moves(predictor=Predictor.MIXTURE)


# in a run


@pytest.mark.smoke
def test_a_run_tells_what_was_chosen(clip_only):
    budget = Budget(forward_passes=60)
    choice = choose(clip_only, budget)
    result = optimize(clip_only, START, budget=budget)
    assert result.chosen == choice.reason
    assert result.configuration["method"]["unit"] == "word"
    assert result.total < result.trajectory[0].total
    again = optimize(clip_only, START, budget=budget, method=choice)
    assert again.chosen == result.chosen
    assert [point.ids for point in again.trajectory] == [point.ids for point in result.trajectory]
    given = optimize(clip_only, START, budget=budget, method=choice.method)
    assert given.chosen == ""


def test_a_search_that_is_given_stays(lm_problem):
    result = optimize(lm_problem, START, search=Beam(width=2), budget=Budget(steps=1))
    assert result.configuration["search"]["width"] == 2
    chosen = optimize(lm_problem, START, budget=Budget(steps=1))
    assert chosen.configuration["search"] == Beam(width=4).to_json()


def test_a_budget_of_passes_is_not_cut_at_a_hundred_steps(lm, clip_only):
    """A bare call with a budget of passes ends by it, after however many steps."""
    letters = CustomTextObjective(function=lambda texts: [-float(len(set(t))) for t in texts])
    problem = Problem(lm, [Term(letters, lm)], words=clip_only.word_units.words)
    start = " ".join([START] * 5)  # so long that there is always something new
    result = optimize(problem, start, budget=Budget(forward_passes=6500))
    assert result.stop is Stop.FORWARD_PASSES
    assert result.spent["steps"] > 100
    assert result.spent["forward_passes"] == 6500
