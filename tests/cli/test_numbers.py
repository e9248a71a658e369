"""Every number of every option has bounds, in run files and on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from typing import Any, get_args, get_type_hints

import pytest

from fuse_index.cli import main as cli
from fuse_index.common.bounds import MAX_WORD_TOKENS
from fuse_index.common.reading import FlagText
from fuse_index.errors import OptionError
from fuse_index.run import CaptionConfig, RunConfig, override, read_captions, read_run
from fuse_index.run.schema import run_schema

WITHOUT_LIMIT = {"seconds", "flops", "target_loss", "margin"}
"""Infinity is a value of these: a limit that is never reached."""
CHECKED_LATER = {"label", "deny_ids"}
"""Against the labels and the tokens of a model."""


CHECKED_FIRST = {"min-group", "max-group", "seed", "min-count", "max-words", "max-tokens"}
"""By the options of the verb, before any work; the help then shows the default alone."""


def numbers_of(schema: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number in a JSON schema, with the name of the field."""
    if isinstance(schema, list):
        for item in schema:
            yield from numbers_of(item, name)
    if not isinstance(schema, dict):
        return
    if schema.get("type") in ("integer", "number"):
        yield name, schema
    for key, item in schema.items():
        if key in ("properties", "$defs"):
            for field, inner in item.items():
                yield from numbers_of(inner, field)
        elif key in ("anyOf", "oneOf", "items"):
            yield from numbers_of(item, name)


@pytest.mark.parametrize("cls", [RunConfig, CaptionConfig])
def test_every_number_of_a_run_file_has_bounds(cls):
    found = list(numbers_of(run_schema(cls)))
    assert len(found) > 50
    for name, schema in found:
        if name not in CHECKED_LATER:
            assert "minimum" in schema or "exclusiveMinimum" in schema or name == "target_loss", (
                name
            )
            assert name in WITHOUT_LIMIT or schema["maximum"] <= 2**64 - 1, name


def options_of() -> Iterator[tuple[str, str, type, Any]]:
    """Every option that holds a number: its verb, its name, its type and what typer knows of it."""
    for name, verb in cli.VERBS.items():
        function = getattr(import_module(verb.module), verb.function)
        for parameter, hint in get_type_hints(function, include_extras=True).items():
            inner, *known = get_args(hint) or (hint,)
            kinds = {inner, *get_args(inner)} & {int, float}
            if kinds and known:
                yield name, parameter.replace("_", "-"), kinds.pop(), known[0]


def test_every_number_on_the_command_line_has_bounds():
    found = list(options_of())
    assert {name for name, *_ in found} >= {
        *("build", "fit", "doctor", "index", "search", "validate", "evaluate"),
        *("optimize", "caption", "demo"),
    }
    for name, option, kind, known in found:
        if kind is int and option not in CHECKED_FIRST:
            assert known.max is not None, (name, option)


@pytest.mark.parametrize("value", ["1" + "0" * 30, "9" * 5000, "1e5", "inf", "nan", "0x10", "³"])
def test_numbers_beyond_are_one_line(capsys, value):
    for name, option, kind, _ in options_of():
        if kind is float or option in CHECKED_FIRST:
            continue
        code = cli.main([name, f"--{option}={value}", "a", "b"])
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == (2, 1), (name, option)
        assert f"'--{option}'" in error, (name, option)


RUN: dict[str, Any] = {
    "models": {"lm": "x"},
    "objectives": [
        *({"type": name} for name in ("fluency", "repetition", "kl")),
        {"type": "continuation", "target": "t"},
        {"type": "length", "maximum": 9},
    ],
    "probe": {"objectives": [{"type": "fluency"}]},
    "initial": {"length": 3},
    "search": "beam",
    "method": "gcg",
}
NUMBERS = [
    *("objectives.0.weight", "objectives.1.ngram", "objectives.2.temperature"),
    *("objectives.3.mellowmax_alpha", "objectives.4.maximum", "objectives.4.minimum"),
    *("probe.share", "probe.reduction", "probe.objectives.0.weight"),
    *("initial.length", "initial.count", "initial.temperature"),
    *("method.search_width", "method.positions", "method.memory", "method.top_k"),
    *("method.n_replace", "search.width", "budget.steps", "budget.forward_passes"),
    *("options.seed", "options.batch_size", "options.pareto_size", "options.remember"),
    *("adapters.min_count", "adapters.max_words", "adapters.max_tokens"),
]
BEYOND = ["1" + "0" * 30, "-1" + "0" * 30, "9" * 5000, "1e308", "-1e308", ".inf", "-.inf", ".nan"]


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_beyond_the_bounds_of_a_run_file(path):
    for text in BEYOND:
        value = deepcopy(RUN)
        override(value, [(path, FlagText(text))])
        with pytest.raises(OptionError) as caught:
            read_run(value)
        assert path.rpartition(".")[2] in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("role", ["lm", "clip", "classifier"])
def test_weights_of_captions(role):
    value = {name: {"model": "x", "label": "a"} for name in ("lm", "clip", "classifier")}
    del value["lm"]["label"], value["clip"]["label"]
    for text in BEYOND:
        given = deepcopy(value)
        override(given, [(f"{role}.weight", FlagText(text))])
        with pytest.raises(OptionError, match="weight"):
            read_captions(given)


@pytest.mark.parametrize("name", ["seconds", "flops", "target_loss"])
def test_limits_may_be_infinite_but_are_numbers(name):
    value = {**RUN, "budget": {name: math.inf}}
    assert getattr(read_run(value).budget, name) == math.inf
    with pytest.raises(OptionError, match=f"{name}=nan; expected a finite number"):
        read_run({**RUN, "budget": {name: math.nan}})


def test_prompts_drawn_are_bounded_together():
    with pytest.raises(OptionError, match="initial: 5000 prompts of 5000 tokens; expected 167"):
        read_run({**RUN, "initial": {"length": 5000, "count": 5000}})


def test_seeds_up_to_the_last_one(capsys):
    lm = ["optimize", "--model", "lm=demo:lm", "--objective", "fluency", "--initial.length", "3"]
    method = ["--method", "random", "--method.search_width", "4", "--steps", "1", "--quiet"]
    assert cli.main([*lm, *method, "--seed", str(2**64 - 1)]) == 0
    capsys.readouterr()
    assert cli.main([*lm, *method, "--seed", str(2**64)]) == 2
    assert "options: seed=18446744073709551616; expected at most 184" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["build", "doctor"])
@pytest.mark.parametrize("flag", ["min-count", "max-words", "max-tokens"])
def test_words_and_their_tokens_are_bounded_before_the_work(capsys, verb, flag, tmp_path):
    """A bundle has no word of more tokens; it was said after all words were tokenized."""
    models = [verb, "no/source", "no/target"]
    given = [*models, *(["--out", str(tmp_path / "b")] if verb == "build" else [])]
    beyond = MAX_WORD_TOKENS + 1 if flag == "max-tokens" else 10**30
    assert cli.main([*given, f"--{flag}", str(beyond)]) == 2
    error = capsys.readouterr().err
    assert f"{flag.replace('-', '_')}={beyond}; expected at most" in error


@pytest.mark.parametrize(
    ("flag", "said"), [("min-group", "min_words"), ("max-group", "max_words"), ("seed", "seed")]
)
def test_what_a_fit_counts_is_bounded_before_the_work(capsys, flag, said, tmp_path):
    build = ["build", "no/source", "no/target", "--out", str(tmp_path / "b")]
    assert cli.main([*build, f"--{flag}", "1" + "0" * 30]) == 2
    assert f"{said}=1{'0' * 30}; expected at most" in capsys.readouterr().err


def test_the_weight_that_overflowed(capsys):
    lm = ["optimize", "--model", "lm=demo:lm", "--initial", "a red circle", "--steps", "1"]
    objective = ["--objective", "{type: fluency, weight: 1.0e+308}", "--method", "random"]
    assert cli.main([*lm, *objective]) == 2
    error = capsys.readouterr().err
    assert error.endswith("weight=1e+308; expected at most 1e+12\n")
