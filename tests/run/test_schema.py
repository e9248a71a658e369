"""The JSON schema of run files: valid itself, and of one opinion with the reader."""

from __future__ import annotations

import json

import jsonschema
import pytest

from fuse_index.cli.main import main
from fuse_index.errors import OptionError
from fuse_index.objectives import OBJECTIVES
from fuse_index.optimize import METHODS, SEARCHES
from fuse_index.run import CaptionConfig, RunConfig, read_captions, read_run
from fuse_index.run.schema import run_schema
from tests.run.test_config import RUN, changed

VALIDATOR = jsonschema.Draft202012Validator


@pytest.mark.parametrize("cls", [RunConfig, CaptionConfig])
def test_the_schema_is_one(cls):
    VALIDATOR.check_schema(run_schema(cls))


@pytest.mark.parametrize(
    "run",
    [
        RUN,
        changed(objectives=RUN["objectives"][0]),
        changed(initial={"texts": ["a", "b"]}, budget=50, method="gcg", search={"type": "beam"}),
        changed(
            probe={"objectives": [{"type": "fluency", "model": "lm"}]}, adapters={"corpus": "a"}
        ),
    ],
)
def test_what_can_be_read_is_valid(run):
    read_run(run)
    assert VALIDATOR(run_schema(RunConfig)).is_valid(run)


@pytest.mark.parametrize(
    "sections",
    [
        {"modles": {}},
        {"models": {"lm": {"modell": "x"}}},
        {"models": {"lm": {"model": "x", "kind": "big"}}},
        {"objectives": [{"type": "fluensy", "model": "lm"}]},
        {"objectives": [{"type": "label", "model": "lm"}]},
        {"objectives": [{"type": "fluency", "model": "lm", "weigth": 2}]},
        {"method": "gcq"},
        {"method": {"type": "gcg", "topk": 3}},
        {"initial": {"length": 0}},
        {"initial": {"draw": "best"}},
        {"options": {"seed": "one"}},
    ],
)
def test_mistakes_are_not_valid(sections):
    with pytest.raises(OptionError):
        read_run(changed(**sections))
    assert not VALIDATOR(run_schema(RunConfig)).is_valid(changed(**sections))


def test_a_captioning_file():
    run = {"lm": "gpt2", "clip": {"model": "x", "weight": 3}, "budget": {"steps": 5}}
    assert read_captions(run).clip.weight == 3.0
    assert VALIDATOR(run_schema(CaptionConfig)).is_valid(run)


def test_every_type_and_field_is_described():
    defined = run_schema(RunConfig)["$defs"]
    for registry in (METHODS, SEARCHES, OBJECTIVES):
        for name, cls in registry.items():
            properties = defined[cls.__name__]["properties"]
            assert properties.pop("type") == {"const": name}
            properties.pop("model", None)
            assert all(item["description"] for item in properties.values()), name
            assert defined[cls.__name__]["description"]


@pytest.mark.parametrize(("verb", "section"), [("optimize", "models"), ("caption", "clip")])
def test_the_command_line_prints_it(verb, section, capsys):
    assert main([verb, "--schema"]) == 0
    assert section in json.loads(capsys.readouterr().out)["properties"]
