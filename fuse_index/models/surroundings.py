"""The fixed text around a prompt, in the tokens of one model.

People paste text, models read tokens: what stands around a prompt is tokenized so that the whole
text has the very tokens that are scored. Tokenizers that put a space before a text put it before
the whole, not before each part; a space at the end of the text before may belong to the prompt's
first token. Which way a tokenizer goes is found by trying it on a few prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from fuse_index.errors import ModelError, OptionError
from fuse_index.words.tokenizers.continued import continuing, view
from fuse_index.words.tokenizers.specials import Encode, special_encoder
from fuse_index.words.tokenizers.tokenization import PROBE_WORDS, WordTokenizer

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.models.chat import Conversation
    from fuse_index.models.frame import Frame
    from fuse_index.words.ragged import Ragged

PROBE_TEXTS = (*PROBE_WORDS, "two dogs", "a photo of dogs", "Paris!", "dogs.", "(7)", "it: the")
"""Prompts that tell the ways of tokenizing apart."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """How a tokenizer reads a prompt between fixed texts.

    Attributes:
        continued: whether as text behind other text, not as the beginning of a text.
        carry: white space at the end of the text before that the prompt's tokens take in.
        drop: what is taken off the decoded tokens for the text of the prompt.
        add: what is put before them.
        bare: whether a prompt begins without a space, as where a chat template takes it off.
    """

    continued: bool = False
    carry: str = ""
    drop: str = ""
    add: str = ""
    bare: bool = False

    def encoder(self, words: WordTokenizer) -> WordTokenizer:
        """Return the tokenizer of ``carry`` and a prompt's text."""
        return continuing(words) if self.continued else words

    def texts(self, words: WordTokenizer) -> WordTokenizer:
        """Return the tokenizer that decodes to a prompt's text."""
        return view(words, continued=self.continued, drop=self.drop, add=self.add)

    def read(self, texts: WordTokenizer) -> WordTokenizer:
        """Return the tokenizer that decodes to what :meth:`encoder` encodes.

        Args:
            texts: decodes to a prompt's text.
        """
        return view(texts, drop=" " if self.bare else "", add=self.carry)

    def rows(self, words: WordTokenizer) -> list[list[int]]:
        """Return everyday prompts as the model's tokens."""
        if self.bare:
            return self.encoder(words).encode_texts(PROBE_TEXTS).to_lists()
        return words.encode_running(PROBE_TEXTS).to_lists()


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What stands around every prompt of one model; made by :func:`surround`.

    Attributes:
        model: whose tokens.
        text_before: text before the prompt.
        text_after: text after it, the target included.
        suffix: ``text_after`` without the target.
        before: ids between the head of the frame and the prompt.
        after: ids behind the prompt.
        target_ids: the last of these, which are the target's.
        framed: whether the model's special tokens stand around all of it.
        special_tokens: whether special tokens that the texts spell out count as such.
        reading: how the prompt is tokenized.
        conversation: renders prompts, where the texts are those of a chat template.
        end: ids behind ``after`` that have no text.
    """

    model: Model
    text_before: str
    text_after: str
    suffix: str
    before: Ids
    after: Ids
    target_ids: Ids
    framed: bool
    special_tokens: bool
    reading: Reading
    conversation: Conversation | None = None
    end: Ids = ()

    @cached_property
    def frame(self) -> Frame:
        """Special tokens around all of it."""
        frame = self.model.frame
        return frame if self.framed else replace(frame, head=(), tail=())

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same for surroundings in which the same prompts are read alike."""
        chat = None if self.conversation is None else self.conversation.key
        return self.text_before, self.text_after, self.before, self.after, self.framed, chat

    def batch(self, contents: Sequence[Sequence[int]] | Ragged) -> Batch:
        """Put prompts between what surrounds them.

        Args:
            contents: b rows of token ids.

        Raises:
            ModelError: a row is longer than the model's positions.
        """
        after = (*self.after, *self.end)
        return self.model.batch(contents, self.before, after, frame=self.frame)

    def beginning(self, contents: Sequence[Sequence[int]] | Ragged) -> Batch:
        """Put prompts behind what stands before them, nothing behind them."""
        frame = replace(self.frame, tail=())
        return self.model.batch(contents, self.before, frame=frame)

    def with_end(self, ids: Sequence[int]) -> Surroundings:
        """Return the same with further ids behind the text."""
        return replace(self, end=(*self.end, *ids))

    def full_text(self, text: str) -> str:
        """Return the whole text of a prompt, as people paste it."""
        if self.conversation is not None:
            target = self.text_after[len(self.suffix) :]
            return self.conversation.render(text) + target
        return f"{self.text_before}{text}{self.text_after}"

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of prompts in the model's tokens, as they stand here."""
        return self._view.decode_batch(rows)

    @cached_property
    def _view(self) -> WordTokenizer:
        return self.reading.texts(self.model.words)

    @cached_property
    def _encode(self) -> Encode:
        return _encoder(self.model, self.special_tokens, self.frame)

    def encode(self, text: str) -> list[int]:
        """Tokenize a prompt as it stands here, without looking at what comes after it."""
        reading = self.reading
        text = text.removeprefix(" ") if reading.bare else text
        return reading.encoder(self.model.words).encode_text(reading.carry + text)

    def content(self, text: str) -> list[int]:
        """Return the tokens of a prompt inside the whole text.

        Raises:
            OptionError: it shares a token with what stands around it.
        """
        (whole,) = self._encode([self.full_text(text)])
        end = len(whole) - len(self.after)
        if [*self.before, *whole[len(self.before) : end], *self.after] == whole:
            return whole[len(self.before) : end]
        raise OptionError(
            f"{self.model.name}: {text!r} shares a token with the text around it",
            expected="a prompt that begins and ends where tokens do",
            remedy="put a space between them",
        )

    def reads(self, texts: Sequence[str], contents: Sequence[Sequence[int]]) -> list[bool]:
        """Say which whole texts have the tokens that are scored, and no others.

        Args:
            texts: ``n`` prompts.
            contents: their tokens, of which batches are made.
        """
        rendered = [self._rendered(text) for text in texts]
        wholes = self._encode([text or "" for text in rendered])
        return [
            text is not None and whole == [*self.before, *content, *self.after]
            for text, whole, content in zip(rendered, wholes, contents, strict=True)
        ]

    def _rendered(self, text: str) -> str | None:
        """The whole text of a prompt; None for one that a chat template refuses."""
        try:
            return self.full_text(text)
        except ModelError:
            return None

    def placed(self, texts: Sequence[str]) -> Surroundings:
        """Return the same chosen for prompts that are texts, not tokens of the model.

        Args:
            texts: some prompts, which tell how others are read.
        """
        return _chosen(self, texts)


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
    return _chosen(blank, None)


def _encoder(model: Model, special_tokens: bool, frame: Frame) -> Encode:
    """What tokenizes whole texts, without the frame."""
    if not special_tokens:
        return lambda texts: model.words.encode_texts(texts).to_lists()
    encode = special_encoder(model.words.backend, model.name)
    head = list(frame.head)

    def without_head(texts: Sequence[str]) -> list[list[int]]:
        rows = encode(texts)  # a head that the text spells out is not there twice
        return [row[len(head) :] if row[: len(head)] == head else row for row in rows]

    return without_head


def _chosen(around: Surroundings, texts: Sequence[str] | None) -> Surroundings:
    """Choose the reading with which most prompts keep their tokens in the whole text."""
    own, trials = texts is None, []
    for reading in _readings(around, own=own):
        trials.append(_trial(around, reading, texts))
        if list(map(len, trials[-1].examples.values())) == [len(texts or PROBE_TEXTS)]:
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
    words, encode = around.model.words, around._encode
    cut = len(around.text_before) - len(reading.carry)
    before = encode([around.text_before[:cut]])[0] if cut else []
    rows = reading.rows(words) if texts is None else None
    texts = reading.texts(words).decode_batch(rows or []) if texts is None else texts
    read = [text.removeprefix(" ") if reading.bare else text for text in texts]
    carried = [reading.carry + text for text in read]
    contents = reading.encoder(words).encode_texts(carried).to_lists()
    examples: dict[Ids, list[str]] = {}
    rendered = [around._rendered(text) for text in texts]
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
            return tuple(around._encode([text])[0])
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
    with_suffix, whole = around._encode([full[:end], full])
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
    pairs = zip(suffix, around.after, strict=False)
    shared = next(
        (i for i, (a, b) in enumerate(pairs) if a != b), min(len(suffix), len(around.after))
    )
    words, rest = around.model.words, suffix[shared:]
    if not continuing(words).encode_text(target):
        raise OptionError(
            f"{around.model.name}: text {target!r} has no tokens", expected="a text with tokens"
        )
    joined = rest and view(words, continued=True).decode(rest).strip()
    if joined or not around.after[shared:]:
        raise OptionError(
            f"{around.model.name}: {target!r} shares a token with the text before it, "
            f"{around.suffix[-20:]!r}",
            expected="a text whose first token begins with it",
            remedy="begin it with a space, or end the text before it otherwise",
        )
    return replace(around, target_ids=around.after[shared:])
