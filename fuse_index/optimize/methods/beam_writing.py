"""Writing with a beam inside a schedule of moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse_index.optimize.methods.autodan import AutoDAN
from fuse_index.optimize.methods.base import Context, Method, Proposals
from fuse_index.optimize.search import Beam, Search
from fuse_index.optimize.state import Scored, State

if TYPE_CHECKING:
    from torch import Tensor


class BeamWriting:
    """A prompt written from left to right with a beam, one position a step.

    Args:
        options: of the method that writes.
        beam: prompts written at once.
        context: of the run.

    Attributes:
        known: scored first words, until the writing begins.
    """

    def __init__(self, options: AutoDAN, beam: int, context: Context) -> None:
        self._options, self._beam, self._context = options, Beam(width=beam), context
        self._method: Method | None = None
        self._search: Search | None = None
        self._grown = False
        self.known: list[State] = []

    def propose(self, most: int | None) -> Proposals | None:
        """Return the candidates of the next position; None at the end."""
        if self._method is None:
            if not self.known:
                return None
            self._begin(self.known)
        assert self._method is not None
        assert self._search is not None
        found = self._method.propose(self._search.select(), most)
        self._grown = found is not None and found.grown
        return found

    def _begin(self, states: Sequence[State]) -> None:
        self._search = self._beam.start(states)
        self._method = self._options.start(self._context, states)

    def observe(self, scored: Scored) -> None:
        """Keep the best of a step."""
        if self._method is None:
            finite = np.flatnonzero(np.isfinite(scored.totals)).tolist()
            self.known += [scored.state(index) for index in finite]
        elif self._search is not None:
            self._search.update(scored, grown=self._grown)

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint needs, beside :meth:`tensors`."""
        return {
            "begun": self._method is not None,
            "search": None if self._search is None else self._search.to_json(),
            "known": [state.to_json() for state in self.known],
            "grown": self._grown,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs, beside :meth:`to_json`."""
        found = {} if self._method is None else self._method.tensors()
        return {f"writing.{name}": value for name, value in found.items()}

    def load(self, value: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from what :meth:`to_json` and :meth:`tensors` returned."""
        self.known = [State.from_json(item) for item in value["known"]]
        self._grown = bool(value["grown"])
        if value["begun"]:
            self._begin(self.known)
            assert self._search is not None
            assert self._method is not None
            self._search.load_json(value["search"])
            pairs = tensors.items()
            own = {k.removeprefix("writing."): v for k, v in pairs if k.startswith("writing.")}
            self._method.load_tensors(own)
