"""Conversations: rendered by chat templates, in the tokens that transformers gives."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fuse_index.errors import ModelError, OptionError
from fuse_index.models.chat import DATE, Message, with_date
from fuse_index.objectives import Fluency, TargetContinuation, objective_from_json
from fuse_index.optimize import GCG, Budget, Problem, RandomSearch, Term, optimize
from fuse_index.optimize.survival import PromptCheck
from fuse_index.run import StartConfig, initial_prompts
from fuse_index.words.ragged import Ragged
from tests.models.pasting import talking

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' ~ messages[0].content ~ "
    "'\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ "
    "((system if loop.first else '') ~ m.content) | trim ~ ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim ~ ' ' ~ eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}<|im_start|>system\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = "
    "messages[1:] %}{% endif %}<|im_end|>{% for m in messages %}<|im_start|>{{ m.role }}\n\n"
    "{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
SWALLOWS = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role == 'user' %}")
REPEATS = CHATML.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}")
SHOUTS = CHATML.replace("{{ m.content }}", "{{ m.content | upper }}")
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "gemma": GEMMA}
NAMES = ["gpt2", "smollm", "llama", "mistral", "gemma", "bert-cased"]
CONTENTS = ["{prompt}", "Tell of {prompt}.", "Text:\n{prompt}\nGo on:"]
TARGET = "Sure, the dog"


def fixed(messages: list[dict[str, str]], prompt: str) -> list[dict[str, str]]:
    return [{**m, "content": m["content"].replace("{prompt}", prompt)} for m in messages]


def library(model: Any, messages: list[dict[str, str]], prompt: str) -> tuple[str, list[int]]:
    """What transformers renders for the prompt, and its tokens."""
    options: dict[str, Any] = {"add_generation_prompt": True}
    render = model.tokenizer.apply_chat_template
    filled = fixed(messages, prompt)
    text = render(filled, tokenize=False, **options)
    return text, render(filled, tokenize=True, return_dict=False, **options)


def library_loss(model: Any, text: str, known: int) -> float:
    whole = model.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    labels = whole.clone()
    labels[:, :known] = -100
    with torch.no_grad():
        return float(model.module(whole, labels=labels).loss)


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day that the library's own rendering is made on."""
    now = SimpleNamespace(now=lambda *_: DATE)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", now)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_loss_are_those_of_transformers(name: str, template: str) -> None:
    model = talking(name, TEMPLATES[template])
    for content in CONTENTS:
        messages = [{"role": "user", "content": content}]
        if template != "gemma":
            messages.insert(0, {"role": "system", "content": "Be brief."})
        goal = TargetContinuation(messages=messages, target=TARGET)
        problem = Problem(model, [Term(goal, model)])
        ids, loss = problem.encode("two children play"), problem.losses[0]
        assert PromptCheck(problem)(ids), (content, problem.full_texts(ids))
        text, tokens = library(model, messages, problem.decode(ids))
        assert problem.full_texts(ids) == {"continuation": text + TARGET}
        around = loss.surroundings
        batch = loss.batch([list(ids)])
        joined = model.tokenizer(text + TARGET, add_special_tokens=False)["input_ids"]
        assert batch.ids[0].tolist() == joined
        assert batch.ids[0, : len(tokens)].tolist() == tokens or template == "llama2"
        known = len(joined) - len(around.target_ids)
        told = float(loss.score([list(ids)]))
        assert told == pytest.approx(library_loss(model, text + TARGET, known), abs=1e-4)


def test_special_tokens_are_not_written_twice() -> None:
    model = talking("mistral", GEMMA)
    head = model.frame.head
    messages = [{"role": "user", "content": "{prompt}"}]
    batch = Fluency(messages=messages).prepare(model).batch([[9]])
    assert batch.ids[0].tolist().count(head[0]) == 1
    plain = Fluency(prefix="<s>a", special_tokens=True).prepare(model)
    assert plain.batch([[9]]).ids[0].tolist().count(head[0]) == 1
    assert Fluency(prefix="<s>a").prepare(model).batch([[9]]).ids[0, 1] != head[0], "it is text"


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_of_prefix_and_suffix_count(name: str) -> None:
    model = talking(name, CHATML)
    before, after = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    goal = {"prefix": before, "suffix": after, "target": TARGET}
    messages = [{"role": "user", "content": "{prompt}"}]
    chat = TargetContinuation(messages=messages, target=TARGET).surround(model, TARGET)
    plain = TargetContinuation(**goal, special_tokens=True).surround(model, TARGET)
    assert (plain.before, plain.after, plain.target_ids) == (
        chat.before,
        chat.after,
        chat.target_ids,
    )
    assert plain.frame == model.frame
    start = model.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert start in plain.before
    assert start not in TargetContinuation(**goal).surround(model, TARGET).before


def test_a_prompt_that_spells_a_special_token_is_refused() -> None:
    model = talking("gpt2", CHATML)
    goal = TargetContinuation(messages=[{"role": "user", "content": "{prompt}"}], target=TARGET)
    check = PromptCheck(Problem(model, [Term(goal, model)]))
    spelled = tuple(model.words.encode_text(" a<|im_end|>"))
    assert not set(spelled) & model.words.special_ids
    assert not check(spelled)
    assert check(tuple(model.words.encode_text(" a dog")))


@pytest.mark.parametrize(
    ("writer", "reader"), [("gpt2", "gemma"), ("gemma", "gpt2"), ("t5", "llama")]
)
def test_models_with_templates_of_their_own_read_one_prompt(writer: str, reader: str) -> None:
    source, other = talking(writer, CHATML), talking(reader, GEMMA)
    messages = [{"role": "user", "content": "{prompt}"}]
    goal = TargetContinuation(messages=messages, target=TARGET)
    problem = Problem(source, [Term(goal, source), Term(goal, other)])
    ids = problem.encode("two children play")
    assert PromptCheck(problem)(ids)
    for term, model in enumerate((source, other)):
        text, _ = library(model, messages, problem.decode(ids))
        assert problem.full_texts(ids)[f"continuation {term + 1}"] == text + TARGET
        loss, prompts = problem.losses[term], Ragged.from_lists([list(ids)])
        told = float(loss.score(problem.targets[term].read(prompts).contents))
        whole = model.tokenizer(text + TARGET, add_special_tokens=False)["input_ids"]
        known = len(whole) - len(loss.surroundings.target_ids)
        assert told == pytest.approx(library_loss(model, text + TARGET, known), abs=1e-4)


def test_a_run_ends_with_a_prompt_that_is_read_as_scored() -> None:
    model = talking("gemma", GEMMA)  # the template takes the first space off
    goal = TargetContinuation(messages=[{"role": "user", "content": "{prompt}"}], target=TARGET)
    problem = Problem(model, [Term(goal, model)])
    method = GCG(search_width=24, top_k=16)
    result = optimize(problem, "two children play", method=method, budget=Budget(3))
    assert result.text == result.text.strip()
    text, _ = library(model, [{"role": "user", "content": "{prompt}"}], result.text)
    assert result.full_texts["continuation"] == text + TARGET
    known = -len(problem.losses[0].surroundings.target_ids)
    assert result.total == pytest.approx(library_loss(model, text + TARGET, known), abs=1e-4)


@pytest.mark.parametrize("draw", ["uniform", "model"])
def test_drawn_prompts_begin_as_the_template_lets_them(draw: str) -> None:
    model = talking("gemma", GEMMA)
    goal = TargetContinuation(messages=[{"role": "user", "content": "{prompt}"}], target=TARGET)
    problem = Problem(model, [Term(goal, model)])
    found = initial_prompts(problem, StartConfig(length=4, count=3, draw=draw), 0)
    assert len(found) == 3
    check = PromptCheck(problem)
    assert all(check(ids) for ids in found), [problem.decode(ids) for ids in found]
    assert problem.encode(" dogs") == problem.encode("dogs")


def test_a_space_before_the_prompt_is_not_doubled() -> None:
    for name in ("gpt2", "gemma", "llama", "bert-cased"):
        model = talking(name, CHATML)
        goal = Fluency(messages=[{"role": "user", "content": "Tell of {prompt}."}])
        problem = Problem(model, [Term(goal, model)])
        ids = problem.encode("two dogs")
        assert problem.decode(ids) == "two dogs"
        assert "Tell of two dogs." in problem.full_texts(ids)["fluency"]


def test_words_move_inside_a_prompt_that_begins_without_a_space() -> None:
    model = talking("gemma", GEMMA)
    goal = TargetContinuation(messages=[{"role": "user", "content": "{prompt}"}], target=TARGET)
    problem = Problem(model, [Term(goal, model)], words=["dog", "boat", "grass", "river"])
    assert problem.word_units.words == ("dog", "boat", "grass", "river")
    method = RandomSearch(unit="word", search_width=12)
    result = optimize(problem, "two children play", method=method, budget=Budget(4))
    assert set(result.text.split()[1:]) & {"dog", "boat", "grass", "river"}
    assert PromptCheck(problem)(result.ids)


def test_templates_with_a_date_render_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    later = SimpleNamespace(now=lambda *_: datetime(2031, 5, 4, tzinfo=timezone.utc))
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", later)
    model = talking("gpt2", LLAMA3)
    goal = Fluency(messages=[{"role": "user", "content": "{prompt}"}])
    before = goal.surround(model).text_before
    assert "\n\nToday Date: 26 Jul 2024\n\n" in before
    text, _ = library(model, [{"role": "user", "content": "{prompt}"}], "")
    assert "Today Date: 04 May 2031" in text
    assert text.startswith(before.replace("26 Jul 2024", "04 May 2031"))
    odd = with_date("  {% if true %}\n a{% endif %}{{ strftime_now('%-d.%-m.%Y %H %% %A') }}")
    plain = odd.split("{{ '' }}")[0]
    assert plain.startswith("{%- macro strftime_now")
    model.tokenizer.chat_template, kept = odd, model.tokenizer.chat_template
    try:
        found = model.tokenizer.apply_chat_template([{"role": "a", "content": ""}], tokenize=False)
    finally:
        model.tokenizer.chat_template = kept
    assert found == " a26.7.2024 00 % Friday"


def test_without_a_generation_prompt() -> None:
    model = talking("gpt2", CHATML)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{prompt}"}]
    around = Fluency(messages=messages, add_generation_prompt=False).surround(model)
    assert around.text_before.endswith("assistant\n")
    assert around.text_after == "<|im_end|>\n"


def test_messages_are_options() -> None:
    goal = Fluency(messages=[{"role": "user", "content": "{prompt}"}])
    assert goal.messages == (Message(role="user", content="{prompt}"),)
    assert objective_from_json(goal.to_json()) == goal
    with pytest.raises(OptionError, match=r"messages with no \{prompt\}; expected exactly one"):
        Fluency(messages=[{"role": "user", "content": "hello"}])
    with pytest.raises(OptionError, match=r"messages with 2 \{prompt\}; expected exactly one"):
        Fluency(messages=[{"role": "user", "content": "{prompt}, {prompt}"}])
    with pytest.raises(OptionError, match="fluency: messages beside a prefix or suffix; expected"):
        Fluency(messages=[{"role": "user", "content": "{prompt}"}], prefix="a")
    with pytest.raises(
        OptionError, match=r"fluency: no messages.0.content; expected content to be"
    ):
        Fluency(messages=[{"role": "user"}])


@pytest.mark.parametrize(
    ("template", "role", "message"),
    [
        (
            SWALLOWS,
            "system",
            r"leaves out or alters \{prompt\} of the system message; expected a ren",
        ),
        (SHOUTS, "user", r"leaves out or alters \{prompt\} of the user message; expected"),
        (REPEATS, "user", r"repeats \{prompt\} of the user message; expected"),
        (GEMMA, "system", r"refuses the messages: System role not supported; expected roles"),
        ("{{ messages[7].content.x }}", "user", "chat template refuses the messages: .*; expected"),
        ("{% for %}", "user", "its chat template refuses the messages: .*; expected roles"),
        (None, "user", "messages, but its tokenizer has no chat template; expected a model with"),
    ],
)
def test_what_a_template_cannot_do_is_one_line(template: Any, role: str, message: str) -> None:
    model = talking("gpt2", template)
    goal = Fluency(messages=[{"role": role, "content": "so {prompt}"}])
    with pytest.raises(ModelError, match=message) as error:
        goal.prepare(model)
    assert "\n" not in str(error.value)


def test_a_template_that_refuses_some_prompts_loses_them() -> None:
    picky = CHATML.replace(
        "{{ m.content }}",
        "{% if 'dog' in m.content %}{{ raise_exception('no dogs') }}{% endif %}{{ m.content }}",
    )
    model = talking("gpt2", picky)
    goal = Fluency(messages=[{"role": "user", "content": "{prompt}"}])
    check = PromptCheck(Problem(model, [Term(goal, model)]))
    assert check(check.problem.encode("two children"))
    assert not check(check.problem.encode("two dogs"))
