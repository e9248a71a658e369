"""Times the retokenizer against decoding and encoding with the tokenizers, in the same run.

The case is an optimizer's step: 512 candidates that each differ in one token from one prompt of 20
tokens. The baseline is what one writes without it: ``source.batch_decode`` and a call of the
target's tokenizer. Three kinds of step are timed: the same candidates again, candidates drawn anew
from 256 proposals for each place (after 20 such steps), and candidates never seen before, whose new
words the target's tokenizer must be asked for. Plain parts are timed by themselves, by the encoder
in C++ and by the tokenizer. Results are compared with the tokenizers' first.

The tokenizers are those of ``../shared/models`` where they are there, else small ones trained on
the help texts of Python, and open_clip's own. Runs with no arguments; ``--json`` for machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import compress, count
from typing import Any

import _bench
import numpy as np

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuse_index.words.retokenize.plain_encoder import plain_encoder_of, probe_texts
from fuse_index.words.retokenize.retokenizer import Retokenizer, RetokenizerOptions
from fuse_index.words.tokenizers.tokenization import WordTokenizer

MODELS = _bench.ROOT.parent / "shared" / "models"
PROMPT = (
    "a photo of two brown dogs running over the wet grass near an old wooden boat in the morning "
    "sun with some people behind them and a red ball in the air"
)
CANDIDATES, TOKENS, PROPOSALS = 512, 20, 256
REPEATS = 30


@dataclass(frozen=True)
class Target:
    """A target tokenizer, how its users call it, and the ratio to reach."""

    name: str
    tokenizer: Any
    call: Callable[[list[str]], Any]
    goal: float


def load(folder: str, train: Callable[[], Any]) -> Any:
    """Return a real tokenizer, or a small one where the models are not there."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = MODELS / folder
    if path.is_dir():
        return AutoTokenizer.from_pretrained(path)
    return PreTrainedTokenizerFast(tokenizer_object=train())


def help_texts() -> Iterator[str]:
    """Yield a megabyte of English that every Python has."""
    from pydoc_data.topics import topics

    return iter(topics.values())


def train_byte_level() -> Any:
    """Train a small byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(help_texts(), trainer)
    return tokenizer


def train_word_piece() -> Any:
    """Train a small WordPiece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=8000, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(help_texts(), trainer)
    return tokenizer


def targets() -> list[Target]:
    """Return the WordPiece and the CLIP tokenizer."""
    from open_clip.tokenizer import SimpleTokenizer

    piece, clip = load("minilm-sentiment", train_word_piece), SimpleTokenizer()
    return [
        Target("WordPiece", piece, lambda texts: piece(texts, add_special_tokens=False), 15.0),
        Target("open_clip", clip, clip, 30.0),
    ]


def candidates(prompt: Any, ids: Any, rng: np.random.Generator) -> Any:
    """Return ``(CANDIDATES, TOKENS)`` ids: the prompt with one token of each row replaced.

    ``ids`` are the proposals: one list for all places, or one for each.
    """
    rows = np.tile(prompt, (CANDIDATES, 1))
    places = rng.integers(0, TOKENS, CANDIDATES)
    picks = rng.integers(0, np.shape(ids)[-1], CANDIDATES)
    rows[np.arange(CANDIDATES), places] = ids[picks] if np.ndim(ids) == 1 else ids[places, picks]
    return rows


def check(source: WordTokenizer, target: WordTokenizer, retokenizer: Retokenizer, ids: Any) -> None:
    """Stop if a row is not what the tokenizers give."""
    want = target.encode_texts(source.decode_batch(ids.tolist()))
    if not retokenizer.retokenize(ids).target.equals(want):
        raise SystemExit("the retokenizer differs from the tokenizers")


def alternate(
    fast: Callable[[Any], Any], slow: Callable[[Any], Any], draw: Callable[[], Any]
) -> tuple[float, float]:
    """Return the median seconds of two functions on the same inputs, called in turn."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(REPEATS):
        ids = draw()
        for is_fast, call in ((False, slow), (True, fast)):
            seconds[is_fast] += _bench.times(partial(call, ids), 1, warmup=0)
    return _bench.median(seconds[True]), _bench.median(seconds[False])


def measure(source_tokenizer: Any, target: Target) -> list[_bench.Row]:
    """Time all cases of one target."""
    source = WordTokenizer.from_tokenizer(source_tokenizer)
    wrapped = WordTokenizer.from_tokenizer(target.tokenizer)
    rng = np.random.default_rng(0)
    every = np.array([i for i in range(source.vocab_size) if i not in source.special_ids])
    prompt = np.array(source.encode_text(PROMPT)[:TOKENS])
    if len(prompt) < TOKENS:
        raise SystemExit("the prompt is too short for this tokenizer")
    proposals = np.stack([rng.choice(every, PROPOSALS, replace=False) for _ in range(TOKENS)])
    repeat = candidates(prompt, every, rng)

    def round_trip(ids: Any) -> Any:
        return target.call(source_tokenizer.batch_decode(ids))

    rows = []
    for native in (True, False):
        retokenizer = Retokenizer(source, wrapped, options=RetokenizerOptions(native=native))
        check(source, wrapped, retokenizer, repeat)
        for _ in range(20):
            retokenizer.retokenize(candidates(prompt, proposals, rng))
        for name, draw in (
            ("the same again", lambda: repeat),
            (f"drawn from {PROPOSALS} a place", lambda: candidates(prompt, proposals, rng)),
            ("never seen", lambda: candidates(prompt, every, rng)),
        ):
            fast, slow = alternate(retokenizer.retokenize, round_trip, draw)
            case = f"{target.name}, {name}, {retokenizer.path}"
            row = _bench.row(case, fast, "decode + encode", slow)
            rows.append(row | ({"goal": target.goal} if native and draw() is repeat else {}))
            check(source, wrapped, retokenizer, candidates(prompt, every, rng))
    return rows


def measure_parts(name: str, tokenizer: WordTokenizer) -> list[_bench.Row]:
    """Time plain parts by the encoder in C++ against one call of the tokenizer's library."""
    encoder = plain_encoder_of(tokenizer.backend)
    if encoder is None:
        return []
    seeds = count(1)

    def draw() -> list[str]:
        texts = probe_texts(tokenizer.backend.tokens, next(seeds))
        parts = [f" {text.strip()}" for text in texts]
        return list(compress(parts, encoder.encode(parts)[0] >= 0))

    fast, slow = alternate(encoder.encode, tokenizer.backend.encode_batch, draw)
    return [_bench.row(f"{name}, 400 plain parts, new ones each time", fast, "tokenizer", slow)]


def main() -> None:
    """Run the benchmark."""
    arguments = _bench.parser(__doc__).parse_args()
    source = load("gpt2-bpe-lm-18m", train_byte_level)
    rows = [row for target in targets() for row in measure(source, target)]
    for name, tokenizer in [("source", source), *((t.name, t.tokenizer) for t in targets())]:
        rows += measure_parts(name, WordTokenizer.from_tokenizer(tokenizer))
    _bench.publish(
        "retokenize",
        rows,
        arguments.json,
        ("transformers", "tokenizers", "open_clip_torch"),
        case=f"{CANDIDATES} candidates of {TOKENS} tokens, one replaced in each",
        tokenizers="real" if MODELS.is_dir() else "trained on Python's help texts",
    )


if __name__ == "__main__":
    main()
