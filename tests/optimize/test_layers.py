"""Predictions from a word's hidden states in every layer: against sums written out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.objectives import Fluency, ImageSimilarity
from fuse_index.optimize import Budget, Problem, Spent, Term, WordSwaps, layer_store, optimize
from fuse_index.optimize.gradient import Differentiator
from fuse_index.optimize.layer_store import kept_layer_vectors
from fuse_index.optimize.layer_words import Contexts, layer_vectors
from fuse_index.optimize.lexicon import Lexicon
from fuse_index.optimize.word_gradient import WordDifferentiator
from fuse_index.words.ragged import Ragged

BASE = "the picture contains a gorgeous circle on the left"
WORDS = ["circle", "triangle", "gorgeous", "left", "purple", "above"]


@pytest.fixture(scope="module")
def clip_only(clip, clip_adapter, lm, image_path) -> Problem:
    """One target with other tokens than the source."""
    return Problem(lm, [Term(ImageSimilarity(images=image_path), clip, clip_adapter)])


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Iterator[Path]:
    """A cache of its own, that keeps few words too."""
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path))
    monkeypatch.setattr(layer_store, "KEPT_FROM", 1)
    monkeypatch.setattr(layer_store, "_MOST_IN_MEMORY", 0)
    monkeypatch.setattr(layer_store, "_made", WeakKeyDictionary())
    return tmp_path / "layers"


def states_of(model: Model, before: list[int], word: list[int], behind: list[int]) -> torch.Tensor:
    """The word's states in one context, by hooks of its own: the layers one after another."""
    batch = model.batch([[*before, *word, *behind]])
    begin = batch.start + len(before)
    found: list[torch.Tensor] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for layer in model.layers
    ]
    last = model.layers[-1].register_forward_hook(
        lambda _, args, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model.forward(model.embed(batch.ids), batch)
    for handle in [*handles, last]:
        handle.remove()
    return torch.cat([own[0, begin : begin + len(word)].mean(0) for own in found])


@pytest.mark.parametrize("texts", [(), ("a large red circle", "left"), ("",)])
def test_vectors_are_the_states_averaged_over_contexts(clip, texts):
    tokens = clip.words.encode_words([*WORDS, "extraordinarily"])
    contexts = Contexts(count=3, words=2, texts=texts)
    found = layer_vectors(clip, tokens, contexts)
    drawn = contexts.draw(clip, tokens)
    for row, word in enumerate(tokens):
        states = [states_of(clip, before, word.tolist(), behind) for before, behind in drawn]
        torch.testing.assert_close(found[row], torch.stack(states).mean(0), atol=1e-5, rtol=1e-4)


def test_contexts_fit_the_positions(clip):
    tokens = clip.words.encode_words(WORDS)
    long = Contexts(count=2, words=200)
    assert len(long.draw(clip, tokens)[0][0]) >= 200
    assert layer_vectors(clip, tokens, long).shape[0] == len(WORDS)


@pytest.mark.parametrize("given", [{"count": 0}, {"words": -1}, {"seed": -1}])
def test_contexts_out_of_range_are_refused(given):
    with pytest.raises(OptionError, match=f"contexts: {next(iter(given))}="):
        Contexts(**given)


def test_progress_counts_words_of_all_contexts(clip):
    seen: list[tuple[int, int]] = []
    tokens = clip.words.encode_words(WORDS)
    layer_vectors(clip, tokens, Contexts(count=3), lambda *given: seen.append(given))
    assert seen[-1] == (3 * len(WORDS), 3 * len(WORDS))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("slot", [0, 4, 8])
def test_predictions_are_gradients_times_states(clip_only, clip, slot):
    """Every layer's gradient is taken alone here, with leaves written out by hand."""
    lexicon = Lexicon(clip_only, WORDS)
    words = WordDifferentiator(Differentiator(clip_only, Spent()), lexicon, layers=True)
    places = words.places(clip_only.encode(BASE))
    taken = words.at(places, np.array([2.0]), slots=[slot])
    rows = clip.words.encode_words(BASE.split())
    loss = clip_only.losses[0]
    batch = loss.batch([rows.values.tolist()])
    begin = batch.start + int(rows.offsets[slot])
    here = slice(begin, begin + int(rows.lengths[slot]))
    leaves: list[torch.Tensor] = []

    def cut(states: torch.Tensor) -> torch.Tensor:
        leaf = states[:, here].detach().clone().requires_grad_()
        leaves.append(leaf)
        return torch.cat([states[:, : here.start], leaf, states[:, here.stop :]], dim=1)

    def before(_, args, kwargs):
        if args:
            return (cut(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": cut(kwargs["hidden_states"])}

    def behind(_, args, output):
        return (cut(output[0]), *output[1:]) if isinstance(output, tuple) else cut(output)

    handles = [own.register_forward_pre_hook(before, with_kwargs=True) for own in clip.layers]
    handles.append(clip.layers[-1].register_forward_hook(behind))
    value = loss(clip.embed(batch.ids), batch).sum()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    parts = [
        torch.zeros(own.shape[2]) if gradient is None else gradient[0].sum(0)
        for own, gradient in zip(leaves, gradients, strict=True)
    ]
    whole = torch.cat(parts)
    expected = 2.0 * lexicon.layers_of(clip) @ whole
    torch.testing.assert_close(words.in_word_space(taken)[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("expansion", ["current", "mean_word", "anchors"])
def test_every_place_costs_a_gradient(clip_only, expansion):
    method = WordSwaps(
        search_width=4, guide="layers", draw="best", expansion=expansion, anchors=3, places=2
    )
    result = optimize(clip_only, BASE, method=method, budget=Budget(steps=2))
    each = 3 if expansion == "anchors" else 1
    assert result.spent["gradients"] == 2 * 2 * each


def test_terms_of_the_source_take_part(problem):
    """A causal language model's fluency and CLIP's likeness in one query."""
    lexicon = Lexicon(problem, WORDS)
    words = WordDifferentiator(Differentiator(problem, Spent()), lexicon, layers=True)
    places = words.places(problem.encode(BASE))
    alone = [words.in_word_space(words.at(places, np.eye(2)[i])) for i in range(2)]
    both = words.in_word_space(words.at(places, np.array([0.2, 3.0])))
    assert all(bool(own.abs().sum() > 0) for own in alone)
    torch.testing.assert_close(both, 0.2 * alone[0] + 3.0 * alone[1], rtol=1e-3, atol=1e-4)


def test_they_predict_better_than_the_gradient_at_the_embedding(clip_only, clip):
    """True changes of all words in every place: rank correlation, averaged over places."""
    from fuse_index.evaluate.ranking import spearman

    lexicon, gradients = clip_only.lexicon, Differentiator(clip_only, Spent())
    parts = BASE.split()
    found = {}
    for layers in (False, True):
        words = WordDifferentiator(gradients, lexicon, layers=layers)
        places = words.places(clip_only.encode(BASE))
        found[layers] = words.in_word_space(words.at(places, np.ones(1)))
    scores: dict[bool, list[float]] = {False: [], True: []}
    for slot in range(len(parts)):
        texts = [" ".join([*parts[:slot], word, *parts[slot + 1 :]]) for word in lexicon.words]
        rows = Ragged.from_lists([clip.words.encode_text(text) for text in texts])
        true = clip_only.losses[0].score(rows).double().numpy()
        for layers, own in scores.items():
            own.append(spearman(found[layers][slot].double().numpy(), true))
    assert np.mean(scores[True]) > np.mean(scores[False]) + 0.1


def test_anchors_in_all_places_at_once_are_refused():
    with pytest.raises(OptionError, match="guide 'layers' with anchor_places 'all'"):
        WordSwaps(guide="layers", expansion="anchors", anchor_places="all")


def test_states_are_kept_and_found_again(clip, cache, monkeypatch):
    tokens = clip.words.encode_words(WORDS)
    first = kept_layer_vectors(clip, tokens)
    (file,) = cache.glob("*.safetensors")
    monkeypatch.setattr(layer_store, "layer_vectors", None)
    assert torch.equal(kept_layer_vectors(clip, tokens), first)
    assert not list(cache.glob("*.part"))
    assert file.stat().st_size < 2 * 4 * first.numel() + 1000


def test_states_stay_in_memory_as_long_as_the_model_does(clip, monkeypatch):
    monkeypatch.setattr(layer_store, "_made", WeakKeyDictionary())
    tokens = clip.words.encode_words(WORDS)
    first = kept_layer_vectors(clip, tokens)
    assert kept_layer_vectors(clip, clip.words.encode_words(WORDS)) is first
    assert kept_layer_vectors(clip, tokens, Contexts(count=1)) is not first
    assert kept_layer_vectors(clip, tokens) is first
    kept_layer_vectors(clip, tokens, Contexts(count=2))  # one too many
    assert len(layer_store._made[clip]) == 2


def test_other_words_weights_or_contexts_are_other_states(clip, cache):
    tokens = clip.words.encode_words(WORDS)
    kept_layer_vectors(clip, tokens)
    kept_layer_vectors(clip, clip.words.encode_words(WORDS[1:]))
    kept_layer_vectors(clip, tokens, Contexts(count=2))
    weight = next(clip.module.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] += 1
    try:
        kept_layer_vectors(clip, tokens)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert len(list(cache.glob("*.safetensors"))) == 4


def test_a_damaged_or_locked_cache_is_done_without(clip, cache, caplog):
    tokens = clip.words.encode_words(WORDS)
    first = kept_layer_vectors(clip, tokens)
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(b"no tensors")
    assert torch.equal(kept_layer_vectors(clip, tokens), first)
    assert "made anew" in caplog.text
    file.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert torch.equal(kept_layer_vectors(clip, tokens), first)
    assert "not kept" in caplog.text


def test_a_causal_model_alone(lm):
    problem = Problem(lm, [Term(Fluency(), lm)], words=WORDS)
    method = WordSwaps(guide="layers", search_width=6, draw="best", places=1)
    result = optimize(problem, BASE, method=method, budget=Budget(steps=3))
    assert result.total <= result.trajectory[0].total
