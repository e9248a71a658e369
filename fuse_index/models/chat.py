"""Conversations around a prompt, rendered by a model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fuse_index.common.options import options
from fuse_index.errors import ModelError, OptionError

if TYPE_CHECKING:
    from fuse_index.models.base import Model

PLACE = "{prompt}"
"""Stands for the prompt in a message."""
DATE = datetime(2024, 7, 26, tzinfo=timezone.utc)
"""The day that templates with a date are rendered for, so that runs can be repeated."""
_MARKS = ("Prompt7Stands", "Other3Stands")
"""Prompts by which the place of one is found."""


@options(kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who writes it, as the model's chat template calls them: system, user, assistant.
        content: the text; ``{prompt}`` in one message stands for the prompt.
    """

    role: str
    content: str


def require_place(messages: Sequence[Message]) -> None:
    """Refuse a conversation without exactly one place for the prompt.

    Raises:
        OptionError: there is none, or there are several.
    """
    count = sum(message.content.count(PLACE) for message in messages)
    if count != 1:
        raise OptionError(
            f"messages with {count or 'no'} {PLACE}",
            expected=f"exactly one {PLACE}, where the prompt stands in a message's content",
        )


@dataclass(frozen=True, eq=False)
class Conversation:
    """Messages around a prompt, for one model.

    Attributes:
        model: whose chat template.
        messages: one of them with the place of the prompt.
        add_generation_prompt: whether the beginning of an answer follows.
    """

    model: Model
    messages: tuple[Message, ...]
    add_generation_prompt: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides how prompts are rendered."""
        return self.messages, self.add_generation_prompt

    @cached_property
    def around(self) -> tuple[str, str]:
        """The rendered text before the prompt, and the text after it.

        Raises:
            ModelError: there is no template, it refuses the messages, or it does not write the
                prompt exactly once and as it stands.
        """
        found = {self.render(mark).count(mark) for mark in _MARKS}
        mark, other = _MARKS
        whole = self.render(mark)
        if found == {1}:
            before, _, after = whole.partition(mark)
            if self.render(other) == f"{before}{other}{after}":
                return before, after
        role = next(item.role for item in self.messages if PLACE in item.content)
        raise ModelError(
            f"{self.model.name}: its chat template {_what(found)} {PLACE} of the {role} message",
            expected="a rendered conversation with the prompt in it once, as it stands",
            remedy="put the prompt into another message, or give prefix and suffix with "
            "special_tokens",
        )

    def render(self, prompt: str) -> str:
        """Return the rendered conversation with a prompt in its place.

        Raises:
            ModelError: there is no template, or it refuses the messages.
        """
        from jinja2 import TemplateError  # noqa: PLC0415 - transformers needs it for templates

        template = self._template
        messages = [
            {"role": item.role, "content": item.content.replace(PLACE, prompt)}
            for item in self.messages
        ]
        try:
            rendered: str = self.model.tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=self.add_generation_prompt,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(
                f"{self.model.name}: its chat template refuses the messages: {reason}",
                expected="roles in the order that the template knows, such as user, assistant",
                remedy="leave out what it does not know, such as a system message",
            ) from error
        return rendered

    @cached_property
    def _template(self) -> str:
        """The tokenizer's template, with the date fixed."""
        tokenizer = self.model.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                f"{self.model.name}: messages, but its tokenizer has no chat template",
                expected="a model with a chat template",
                remedy="give prefix and suffix, with special_tokens",
            )
        return with_date(str(tokenizer.get_chat_template()))


def with_date(template: str) -> str:
    """Return a chat template for which it is always :data:`DATE`.

    Templates call ``strftime_now``; a macro of that name goes before those that do.
    """
    if "strftime_now" not in template:
        return template
    known = "".join(
        f" | replace({code!r}, {value!r})" for code, value in _DATE_PARTS if value != code
    )
    start = template.lstrip(" \t")
    rest = start if start.startswith("{%") else template  # spaces before a block are no text
    return (
        "{%- macro strftime_now(format) -%}{{ format" + known + " }}{%- endmacro -%}{{ '' }}" + rest
    )


_CODES = (*(f"-{c}" for c in "dmHIMSj"), *"aAwdbBmyYHIpMSfjUWcxXeFTZz", "%")
_DATE_PARTS = tuple((f"%{code}", DATE.strftime(f"%{code}")) for code in _CODES)


def _what(counts: set[int]) -> str:
    """What a template does to the prompt."""
    if counts == {0}:
        return "leaves out or alters"
    return "alters" if counts == {1} else "repeats"
