"""The same run as nanoGCG 0.3.0: the same losses with the same draws, on a chat model."""

from __future__ import annotations

import copy
import gc
import logging
from typing import Any

import pytest
import torch
import transformers

from fuse_index import wrap_model
from fuse_index.demo import DemoModel, model_name
from fuse_index.objectives import TargetContinuation
from fuse_index.optimize import GCG, Budget, Greedy, Problem, RunOptions, Term, optimize

pytestmark = pytest.mark.skipif(
    "messages" not in TargetContinuation.__dataclass_fields__, reason="needs objectives of chats"
)

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = {"role": "system", "content": "you see a small red circle"}
QUESTION = "what is above the large blue square?"
TARGET = "a green star below the happy yellow triangle"
START = " ".join("x" * 10)
STEPS, WIDTH, TOP_K = 20, 32, 64


def chat_model() -> tuple[Any, Any]:
    """Random weights and the packaged model's tokenizer, with the special tokens of a chat."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_name(DemoModel.LM))
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"})
    tokenizer.chat_template = CHATML
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval(), tokenizer


def theirs(net: Any, tokenizer: Any, seed: int, **options: Any) -> list[float]:
    nanogcg = pytest.importorskip("nanogcg", reason="needs nanogcg 0.3.0 (pip install --no-deps)")
    config = nanogcg.GCGConfig(
        num_steps=STEPS,
        optim_str_init=START,
        search_width=WIDTH,
        topk=TOP_K,
        seed=seed,
        use_prefix_cache=False,  # its cache is that of transformers before 4.48
        verbosity="ERROR",
        **options,
    )
    messages = [SYSTEM, {"role": "user", "content": QUESTION + "{optim_str}"}]
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            return list(nanogcg.run(net, tokenizer, messages, TARGET, config).losses)
        finally:
            torch.use_deterministic_algorithms(deterministic)


def ours(net: Any, tokenizer: Any, seed: int, *, filters: bool, **options: Any) -> list[float]:
    messages = [SYSTEM, {"role": "user", "content": QUESTION + "{prompt}"}]
    with wrap_model(net, tokenizer) as model:
        objective = TargetContinuation(messages=messages, target=TARGET, **options)
        result = optimize(
            Problem(model, [Term(objective, model)]),
            [model.words.encode_text(START)],
            method=GCG(search_width=WIDTH, top_k=TOP_K, draw="uniform", positions=0, memory=0),
            search=Greedy(keep_current=False),
            budget=Budget(steps=STEPS),
            options=RunOptions(seed=seed, check_retokenization=filters),
        )
    return [point.total for point in result.trajectory[1:]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """NanoGCG collects garbage twice a step, and logs and draws bars."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    logging.getLogger("nanogcg").propagate = False


MELLOWMAX = ({"use_mellowmax": True}, {"loss": "mellowmax"})


@pytest.mark.parametrize(
    ("their_options", "our_options"),
    [({}, {}), pytest.param(*MELLOWMAX, marks=pytest.mark.slow)],
    ids=["cross entropy", "mellowmax"],
)
def test_same_draws_give_the_same_losses(
    their_options: dict[str, Any], our_options: dict[str, Any]
) -> None:
    net, tokenizer = chat_model()
    wanted = theirs(net, copy.deepcopy(tokenizer), 3, filter_ids=False, **their_options)
    found = ours(net, tokenizer, 3, filters=False, **our_options)
    assert len(wanted) == STEPS
    assert wanted[-1] < wanted[0] - 0.5
    assert found == pytest.approx(wanted, abs=1e-5)
