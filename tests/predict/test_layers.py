"""Gradients at hidden states in every layer: against leaves written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.errors import LossError, ModelError
from fuse_index.models import load_model
from fuse_index.objectives import CustomObjective, Fluency, TextSimilarity
from fuse_index.predict.layers import layer_gradient, span_mask
from fuse_index.words.ragged import Ragged
from tests.models import factory
from tests.predict.helpers import cut_gradient

TEXTS = ("the picture contains a gorgeous circle", "a lovely red star")
SPANS = np.array([[2, 4], [1, 2]])


@pytest.mark.parametrize("which", ["lm", "clip"])
def test_gradients_are_those_of_leaves_in_every_layer(which, request):
    model = request.getfixturevalue(which)
    objective = Fluency() if which == "lm" else TextSimilarity(texts="a blue square")
    loss = objective.prepare(model)
    rows = model.words.encode_texts(TEXTS)
    losses, found = layer_gradient(loss, rows, SPANS)
    torch.testing.assert_close(losses, loss.score(rows), rtol=1e-4, atol=1e-5)
    assert found.shape == (2, (len(model.layers) + 1) * model.width)
    for row, (begin, end), own in zip(rows.to_lists(), SPANS.tolist(), found, strict=True):
        expected = cut_gradient(loss, row, begin, end)
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-6)


def test_the_mask_covers_the_span_within_the_content(lm):
    rows = lm.words.encode_texts(TEXTS)
    batch = lm.batch(rows, prefix="here is", suffix=" and more")
    mask = span_mask(batch, SPANS[:, 0], SPANS[:, 1])
    for row, (begin, end), own in zip(rows.to_lists(), SPANS.tolist(), mask, strict=True):
        assert own.nonzero()[:, 0].tolist() == [batch.start + i for i in range(begin, end)]
        assert batch.ids[0 if row == rows.to_lists()[0] else 1][own].tolist() == row[begin:end]


def test_a_loss_that_runs_no_layer_has_its_gradient_at_the_embeddings(lm):
    def small(model, embeds, batch):
        return embeds.square().sum(dim=(1, 2))

    loss = CustomObjective(function=small).prepare(lm)
    rows = lm.words.encode_texts(TEXTS)
    losses, found = layer_gradient(loss, rows, SPANS)
    torch.testing.assert_close(losses, loss.score(rows))
    for row, (begin, end), own in zip(rows.to_lists(), SPANS.tolist(), found, strict=True):
        expected = 2 * lm.table()[row[begin:end]].sum(0)
        torch.testing.assert_close(own[: lm.width], expected)
        assert not own[lm.width :].any()


def test_a_gradient_that_is_not_finite_is_refused(lm):
    def root(model, embeds, batch):
        return model.forward(embeds, batch).logits.mul(0).sum(dim=(1, 2)).sqrt()

    loss = CustomObjective(function=root).prepare(lm)
    rows = Ragged.from_lists([lm.words.encode_text(TEXTS[1])])
    with pytest.raises(LossError, match="holds NaN"):
        layer_gradient(loss, rows, SPANS[1:])


def test_layers_that_share_their_weights_cannot_be_told_apart(tmp_path):
    model = load_model(str(factory.save_albert(tmp_path)), device="cpu", kind="encoder")
    loss = TextSimilarity(texts="the quick fox").prepare(model)
    rows = model.words.encode_texts(["a brown dog runs"])
    with pytest.raises(ModelError, match="no layers found"):
        layer_gradient(loss, rows, np.array([[1, 2]]))
