"""Several items in one objective: one prompt for all of them, their losses combined."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import WithJsonSchema

from fuse_index.bundle.jsontext import plain
from fuse_index.common.options import Count, Flag, options
from fuse_index.common.reading import read_options, require_known
from fuse_index.errors import OptionError
from fuse_index.objectives.base import Objective


class Combine(str, Enum):
    """How the losses of several items make one."""

    MEAN = "mean"
    SUM = "sum"
    WORST = "worst"
    """The largest; its gradient is that of the item with the largest loss at the prompt."""


class PlacedItem(dict[str, Any]):
    """An item that knows where it was read.

    Args:
        values: fields of the objective.
        place: what messages call it, such as ``pairs.jsonl, line 3``.
    """

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        super().__init__(values)
        self.place = place


_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}


@options(kw_only=True)
class ItemObjective(Objective):
    """An objective of one item, or of several that one prompt serves.

    Attributes:
        items: for each item the fields that differ from this objective's, such as its own prefix
            and target; in a run file also the path of a JSONL file, one object a line.
        combine: mean, sum or worst: what the items' losses make together.
        items_per_step: items drawn anew in every step; by default all count. The best prompt is
            judged on all of them.
        progressive: whether a run begins with the first item and adds the next one once the best
            prompt meets all so far.
    """

    items: Annotated[tuple[Any, ...], WithJsonSchema(_SCHEMA)] | None = None
    combine: Combine = Combine.MEAN
    items_per_step: Count | None = None
    progressive: Flag = False

    wanted: ClassVar[str] = ""
    """The field that an item must have."""
    can_be_met: ClassVar[bool] = False
    """Whether a prompt can meet an item, so that a next one may be added."""

    def __post_init__(self) -> None:
        if self.items is None:
            self._require_no_rule()
            self.require_item()
            return
        own = tuple(_mapping(self, item, index) for index, item in enumerate(self.items))
        object.__setattr__(self, "items", own)
        self._require_rule(len(own))
        assert self.parts  # refuses an item that is none

    @abstractmethod
    def require_item(self) -> None:
        """Refuse options that are no item: what is wanted is missing.

        Raises:
            OptionError: it is.
        """

    @cached_property
    def parts(self) -> tuple[Objective, ...]:
        """One objective for every item; the objective itself where it has no items."""
        if self.items is None:
            return (self,)
        shared = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _RULES
        }
        return tuple(
            self._part(shared, item, _place(self, item, index))
            for index, item in enumerate(self.items)
        )

    def _part(self, shared: Mapping[str, Any], item: Mapping[str, Any], place: str) -> Objective:
        try:
            return read_options(type(self), {**shared, **item}, place)
        except OptionError as error:
            if error.given.startswith(place):
                raise
            raise OptionError(
                f"{place}: {error.given.removeprefix(f'{self.type}: ')}",
                expected=error.expected,
                remedy=error.remedy,
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object; those about items only where there are items."""
        found = super().to_json()
        if self.items is None:
            return {name: value for name, value in found.items() if name not in _RULES}
        return found

    def _require_no_rule(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RULES and value != _default(field):
                raise OptionError(
                    f"{self.type}: {field.name}={plain(value)} without items",
                    expected="several items, under items",
                )

    def _require_rule(self, count: int) -> None:
        if not count:
            raise OptionError(f"{self.type}: 0 items", expected="at least one")
        if self.items_per_step is not None and self.items_per_step > count:
            raise OptionError(
                f"{self.type}: items_per_step={self.items_per_step} of {count} items",
                expected=f"at most {count}",
            )
        if self.progressive and not self.can_be_met:
            raise OptionError(
                f"{self.type}: progressive items, of which none is ever met",
                expected="an objective whose items can be met: continuation or label",
                remedy="leave progressive out",
            )


_RULES = ("items", "combine", "items_per_step", "progressive")
"""How items make one objective."""
_SHARED = ("weight", *_RULES)
"""Fields of the objective that an item has not."""


def _default(field: Field[Any]) -> Any:
    return None if field.default is MISSING else field.default


def _place(objective: Objective, item: Any, index: int) -> str:
    """What messages call an item."""
    return getattr(item, "place", f"{objective.type}: items[{index}]")


def _mapping(objective: Objective, item: Any, index: int) -> Mapping[str, Any]:
    """Return the fields of an item.

    Raises:
        OptionError: it is none, of another objective, or has what only an objective has.
    """
    place = _place(objective, item, index)
    if isinstance(item, Objective):
        item = {"type": item.type, **_changed(item)}
    if not isinstance(item, Mapping):
        raise OptionError(
            f"{place}: {item!r}",
            expected="a mapping of fields, such as a prefix and a target",
            remedy="read a JSONL file by fuse_index.run.read_items" if _is_path(item) else "",
        )
    kind = item.get("type", objective.type)
    if kind != objective.type:
        raise OptionError(
            f"{place}: an item of type {kind!r}",
            expected=f"items of one objective, {objective.type!r}",
            remedy="list it among the objectives, beside this one",
        )
    for name in _SHARED:
        if name in item:
            raise OptionError(
                f"{place}: {name}", expected="the fields of one item", remedy="give it beside items"
            )
    known = [field.name for field in fields(objective) if field.name not in _SHARED]
    for name in item:
        require_known(name, ["type", *known], f"{place}: field")
    values = {str(name): value for name, value in item.items() if name != "type"}
    return PlacedItem(values, item.place) if isinstance(item, PlacedItem) else values


def _changed(objective: Objective) -> dict[str, Any]:
    """The fields of an objective that are not the defaults."""
    values = ((field, getattr(objective, field.name)) for field in fields(objective))
    return {field.name: value for field, value in values if value != _default(field)}


def _is_path(item: Any) -> bool:
    return hasattr(item, "__fspath__") or isinstance(item, str)
