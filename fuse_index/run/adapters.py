"""Adapters of a run: given as bundles, or built on first use and kept in the cache.

The place of a built adapter is decided by what it depends on: tokenizers and embeddings of both
models, the words, and the options of the build. So another run with the same models finds it, and a
run with others does not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse_index.adapter import Adapter
from fuse_index.bundle import BundleContents, ModelIdentity, write_bundle
from fuse_index.common.cache import cache_folder
from fuse_index.common.files import sha256_of
from fuse_index.common.progress import Progress, stage
from fuse_index.errors import BundleError, CorpusError, StorageError, VocabularyError
from fuse_index.optimize.tokens import token_texts
from fuse_index.run.config import AdapterConfig
from fuse_index.words.corpus.reading import TextSource, find_sources
from fuse_index.words.corpus.words import CorpusOptions, WordCounts, count_words, read_word_list

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.build import BuildOptions
    from fuse_index.models.base import Model

logger = logging.getLogger(__name__)

_LAYOUT = "1"
"""Raised when adapters of older versions no longer serve."""
_WAIT_SECONDS = 3600.0
_SUFFICIENT = 200
"""Shared words that an adapter should be built from at least; below, a warning says so."""


class AdapterStore:
    """Adapters from one source model, each loaded or built once.

    Args:
        source: the model whose tokens are optimized.
        config: what adapters are built from, and where they are kept.
        progress: called while one is built.
    """

    def __init__(
        self, source: Model, config: AdapterConfig | None = None, progress: Progress | None = None
    ) -> None:
        self.source = source
        self.config = config or AdapterConfig()
        self.folder = (self.config.cache or cache_folder()) / "adapters"
        self._progress = progress
        self._known: dict[tuple[int, Path | None], Adapter | None] = {}
        self._identities: dict[int, ModelIdentity] = {}

    def get(self, target: Model, bundle: Path | None = None) -> Adapter | None:
        """Return the adapter to a model; None where it has the source's tokens.

        Args:
            target: the model whose gradient is wanted.
            bundle: a bundle to take it from; None builds it on first use.

        Raises:
            IdentityError: the bundle was built for other models.
            BundleError: the bundle is damaged.
            StorageError: the cache cannot be written.
            CorpusError: the text to build from cannot be read.
        """
        key = (id(target), bundle)
        if key not in self._known:
            self._known[key] = self._find(target, bundle)
        return self._known[key]

    def _find(self, target: Model, bundle: Path | None) -> Adapter | None:
        if bundle is not None:
            return self._load(bundle, target)
        if target.words.fingerprint == self.source.words.fingerprint:
            return None
        return self._load_or_build(self.path_of(target), target)

    def path_of(self, target: Model) -> Path:
        """Return where the adapter to a model is kept.

        Args:
            target: the model whose gradient is wanted.

        Raises:
            CorpusError: a text to build from cannot be read.
        """
        built = {"layout": _LAYOUT, "words": self._words, **self._options().to_dict()}
        parts = [self._key(self.source), self._key(target), _hash(built)]
        return self.folder / "-".join(part[:16] for part in parts)

    def _key(self, model: Model) -> str:
        identity = self._identity(model)
        return _hash([identity.tokenizer_hash, identity.embedding_hash])

    def _identity(self, model: Model) -> ModelIdentity:
        """Identity with the hash of the stored embeddings, whatever dtype the model runs in."""
        if id(model) not in self._identities:
            known = model.identity()
            self._identities[id(model)] = known if known.embedding_hash else _stored(model)[0]
        return self._identities[id(model)]

    def _load(self, path: Path, target: Model) -> Adapter:
        if not path.is_dir():
            raise BundleError(
                f"adapter {path} does not exist",
                expected="a folder that 'fuse-index build' made",
                remedy="leave the adapter out to have one built on first use",
            )
        source = self._identity(self.source)
        adapter = Adapter.from_pretrained(path, source, self._identity(target))
        return adapter.to(target.device)

    @cached_property
    def _words(self) -> dict[str, Any]:
        """What the words come from: files by their content, not by their names."""
        config = self.config
        texts = {"corpus": config.corpus, "texts": config.texts}
        files = {
            name: [_digest(p) for p in find_sources(list(v))] for name, v in texts.items() if v
        }
        if config.words is not None:
            files["words"] = [_digest(source) for source in find_sources([config.words])]
        return {**files, "min_count": config.min_count, "max_words": config.max_words}

    def _load_or_build(self, path: Path, target: Model) -> Adapter:
        with suppress(BundleError):  # damaged, or replaced at this moment: said under the lock
            if path.exists():  # bundles appear whole, so one needs no lock and no writing
                return self._load(path, target)
        with _locked(path):
            try:
                if path.exists():
                    return self._load(path, target)
            except BundleError as error:
                logger.warning("the adapter in the cache is built again: %s", error)
            logger.info("building the adapter from %s to %s", self.source.name, target.name)
            self._build(path, target, self._counts(target))
            return self._load(path, target)

    def words(self) -> WordCounts:
        """Return the words to move where no adapter has any: of the text, else the source's own."""
        return self._counts(self.source)

    def _counts(self, target: Model) -> WordCounts:
        config, report = self.config, stage(self._progress, "counting words")
        options = CorpusOptions(min_count=config.min_count, max_words=config.max_words)
        if config.corpus:
            return count_words(list(config.corpus), options, report)
        if config.words is not None:
            return read_word_list(config.words, replace(options, min_count=1))
        counts = shared_words(self.source, target, config.texts)
        if len(counts) < _SUFFICIENT and target is not self.source:
            logger.warning(
                "the adapter from %s to %s is built from %d words only, those that both hold as "
                "one token: give a corpus or a list of words for a better gradient",
                self.source.name,
                target.name,
                len(counts),
            )
        return counts

    def _options(self) -> BuildOptions:
        from fuse_index.build import BuildOptions  # noqa: PLC0415 - only to build
        from fuse_index.words.table import TableOptions  # noqa: PLC0415

        return BuildOptions(table=TableOptions(max_tokens=self.config.max_tokens), groups=False)

    def _build(self, path: Path, target: Model, counts: WordCounts) -> None:
        """Fit the adapter from the models at hand and write it as a bundle."""
        from fuse_index.adapter.fit.fit import fit_adapter  # noqa: PLC0415
        from fuse_index.words.table import build_word_table  # noqa: PLC0415

        options = self._options()
        table, left_out = build_word_table(
            counts,
            self.source.words,
            target.words,
            options.table,
            stage(self._progress, "tokenizing words"),
        )
        source_identity, source_table = self._table(self.source)
        target_identity, target_table = self._table(target)
        report = stage(self._progress, f"fitting the adapter to {target.name}")
        fit = fit_adapter(table, source_table, target_table, options.fit, report)
        contents = BundleContents(
            source=source_identity,
            target=target_identity,
            table=table,
            adapters=fit.adapters,
            corpus_sha256=counts.sha256(),
            options=options.to_dict() | {"ridges": fit.ridges},
            left_out=left_out,
            fallbacks=fit.fallbacks,
            quality=fit.quality.to_dict(),
            maps=fit.maps,
            kinds=fit.kinds,
            selection=fit.selection,
            identity=False,
        )
        write_bundle(path, contents, overwrite=path.exists())

    def _table(self, model: Model) -> tuple[ModelIdentity, Tensor]:
        if model.identity().embedding_hash:
            return model.identity(), model.table().float().cpu()
        return _stored(model)


def whole_words(model: Model) -> set[str]:
    """Return the words of letters that a model holds as one token inside running text."""
    texts = {text.strip() for text in token_texts(model)}
    words = sorted(text for text in texts if text.isalpha())
    rows = model.words.encode_words(words)
    return {word for word, length in zip(words, rows.lengths, strict=True) if length == 1}


def shared_words(source: Model, target: Model, texts: Sequence[str] = ()) -> WordCounts:
    """Return the words that both models hold as one token, and those of text files.

    Raises:
        VocabularyError: there is no word.
        CorpusError: a text cannot be read.
    """
    both = whole_words(source) & whole_words(target)
    counts: Counter[str] = Counter(both)
    if texts:
        own = count_words(list(texts), CorpusOptions())
        counts.update(dict(zip(own.words, own.counts[:].tolist(), strict=True)))
    if not counts:
        raise VocabularyError(
            f"{source.name} and {target.name} hold no word as one token both",
            expected="words to build an adapter from",
            remedy="give a corpus (--adapters.corpus) or a list of words (--adapters.words)",
        )
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words, numbers = zip(*items, strict=True)
    return WordCounts(words, np.array(numbers, np.int64))


def _stored(model: Model) -> tuple[ModelIdentity, Tensor]:
    """Identity and table of the checkpoint, for a model that is loaded in half precision."""
    from fuse_index.models.embeddings import load_embeddings  # noqa: PLC0415

    found = load_embeddings(model.name, local_files_only=True)
    return found.identity, found.table


def _digest(source: TextSource) -> str:
    if source.path is None:
        raise CorpusError(
            "standard input as the text of an adapter",
            expected="files, which another run can read again",
        )
    try:
        return sha256_of(source.path)
    except OSError as error:
        raise CorpusError(f"{source.path}: {error.strerror}", expected="a readable file") from error


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock so that two processes do not build one adapter twice.

    Raises:
        StorageError: the cache cannot be written, or another process holds the lock for an hour.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415

    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_WAIT_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"{path} has been under construction by another process for {_WAIT_SECONDS / 60:.0f} "
            "minutes",
            expected="an adapter that is complete",
            remedy="wait for that process, or end it",
        ) from error
    except OSError as error:
        raise StorageError(
            f"cache folder {path.parent}: {error.strerror}",
            expected="a folder that can be written",
            remedy="set FUSE_INDEX_CACHE, or give adapters that are built already",
        ) from error
    try:
        yield
    finally:
        lock.release()
