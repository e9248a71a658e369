"""Where the tokens of a prompt begin and end in a whole text, found by trying a few prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fuse_index.errors import OptionError
from fuse_index.models.reading import Reading
from fuse_index.models.surroundings import Surroundings
from fuse_index.words.tokenizers.backends import Backend
from fuse_index.words.tokenizers.continued import continuing, view
from fuse_index.words.tokenizers.probes import probe_prompts

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.models.chat import Conversation
    from fuse_index.words.tokenizers.tokenization import WordTokenizer

logger = logging.getLogger(__name__)

Ids = tuple[int, ...]

_WARNED: WeakKeyDictionary[Backend, set[str]] = WeakKeyDictionary()
"""Special tokens that were warned of."""


def surround(
    model: Model,
    before: str = "",
    suffix: str = "",
    target: str = "",
    *,
    special_tokens: bool = False,
    conversation: Conversation | None = None,
) -> Surroundings:
    """Tokenize the text around prompts of a model.

    Args:
        model: whose tokens.
        before: text before the prompt.
        suffix: text after it.
        target: text after that, whose tokens are told apart.
        special_tokens: whether special tokens that the texts spell out count as such.
        conversation: renders what stands around prompts, instead of ``before`` and ``suffix``; it
            has its own special tokens, and the model's are not put around it.

    Raises:
        OptionError: the target shares a token with the suffix, or has no tokens.
        ModelError: the tokenizer finds no special tokens in texts, or a chat template cannot be
            used.
    """
    if conversation is not None:
        before, suffix = conversation.around
    elif not special_tokens:
        _warn_of_markers(model, (before, suffix, target))
    blank = Surroundings(
        model=model,
        text_before=before,
        text_after=suffix + target,
        suffix=suffix,
        before=(),
        after=(),
        target_ids=(),
        framed=conversation is None,
        special_tokens=special_tokens or conversation is not None,
        reading=Reading(),
        conversation=conversation,
    )
    return placed(blank)


def _warn_of_markers(model: Model, texts: Sequence[str]) -> None:
    """Say once that special tokens which texts spell out are read as plain text."""
    backend = model.words.backend
    known = _WARNED.setdefault(backend, set())
    for token in (backend.tokens[i] for i in sorted(backend.special_ids)):
        if token and len(token) > 2 and token not in known and any(token in t for t in texts):
            known.add(token)
            logger.warning(
                "%s: %r around the prompt is read as plain text; special_tokens, or messages, "
                "read it as the token",
                model.name,
                token,
            )


def placed(around: Surroundings, texts: Sequence[str] | None = None) -> Surroundings:
    """Choose the reading with which most prompts keep their tokens in the whole text.

    Args:
        around: its texts; what it has of tokens is replaced.
        texts: some prompts; by default everyday words in the model's tokens.

    Raises:
        OptionError: the target shares a token with the suffix, or has no tokens.
        ModelError: a token has no row in the embedding table.
    """
    backend = around.model.words.backend
    alone = texts is None and not (around.text_before or around.text_after)
    if alone and backend in _ALONE:
        return replace(around, reading=_ALONE[backend])
    found = _placed(around, texts)
    found.require_rows((*found.before, *found.after))
    if alone:
        _ALONE[backend] = found.reading
    return found


_ALONE: WeakKeyDictionary[Backend, Reading] = WeakKeyDictionary()
"""How prompts with nothing around them are read."""


def _placed(around: Surroundings, texts: Sequence[str] | None) -> Surroundings:
    own, trials = texts is None, []
    count = len(texts or probe_prompts(around.model.words.backend))
    for reading in _readings(around, own=own):
        trials.append(_trial(around, reading, texts))
        if list(map(len, trials[-1].examples.values())) == [count]:
            break
    if not any(trial.examples for trial in trials) and own:
        trials.append(_trial(around, Reading(continued=True, bare=True), None))
    votes = {
        (index, after): len(found)
        for index, trial in enumerate(trials)
        for after, found in trial.examples.items()
    }
    if not votes:  # no prompt stands here as a text; what is scored are the parts' tokens
        return _of_parts(around)
    index, after = max(votes, key=lambda key: (votes[key], -key[0]))
    trial = trials[index]
    found = replace(around, reading=trial.reading, before=trial.before, after=after)
    return _with_target(found, trial.examples[after][0])


@dataclass(frozen=True)
class _Trial:
    """A reading, and the prompts that keep their tokens with it, by the ids behind them."""

    reading: Reading
    before: Ids
    examples: dict[Ids, list[str]]


def _readings(around: Surroundings, *, own: bool) -> list[Reading]:
    """The ways to read a prompt behind a text, the plainest first.

    Args:
        around: has the text.
        own: whether prompts are the model's tokens, whose text is to be found, not texts.
    """
    before = around.text_before
    if not before:
        return [Reading(), Reading(continued=True)] if own else [Reading()]
    spaces = before[len(before.rstrip(" ")) :]
    found = [Reading(continued=True), Reading()]
    if own:
        found.append(Reading(continued=True, add=" "))
    if own and spaces:
        found.insert(0, Reading(continued=True, drop=" "))
    if spaces:
        carry = Reading(continued=True, carry=" " if own else spaces, drop=" " if own else "")
        # a message is written with one space before the prompt, not with two
        found.insert(1 if own and around.conversation is not None else len(found), carry)
    if around.conversation is not None and not own:
        found += [replace(reading, bare=True) for reading in found]
    return found


def _trial(around: Surroundings, reading: Reading, texts: Sequence[str] | None) -> _Trial:
    """Read prompts one way: texts, or without them everyday words in the model's tokens."""
    words, encode = around.model.words, around.tokens
    cut = len(around.text_before) - len(reading.carry)
    before = encode([around.text_before[:cut]])[0] if cut else []
    rows = reading.rows(words) if texts is None else None
    texts = reading.texts(words).decode_batch(rows or []) if texts is None else texts
    read = [text.removeprefix(" ") if reading.bare else text for text in texts]
    carried = [reading.carry + text for text in read]
    contents = reading.encoder(words).encode_texts(carried).to_lists()
    examples: dict[Ids, list[str]] = {}
    rendered = [around.rendered(text) for text in texts]
    wholes = encode([text or "" for text in rendered])
    known = zip(texts, contents, wholes, rows or contents, strict=True)
    for text, content, whole, row in known:
        if row != content:
            continue  # its tokens do not survive being read as text, wherever they stand
        size = len(before) + len(content)
        if whole[:size] == [*before, *content] and (size == len(whole)) == (not around.text_after):
            examples.setdefault(tuple(whole[size:]), []).append(text)
    return _Trial(reading, tuple(before), examples)


def _of_parts(around: Surroundings) -> Surroundings:
    """The tokens of the parts, each behind the one before it."""
    reading = Reading(continued=bool(around.text_before))
    words = around.model.words

    def part(text: str, continued: bool) -> Ids:
        if around.special_tokens:
            return tuple(around.tokens([text])[0])
        return tuple((continuing(words) if continued else words).encode_text(text))

    before = part(around.text_before, False) if around.text_before else ()
    after = part(around.text_after, True) if around.text_after else ()
    suffix = part(around.suffix, True) if around.suffix else ()
    return _with_suffix(replace(around, reading=reading, before=before, after=after), suffix)


def _with_target(around: Surroundings, example: str) -> Surroundings:
    """Tell the target's tokens apart, with a prompt that keeps its own."""
    if around.text_after == around.suffix:
        return around
    full = around.full_text(example)
    end = len(full) - len(around.text_after) + len(around.suffix)
    with_suffix, whole = around.tokens([full[:end], full])
    return _with_suffix(around, tuple(with_suffix[len(whole) - len(around.after) :]))


def _with_suffix(around: Surroundings, suffix: Ids) -> Surroundings:
    """Tell the target's tokens apart from those of the suffix alone.

    A space at the end of the suffix may belong to the target's first token.

    Raises:
        OptionError: more than a space does, or the target has no tokens.
    """
    target = around.text_after[len(around.suffix) :]
    if not target:
        return around
    words = around.model.words
    if not continuing(words).encode_text(target):
        raise OptionError(
            f"{around.model.name}: text {target!r} has no tokens", expected="a text with tokens"
        )
    begin = _target_begin(view(words, continued=True), suffix, around.after)
    if begin is None:
        raise OptionError(
            f"{around.model.name}: {target!r} shares a token with the text before it, "
            f"{around.suffix[-20:]!r}",
            expected="a text whose first token begins with it",
            remedy="begin it with a space, or end the text before it otherwise",
        )
    return replace(around, target_ids=around.after[begin:])


def _target_begin(words: WordTokenizer, suffix: Ids, after: Ids) -> int | None:
    """Return where the tokens of a target begin; None where they share more than a space.

    Args:
        words: decodes text behind other text.
        suffix: tokens of the suffix alone.
        after: tokens of suffix and target.
    """
    pairs = zip(suffix, after, strict=False)
    shared = min(len(suffix), len(after))
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), shared)
    rest = suffix[shared:]
    spaces = words.decode(rest) if rest else ""
    begin = shared
    while rest and begin < len(after):
        if len(words.decode(after[shared : begin + 1])) > len(spaces):
            break
        begin += 1  # a space of the suffix alone
    return None if spaces.strip() or begin == len(after) else begin
