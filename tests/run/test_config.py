"""Run files: what they may say, mistakes in them, flags over them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from fuse_index.common.reading import FlagText
from fuse_index.errors import OptionError
from fuse_index.models import ModelKind
from fuse_index.objectives import OBJECTIVES, TokenReduction
from fuse_index.optimize import METHODS, SEARCHES, Budget
from fuse_index.run import load_file, override, read_run
from fuse_index.run.captions import IMAGE_WEIGHT, TYPICAL_TOKENS, read_captions
from fuse_index.run.config import Precision, StartDraw
from fuse_index.run.describe import describe_captions, describe_fields

RUN = {
    "models": {
        "lm": "gpt2",
        "clip": {"model": "open_clip:ViT-B-32", "kind": "clip", "dtype": "bfloat16"},
    },
    "objectives": [
        {"type": "fluency", "model": "lm", "prefix": "Hi. "},
        {"type": "image", "model": "clip", "weight": 22, "images": "a.png"},
    ],
    "initial": "a picture",
    "method": {"type": "gcg", "search_width": 64},
    "search": "beam",
    "budget": {"steps": None, "seconds": 5},
    "tokens": {"words_only": True, "deny_ids": [3]},
}


def changed(**sections):
    return {**json.loads(json.dumps(RUN)), **sections}


def test_a_whole_file():
    run = read_run(RUN)
    assert run.source == "lm"
    assert run.models["lm"].model == "gpt2"
    assert run.models["clip"].kind is ModelKind.CLIP
    assert run.models["clip"].dtype is Precision.BFLOAT16
    assert [item.model for item in run.objectives] == ["lm", "clip"]
    assert run.objectives[1].objective == OBJECTIVES["image"](weight=22.0, images="a.png")
    assert run.initial.texts == ("a picture",)
    assert run.method == METHODS["gcg"](search_width=64)
    assert run.search == SEARCHES["beam"]()
    assert (run.budget.steps, run.budget.seconds) == (None, 5.0)
    assert run.tokens.words_only
    assert run.tokens.deny_ids == (3,)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_named(name):
    assert read_run(changed(method=name)).method == METHODS[name]()


def test_options_of_a_method_without_a_type_are_those_of_gcg():
    assert read_run(changed(method={"search_width": 8})).method == METHODS["gcg"](search_width=8)
    with pytest.raises(OptionError, match=r"method \(gcg\): field 'search_with' is unknown"):
        read_run(changed(method={"search_with": 8}))


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_can_be_named(name):
    assert read_run(changed(search={"type": name})).search == SEARCHES[name]()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"modles": {}}, "section 'modles' is unknown; expected one of"),
        ({"modles": {}}, "did you mean 'models'?"),
        ({"models": {}}, "no models; expected at least one"),
        ({"models": ["gpt2"]}, "models: ['gpt2']; expected a mapping of names to values"),
        ({"models": {"lm": {"modell": "x"}}}, "models.lm: field 'modell' is unknown"),
        ({"models": {"lm": {"model": "x", "kind": "big"}}}, "models.lm.kind: 'big'; expected one"),
        ({"objectives": []}, "no objectives; expected at least one"),
        ({"objectives": [{"type": "fluensy", "model": "lm"}]}, "did you mean 'fluency'?"),
        ({"objectives": [{"type": "fluency"}]}, "objectives[0]: no model; expected one of lm, cl"),
        (
            {"objectives": [{"type": "fluency", "model": "ml"}]},
            "objectives[0]: model 'ml' is unknown; expected one of lm, clip; did you mean 'lm'?",
        ),
        (
            {"objectives": [{"type": "label", "model": "lm"}]},
            "objectives[0] (label): no 'label'; expected label to be given",
        ),
        (
            {"objectives": [{"type": "fluency", "model": "lm", "weigth": 2}]},
            "objectives[0] (fluency): field 'weigth' is unknown",
        ),
        ({"source": "the lm"}, "source: model 'the lm' is unknown; expected one of lm, clip"),
        ({"method": "gcq"}, "method: type 'gcq' is unknown"),
        ({"method": {"type": "gcg", "topk": 3}}, "did you mean 'top_k'?"),
        (
            {"method": {"type": "gcg", "search_width": 0}},
            "method (gcg): search_width=0; expected at least 1",
        ),
        ({"search": {"type": "greedy", "width": 3}}, "search (greedy): field 'width' is unknown"),
        ({"budget": {"steps": -1}}, "budget: steps=-1; expected at least 1"),
        ({"budget": {"step": 3}}, "budget: field 'step' is unknown"),
        ({"initial": {"length": 0}}, "initial: length=0; expected at least 1"),
        ({"initial": {"draw": "best"}}, "initial.draw: 'best'; expected one of uniform, model"),
        ({"initial": [" "]}, "initial: an empty text"),
        ({"tokens": {"deny_pattern": "("}}, "deny_pattern '('"),
        ({"adapters": {"corpus": "a", "words": "b"}}, "adapters: both corpus and words"),
        ({"options": {"seed": "one"}}, "options.seed: 'one'; expected a whole number"),
        ({"probe": {"share": 0.1}}, "probe: no objectives; expected the draft's objectives"),
    ],
)
def test_mistakes(sections, message):
    with pytest.raises(OptionError) as caught:
        read_run(changed(**sections))
    assert message in str(caught.value)


def test_the_draft_of_probe_sampling():
    draft = {"objectives": [{"type": "fluency", "model": "lm"}], "reduction": 4}
    probe = read_run(changed(probe=draft)).probe
    assert probe.reduction == 4.0
    assert probe.objectives[0].objective == OBJECTIVES["fluency"]()


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Write of {prompt}."},
]


def test_conversations():
    objectives = [{"type": "continuation", "model": "lm", "messages": MESSAGES, "target": "Sure"}]
    goal = read_run(changed(objectives=objectives)).objectives[0].objective
    assert [(item.role, item.content) for item in goal.messages] == [
        ("system", "Be brief."),
        ("user", "Write of {prompt}."),
    ]
    text = FlagText("{type: fluency, messages: [{role: user, content: 'so {prompt}'}]}")
    (item,) = read_run({"models": {"lm": "gpt2"}, "objectives": [text]}).objectives
    assert item.objective.messages[0].content == "so {prompt}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"messages": MESSAGES[:1]}, r"messages with no {prompt}; expected exactly one {prompt}"),
        ({"messages": MESSAGES[1:] * 2}, r"messages with 2 {prompt}; expected exactly one"),
        (
            {"messages": MESSAGES, "suffix": "a"},
            r"\(fluency\): messages beside a prefix or suffix; exp",
        ),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: no 'content'; expected content to be"),
        ({"messages": [{"role": "user", "text": "a"}]}, r"messages\[0\]: field 'text' is unknown"),
        ({"messages": "{prompt}"}, r"messages\[0\]: '{prompt}'; expected a mapping of names"),
    ],
)
def test_mistakes_in_conversations(options, message):
    with pytest.raises(OptionError, match=message):
        read_run(changed(objectives=[{"type": "fluency", "model": "lm", **options}]))


def test_yaml_and_json_say_the_same(tmp_path):
    import yaml

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False), encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    assert read_run(load_file(tmp_path / "run.yaml")) == read_run(RUN)
    assert read_run(load_file(tmp_path / "run.json")) == read_run(RUN)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.yaml", "models: [", "line 1"),
        ("run.yaml", "a\tb: {", "run.yaml"),
        ("run.yaml", "- a\n- b\n", "holds a list; expected a mapping"),
        ("run.yaml", "!!python/object/apply:os.getcwd []", "run.yaml"),
        ("run.json", "{", "run.json"),
        ("run.yaml", b"\xff\xfe\x00", "is no UTF-8 text"),
        ("run.yaml", "models: {}\nmodels: {}", "run.yaml, line 2: key 'models' stands twice"),
        ("run.json", '{"a": 1, "a": 2}', "run.json, line 1: key 'a' stands twice"),
        ("run.yaml", "a: " + "[" * 5000, "run.yaml, line 1: nested too deeply; expected at most"),
        ("run.json", '{"a": ' + "[" * 5000, "run.json: nested too deeply; expected at most"),
        ("run.yaml", "budget: !!timestamp 2024-99-99", "line 1: tag !!timestamp; expected texts"),
        ("run.json", '{"a": ' + "9" * 5000 + "}", "run.json: a number of 5,000 characters"),
        ("run.yaml", " " * (16 << 20) + "a", "run.yaml; expected at most 16,777,216 bytes"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OptionError) as caught:
        load_file(path)
    assert message in str(caught.value)
    with pytest.raises(OptionError, match="No such file"):
        load_file(tmp_path / "nothing.yaml")


def over(*settings):
    value = changed()
    texts = [(path, FlagText(item) if isinstance(item, str) else item) for path, item in settings]
    override(value, texts)
    return read_run(value)


def test_settings_reach_every_kind_of_field():
    run = over(
        ("budget.steps", "7"),
        ("models.lm.dtype", "float16"),
        ("models.new", "some/model"),
        ("objectives.0.weight", "2"),
        ("objectives.image.images", "[b.png, c.png]"),
        ("method.top_k", "5"),
        ("search.width", "9"),
        ("options.seed", "3"),
        ("initial.length", "4"),
        ("tokens.deny_ids", "[1, 2]"),
    )
    assert run.budget.steps == 7
    assert run.models["lm"].model == "gpt2"
    assert run.models["lm"].dtype is Precision.FLOAT16
    assert run.models["new"].model == "some/model"
    assert run.objectives[0].objective.weight == 2.0
    assert run.objectives[1].objective.images == ("b.png", "c.png")
    assert run.method == METHODS["gcg"](search_width=64, top_k=5)
    assert run.search == SEARCHES["beam"](width=9)
    assert run.options.seed == 3
    assert run.initial.length == 4
    assert run.tokens.deny_ids == (1, 2)


@pytest.mark.parametrize("name", ["my-lm", "my_lm", "qwen2.5", "a.b.c-d", "org/M-2.5_x", "dtype"])
@pytest.mark.parametrize("short", [False, True])
def test_names_of_models_are_taken_whole(name, short):
    given = "gpt2" if short else {"model": "gpt2"}
    fluency = {"type": "fluency", "model": name}
    value = {"models": {"other": "x", name: given}, "objectives": [fluency], "initial": "a"}
    override(value, [(f"models.{name}.dtype", FlagText("float16"))])
    assert read_run(value).models[name].dtype is Precision.FLOAT16
    override(value, [(f"models.{name}", FlagText("some/model"))])
    assert (read_run(value).models[name].model, set(value["models"])) == (
        "some/model",
        {"other", name},
    )


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("models.qwen2.5", {"qwen2.5"}),
        ("models.qwen2.5.model", {"qwen2.5"}),
        ("models.a-b.model", {"a-b"}),
        (("models", "x.model"), {"x.model"}),
    ],
)
def test_a_model_that_is_new_is_named_whole(path, names):
    value = {"objectives": [{"type": "fluency"}], "initial": "a"}
    override(value, [(path, "demo")])
    run = read_run(value)
    assert set(run.models) == names
    assert {item.model for item in run.models.values()} == {"demo"}


def test_the_longest_known_name_is_meant():
    value = {"models": {"a": "x", "a.b": "y"}}
    override(value, [("models.a.b.dtype", "float16"), ("models.a.dtype", "bfloat16")])
    assert value["models"] == {
        "a": {"model": "x", "dtype": "bfloat16"},
        "a.b": {"model": "y", "dtype": "float16"},
    }


def test_fields_may_be_written_with_hyphens():
    assert over(("method.top-k", "5")).method == METHODS["gcg"](search_width=64, top_k=5)
    value = {"models": {"my_lm": "x"}}
    override(value, [("models.my-lm.dtype", "float16")])
    assert value["models"] == {"my_lm": {"model": "x", "dtype": "float16"}}
    with pytest.raises(OptionError, match="did you mean 'dtype'"):
        over(("models.lm.dtpye", "float16"))
    with pytest.raises(OptionError, match="did you mean 'dtype'"):
        over(("models.new.dtpye", "float16"))


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("method", "{type: gcg, top_k: 1, top_k: 2}", "key 'top_k' stands twice"),
        ("models.lm", "{model: a, model: b}", "key 'model' stands twice"),
        ("models", "{a: x, a: y}", "key 'a' stands twice"),
        ("objectives.0", "{type: fluency, type: kl, model: lm}", "key 'type' stands twice"),
        ("initial", "{length: 3, length: 4}", "key 'length' stands twice"),
        ("method", "[" * 5000, "nested too deeply"),
        ("budget", f"{{steps: {'9' * 5000}}}", "a number of 5,000 characters"),
        ("options.seed", "9" * 5000, "options.seed: '9999"),
        ("objectives." + "1" * 5000, "{type: kl}", "is none of 2 entries"),
    ],
)
def test_structures_on_the_command_line_are_read_as_strictly(path, text, message):
    with pytest.raises(OptionError) as caught:
        over((path, text))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_another_type_drops_the_options_of_the_old_one():
    assert over(("method.type", "random")).method == METHODS["random"]()
    assert over(("method.type", "gcg")).method == METHODS["gcg"](search_width=64)
    assert over(("method.type", "random"), ("method.search_width", "3")).method == METHODS[
        "random"
    ](search_width=3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("objectives.7.weight", "'7' is none of 2 entries; expected a number from 0 to 1"),
        ("objectives.label.weight", "'label' is none of 2 entries"),
        ("budget..steps", "expected a path such as budget.steps"),
        ("bugdet.steps", "section 'bugdet' is unknown"),
    ],
)
def test_settings_that_lead_nowhere(path, message):
    with pytest.raises(OptionError) as caught:
        over((path, "1"))
    assert message in str(caught.value)


def test_captions_have_defaults_of_their_own():
    run = read_captions({"lm": "gpt2", "clip": "open_clip:ViT-B-32"})
    assert (run.lm.weight, run.clip.weight) == (1 / TYPICAL_TOKENS, IMAGE_WEIGHT)
    assert (run.lm.reduction, run.lm.include_end) == (TokenReduction.SUM, None)
    assert (run.method, run.search) == (None, None)
    assert run.budget == Budget(forward_passes=1500)
    assert (run.initial.wanted, run.initial.draw) == (1, StartDraw.MODEL)
    other = read_captions(
        {"lm": "gpt2", "clip": {"model": "x", "weight": 3}, "initial": {"length": 5}}
    )
    assert (other.initial.length, other.initial.draw) == (5, StartDraw.MODEL)
    assert other.clip.weight == 3.0


@pytest.mark.parametrize("name", ["steps", "seconds", "forward_passes"])
def test_a_limit_that_is_given_is_the_only_one(name):
    budget = {name: 20000}
    only = Budget(**budget)
    assert read_run(changed(budget=budget)).budget == only
    captions = {"lm": "gpt2", "clip": "x", "budget": budget}
    assert read_captions(captions).budget == only
    assert only.step_limit == (20000 if name == "steps" else None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"clip": "x"}, "no lm; expected a model"),
        ({"lm": "x"}, "no clip; expected a model"),
        ({"lm": "x", "clip": "y", "classifier": "z"}, "a classifier without a label"),
        ({"lm": "x", "clip": "y", "judge": "z"}, "section 'judge' is unknown"),
        ({"lm": "x", "clip": {"model": "y", "wight": 2}}, "did you mean 'weight'?"),
    ],
)
def test_mistakes_in_captions(value, message):
    with pytest.raises(OptionError) as caught:
        read_captions(value)
    assert message in str(caught.value)


def test_every_field_is_described():
    sections = dict(describe_fields())
    for registry, section in ((METHODS, "method"), (SEARCHES, "search")):
        for name, cls in registry.items():
            (rows,) = [v for k, v in sections.items() if k.startswith(f"{section}, type {name}")]
            assert [row[0] for row in rows] == [item.name for item in fields(cls)]
            assert all(row[3] for row in rows), name
    for name, rows in [*describe_fields(), *describe_captions()]:
        assert all(all((row[0], row[1], row[3])) for row in rows), name
        # methods and searches are chosen where none is given
        assert "(the default)" not in name


def test_the_documentation_has_every_field():
    """``python tools/document_run.py`` writes the tables."""
    text = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")
    for title, rows in [*describe_fields(), *describe_captions()]:
        for name, *_ in rows:
            assert f"| `{name}` |" in text, title
    for title, rows in describe_fields():
        for name, kind, default, meaning in rows:
            assert f"| `{name}` | {kind} | {default} | {meaning} |" in text, (title, name)
    for name in (*OBJECTIVES, *METHODS, *SEARCHES):
        assert f"type {name}" in text
