"""The word index: words that lower a loss most or lie nearest, in one model or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.common.progress import Tick
from fuse_index.common.reading import choose
from fuse_index.errors import OptionError, ShapeError
from fuse_index.index.approximate import Approximate, search_words
from fuse_index.index.exact import Array, DenseSearch, check_queries
from fuse_index.index.masks import Mask, Range, members, starts_upper, within
from fuse_index.index.options import IndexOptions, Kind, Metric
from fuse_index.index.tuning import tune
from fuse_index.index.vectors import Side, WordVectors, sides_of
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable


@dataclass(frozen=True, eq=False)
class WordIndex:
    """Searches the words of a table by their vectors in one model or in several at once.

    Made by :meth:`build`, :meth:`from_table` or :func:`fuse_index.index.read_index`.

    Attributes:
        words: the ``n`` words; ids count in them.
        counts: ``(n,)`` int64, how often each occurs.
        vectors: their vectors.
        options: what was asked for, with the kind that was chosen.
        engine: the FAISS index, if there is one.
        report: what was measured when it was built (JSON values).
        added: how many words at the end were added later.
        dense: the vectors on a device, where :meth:`to` moved them.
    """

    words: Sequence[str]
    counts: NDArray[np.int64]
    vectors: WordVectors
    options: IndexOptions
    engine: Approximate | None
    report: dict[str, Any] = field(default_factory=dict)
    added: int = 0
    dense: DenseSearch | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        if not len(self.words) == len(self.counts) == len(self.vectors):
            raise ShapeError(
                f"{len(self.words)} words, {len(self.counts)} counts and vectors of "
                f"{len(self.vectors)} words",
                expected="the same number of each",
            )

    @classmethod
    def build(
        cls,
        words: Sequence[str],
        counts: NDArray[np.int64],
        sides: Sequence[Side],
        options: IndexOptions | None = None,
        *,
        queries: Array | None = None,
        progress: Tick | None = None,
    ) -> WordIndex:
        """Build an index.

        Args:
            words: ``n`` distinct words.
            counts: ``(n,)`` int64.
            sides: the models.
            options: see :class:`IndexOptions`.
            queries: ``(m, width)`` sample queries, best negative gradients of real losses, by
                which kinds are measured and chosen; random directions if ``None``.
            progress: called with (kinds tried, kinds to try).

        Raises:
            OptionError: no kind reaches the recall asked for within the memory.
            ShapeError: sizes do not fit together.
            MissingDependencyError: FAISS is absent.
        """
        options = options or IndexOptions()
        vectors = WordVectors(sides, options.representation)
        samples = None if queries is None else check_queries(queries, vectors.width)
        chosen, others = tune(vectors, options, samples, progress)
        report = {
            **chosen.to_dict(),
            "metric": options.metric.value,
            "representation": options.representation.value,
            "models": [side.name for side in sides],
            "weights": [side.weight for side in sides],
            "words": len(vectors),
            "width": vectors.width,
            "recall_at": min(options.top_k, len(vectors)),
            "recall_asked": options.recall,
            "queries": "random" if samples is None else "given",
            "tried": [trial.to_dict() for trial in others],
        }
        resolved = replace(options, kind=chosen.kind)
        if chosen.kind.exact and vectors.kept is not None:  # kept for kinds that were not chosen
            vectors = WordVectors(sides, options.representation)
        return cls(words, counts, vectors, resolved, chosen.engine, report)

    @classmethod
    def from_table(
        cls,
        table: WordTable,
        *,
        source: Tensor | None = None,
        target: Tensor | None = None,
        weights: Mapping[str, float] | None = None,
        options: IndexOptions | None = None,
        queries: Array | None = None,
        progress: Tick | None = None,
    ) -> WordIndex:
        """Build an index of a bundle's words; see :func:`sides_of` and :meth:`build`."""
        sides = sides_of(table, source=source, target=target, weights=weights)
        return cls.build(
            table.words, table.counts, sides, options, queries=queries, progress=progress
        )

    @classmethod
    def of_tokens(
        cls,
        table: WordTable,
        *,
        source: Tensor | None = None,
        target: Tensor | None = None,
        weights: Mapping[str, float] | None = None,
        options: IndexOptions | None = None,
    ) -> WordIndex:
        """Make the exact search by tokens, which needs neither training nor measuring.

        The arguments are those of :meth:`from_table`; of ``options`` metric and representation
        count.
        """
        options = replace(options or IndexOptions(), kind=Kind.TOKENS)
        sides = sides_of(table, source=source, target=target, weights=weights)
        vectors = WordVectors(sides, options.representation)
        return cls(table.words, table.counts, vectors, options, None)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def width(self) -> int:
        """Columns of a vector: those of all models together."""
        return self.vectors.width

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of their parts of a vector."""
        return tuple(side.name for side in self.vectors.sides)

    def search(
        self,
        queries: Array,
        top_k: int,
        mask: Mask | None = None,
        *,
        metric: Metric | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the words that fit queries best.

        With the metric ``ip`` and a negative gradient as query these are the words that lower the
        loss most, to first order.

        Args:
            queries: ``(b, width)``; with several models their parts one after another, see also
                :meth:`joint`.
            top_k: how many words.
            mask: words that may be found; see :meth:`mask`.
            metric: the index's own if ``None``; others are answered exactly.

        Returns:
            Word ids int64 and scores float32, both ``(b, top_k)``, best first, where the queries
            are. Scores are exact whatever the kind, and higher is better: for ``l2`` they are
            negative squared distances.

        Raises:
            ShapeError: queries of another width, or that are not finite.
            OptionError: ``top_k`` is not between 1 and the number of allowed words.
        """
        metric = self.options.metric if metric is None else choose(Metric, metric, "metric")
        values = check_queries(queries, self.width)
        self._check(top_k, mask)
        home = values.device
        if not len(values):
            empty = torch.empty(0, top_k, device=home)
            return empty.long(), empty
        with torch.no_grad():
            if self.dense is not None:
                device = self.dense.matrix.device
                allowed = None if mask is None else mask.on(device)
                scores, ids = self.dense.search(values.to(device), top_k, metric, allowed)
            else:
                scores, ids = search_words(
                    self.vectors, self.engine, values.cpu(), top_k, metric=metric, mask=mask
                )
        return ids.to(home), scores.to(home)

    def nearest(
        self,
        points: Array,
        top_k: int = 1,
        mask: Mask | None = None,
        *,
        metric: Metric = Metric.L2,
    ) -> tuple[Tensor, Tensor]:
        """Find the words nearest to points ``(b, width)``: :meth:`search` by ``l2`` or cosine."""
        return self.search(points, top_k, mask, metric=metric)

    def joint(
        self,
        queries: Mapping[str, Array],
        top_k: int,
        mask: Mask | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        metric: Metric | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the words that fit the queries of several models best together, in one search.

        Args:
            queries: ``(b, width of the model's part)`` by model; a model that is left out does not
                count.
            top_k: how many words.
            mask: words that may be found.
            weights: factor of each model; that of its :class:`Side` where none is given. Folded
                into the query, so that nothing is rebuilt.
            metric: as :meth:`search`.

        Returns:
            As :meth:`search`.

        Raises:
            ShapeError: an unknown model, or queries that do not fit.
        """
        factors = {side.name: side.weight for side in self.vectors.sides}
        if not queries or not {*queries, *(weights or {})} <= set(factors):
            raise ShapeError(
                f"queries of models {list(queries)}, weights of {list(weights or {})}",
                expected=f"some of {list(factors)}",
            )
        factors |= dict(weights or {})
        parts = dict(zip(self.models, (packed.part for packed in self.vectors.packed), strict=True))
        given = {
            name: check_queries(own, parts[name].stop - parts[name].start, f"the {name}'s queries")
            for name, own in queries.items()
        }
        sizes = {name: len(values) for name, values in given.items()}
        if len(set(sizes.values())) != 1:
            raise ShapeError(f"queries {sizes}", expected="as many for every model")
        first = next(iter(given.values()))
        folded = first.new_zeros(len(first), self.width)
        for name, values in given.items():
            folded[:, parts[name]] = values.to(first.device) * factors[name]
        return self.search(folded, top_k, mask, metric=metric)

    def mask(
        self,
        *,
        ids: Any = None,
        exclude: Any = None,
        upper: bool | None = None,
        alphabetic: bool | None = None,
        count: Range | None = None,
        tokens: Mapping[str, int | Range] | None = None,
    ) -> Mask:
        """Say which words may be found; conditions are joined by "and", masks by ``& | ~``.

        Args:
            ids: word ids, or ``(n,)`` booleans.
            exclude: word ids that may not be found.
            upper: whether the word starts with an upper-case letter.
            alphabetic: whether it is all letters.
            count: least and greatest number of occurrences, both included.
            tokens: by model, the number of tokens, or the least and the greatest.

        Raises:
            OptionError: no word is left, an id is outside the words, or a model is unknown.
        """
        n = len(self)
        allowed = np.ones(n, np.bool_)
        if ids is not None:
            allowed &= members(ids, n)
        if exclude is not None:
            allowed &= ~members(exclude, n)
        for wanted, test in ((upper, starts_upper), (alphabetic, str.isalpha)):
            if wanted is not None:
                allowed &= np.fromiter(map(test, self.words), np.bool_, n) == wanted
        if count is not None:
            allowed &= within(self.counts, count)
        sides = {side.name: side for side in self.vectors.sides}
        for name, bounds in (tokens or {}).items():
            if name not in sides:
                raise OptionError(
                    f"token counts of model {name!r}", expected=f"one of {list(sides)}"
                )
            both = (bounds, bounds) if isinstance(bounds, int) else bounds
            allowed &= within(sides[name].tokens.lengths, both)
        return Mask(allowed)

    def vector(self, ids: Any) -> Tensor:
        """Return the vectors of words: ``(m, width)`` float32."""
        rows = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise OptionError(
                f"word ids from {int(rows.min())} to {int(rows.max())}",
                expected=f"0 to {len(self) - 1}",
            )
        return self.vectors.rows(rows)

    def add(
        self,
        words: Sequence[str],
        tokens: Mapping[str, Sequence[Sequence[int]]],
        counts: Sequence[int] | None = None,
    ) -> WordIndex:
        """Return an index with more words; nothing is trained again and this one stays.

        Args:
            words: new words; they get the ids from ``len(self)`` on.
            tokens: their token ids in every model.
            counts: how often they occur; 0 if not given.

        Raises:
            OptionError: a word is there already, or a model's tokens are missing.
        """
        known = Counter((*self.words, *words))
        if twice := sorted({word for word in words if known[word] > 1}):
            raise OptionError(f"words {twice} twice", expected="words that are not there yet")
        if set(tokens) != set(self.models):
            raise OptionError(
                f"tokens for models {sorted(tokens)}", expected=f"for {sorted(self.models)}"
            )
        sides = [
            side.with_words(Ragged.from_lists(tokens[side.name])) for side in self.vectors.sides
        ]
        vectors = WordVectors(sides, self.options.representation)
        if vectors.width != self.width:
            raise OptionError(
                "an added word has more tokens than any the padded vectors were made for",
                remedy="build the index again",
            )
        if self.vectors.kept is not None:
            vectors.keep(self.vectors.has_tables)
        new = np.zeros(len(words), np.int64) if counts is None else np.asarray(counts, np.int64)
        index = replace(
            self,
            words=(*self.words, *words),
            counts=np.concatenate([self.counts, new]),
            vectors=vectors,
            engine=None if self.engine is None else self.engine.extended(vectors),
            added=self.added + len(words),
        )
        if self.dense is None:
            return index
        return index.to(self.dense.matrix.device, self.dense.matrix.dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> WordIndex:
        """Return an index that answers by one product and a top-k on a device, exactly.

        Args:
            device: "cuda" is where this is fast; "cpu" with float32 gives this index back.
            dtype: of the stored vectors: float32, bfloat16 or float16; in half precision the
                search is exact for the rounded vectors.
        """
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise OptionError(f"dtype {dtype}", expected="float32, bfloat16 or float16")
        plain = torch.device(device).type == "cpu" and dtype is torch.float32
        return replace(
            self, dense=None if plain else DenseSearch(self.vectors.matrix(device, dtype))
        )

    def _check(self, top_k: int, mask: Mask | None) -> None:
        if mask is not None and len(mask) != len(self):
            raise ShapeError(
                f"a mask of {len(mask)} words", expected=f"{len(self)}, the words of the index"
            )
        most = len(self) if mask is None else mask.count
        if not isinstance(top_k, int) or not 1 <= top_k <= most:
            allowed = "words" if mask is None else "allowed words"
            raise OptionError(f"top_k={top_k}", expected=f"1 to {most}, the number of {allowed}")
