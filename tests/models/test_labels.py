"""Labels of classifiers: which one is meant, and what its probability is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fuse_index.errors import ModelError, OptionError
from fuse_index.models.encoder import ClassifierModel, label_names
from fuse_index.objectives import ClassifierLabel


class Config:
    def __init__(self, names: dict[Any, Any]) -> None:
        self.id2label = names


def head(*labels: str, problem_type: str | None = None) -> ClassifierModel:
    """A classifier without a network."""
    model = object.__new__(ClassifierModel)
    model.name, model.labels, model.problem_type = "m", labels, problem_type
    return model


NAMES = st.sampled_from(["0", "1", "2", "3", "joy", "Joy", "JOY", "LABEL_0", "LABEL_1", "yes"])


@given(st.lists(NAMES, min_size=1, max_size=5), NAMES | st.integers(-1, 5))
def test_a_name_comes_before_an_index(labels: list[str], given_label: str | int) -> None:
    """As written, then in another case, then as an index; a name of two labels is refused."""
    model, text = head(*labels), str(given_label)
    exact = [i for i, name in enumerate(labels) if name == text]
    folded = [i for i, name in enumerate(labels) if name.casefold() == text.casefold()]
    found = exact or folded
    if not found and text.isdecimal() and int(text) < len(labels):
        found = [int(text)]
    if len(found) == 1:
        assert model.label_id(given_label) == found[0]
        return
    with pytest.raises(ModelError) as error:
        model.label_id(given_label)
    expected = f"{len(found)} labels are named" if found else "m: no label"
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_messages() -> None:
    with pytest.raises(ModelError) as error:
        head("a", "a").label_id("a")
    assert str(error.value) == (
        "m: 2 labels are named 'a'; expected a name that one label has; give an index, 0 to 1"
    )
    assert head("a", "a").label_id(1) == 1
    for label in ("9" * 5000, -1, True, "²"):
        with pytest.raises(ModelError, match="no label"):
            head("a", "b").label_id(label)
    with pytest.raises(ModelError) as error:
        head("reward").require_labels()
    assert str(error.value) == (
        "m: a head of one output for regression or rewards, which has no label; expected a "
        "classifier of several labels, or problem_type 'multi_label_classification'; write a "
        "CustomObjective of its logits in Python, or choose another model"
    )


@pytest.mark.parametrize(
    ("labels", "problem_type", "refused"),
    [
        (("a", "b"), None, False),
        (("a", "b"), "single_label_classification", False),
        (("a", "b"), "multi_label_classification", False),
        (("a",), "multi_label_classification", False),
        (("a",), None, True),
        (("a",), "single_label_classification", True),
        (("a",), "regression", True),
        (("a", "b"), "regression", True),
    ],
)
def test_heads_that_have_labels(
    labels: tuple[str, ...], problem_type: str | None, refused: bool
) -> None:
    model = head(*labels, problem_type=problem_type)
    logits = torch.tensor([[2.0, -1.0, 0.5][: len(labels)]] * 2)
    if refused:
        with pytest.raises(ModelError, match="for regression or rewards"):
            model.require_labels()
        return
    model.require_labels()
    found = model.log_probabilities(logits)
    multiple = problem_type == "multi_label_classification"
    expected = functional.logsigmoid(logits) if multiple else logits.log_softmax(dim=-1)
    torch.testing.assert_close(found, expected)
    assert float(found.max()) < 0


def test_names_in_a_configuration() -> None:
    assert label_names(Config({0: "a", 1: 5}), "m") == ("a", "5")
    assert label_names(Config({"1": "b", "0": "a"}), "m") == ("a", "b")
    with pytest.raises(ModelError) as error:
        label_names(Config({1: "a", 2: "b"}), "m")
    assert str(error.value) == (
        "m: names for the labels [1, 2]; expected id2label from 0 on, without a gap; correct "
        "id2label in its config.json"
    )


@pytest.mark.parametrize("label", [True, False, 1.0, None])
def test_what_yaml_reads_as_no_text_is_no_label(label: Any) -> None:
    """``label: yes`` is true there, and was label 1."""
    with pytest.raises(OptionError, match="label: label"):
        ClassifierLabel(label=label)
