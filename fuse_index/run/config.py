"""Run files: models, objectives, method, search, budget; validated on construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fuse_index.common.bounds import MAX_WIDTH
from fuse_index.common.options import (
    Count,
    Flag,
    NaturalWidth,
    Positive,
    Share,
    TokenLimit,
    Width,
    options,
)
from fuse_index.common.reading import read_options, require_known
from fuse_index.errors import ModelError, OptionError
from fuse_index.models.kinds import ModelKind
from fuse_index.models.packaged import demo_model
from fuse_index.objectives import OBJECTIVES, Objective
from fuse_index.optimize import (
    GCG,
    METHODS,
    SEARCHES,
    Budget,
    MethodOptions,
    RunOptions,
    SearchOptions,
)
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.run.fields import OneOf, Section, unwrapped
from fuse_index.run.items import with_items

Config = TypeVar("Config", bound="SearchConfig")


RETRIEVED = 32
"""Sentences that a run begins from by default."""


class Precision(str, Enum):
    """Dtype of a model's weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class StartDraw(str, Enum):
    """Where the tokens of a drawn initial prompt come from."""

    UNIFORM = "uniform"
    """Every allowed token that begins a word is as likely."""
    MODEL = "model"
    """The source, a causal language model, writes it."""
    RETRIEVAL = "retrieval"
    """Sentences of a corpus that are nearest to the images or texts of the objectives."""


@options(kw_only=True)
class ModelConfig:
    """A model of a run.

    Attributes:
        model: Hub id[@revision], folder, open_clip:ARCH[/PRETRAINED or file], or demo:NAME.
        kind: causal, clip, classifier or encoder; by default what it was saved as.
        device: where it runs; by default the GPU if there is one.
        dtype: float32, bfloat16 or float16; by default float32 on a CPU, else as stored.
        bos: whether a causal model's prompt follows a beginning-of-sequence token; by default as
            its tokenizer does it.
        adapter: bundle from the source to this model; by default built on first use and cached.
    """

    model: str
    kind: ModelKind | None = None
    device: str | None = None
    dtype: Precision | None = None
    bos: Flag | None = None
    adapter: Path | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise OptionError("a model with an empty name", expected="a Hub id or a folder")
        try:
            demo_model(self.model)
        except ModelError as error:
            raise OptionError(error.given, expected=error.expected) from None


@options(kw_only=True)
class ObjectiveConfig:
    """An objective and the model that scores it.

    Attributes:
        model: name of one of the run's models.
        objective: what is wanted.
    """

    model: str
    objective: Annotated[Objective, OneOf(OBJECTIVES, beside={"model": {"type": "string"}})]


class _Flattened:
    """Annotation of an objective in a file: its fields stand beside the name of its model."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, value: Any) -> Any:
        value = unwrapped(value)
        if not isinstance(value, Mapping):
            return value
        options = with_items(dict(value))
        return {"model": options.pop("model", None), "objective": options}

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found: dict[str, Any] = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": found["properties"]["objective"]["anyOf"][1:]}


Objectives = tuple[Annotated[ObjectiveConfig, _Flattened()], ...]


@options(label="probe", kw_only=True)
class ProbeConfig:
    """Probe sampling: a draft ranks the candidates, so that fewer are scored.

    Attributes:
        objectives: the draft, objectives of some of the run's models.
        share: of a step's candidates, how many the draft is compared with the problem on.
        reduction: the more, the fewer candidates the draft passes on.
    """

    objectives: Objectives = ()
    share: Share = 1 / 16
    reduction: Positive = 8.0

    def __post_init__(self) -> None:
        if not self.objectives:
            raise OptionError("probe: no objectives", expected="the draft's objectives")


@options(label="initial", kw_only=True)
class StartConfig:
    """Where a run begins.

    Attributes:
        texts: prompts to begin from.
        length: tokens of a prompt that is drawn where no text is given.
        count: prompts drawn; by default 1, of retrieval 32.
        draw: uniform (any allowed words), model (the source writes it) or retrieval (the sentences
            of the corpus nearest to the images or texts of the objectives).
        temperature: of what the source writes.
        corpus: files, folders, patterns or URLs with the sentences, text or captions in JSON; by
            default the corpus or the texts of the adapters.
        written: of the prompts drawn by retrieval, how many the source writes instead.
    """

    texts: tuple[str, ...] = ()
    length: Width = 12
    count: Width | None = None
    draw: StartDraw = StartDraw.UNIFORM
    temperature: Positive = 1.0
    corpus: tuple[str, ...] = ()
    written: NaturalWidth = 0

    def __post_init__(self) -> None:
        if any(not text.strip() for text in self.texts):
            raise OptionError("initial: an empty text", expected="some text, or a length instead")
        if self.length * self.wanted > MAX_WIDTH:
            raise OptionError(
                f"initial: {self.wanted} prompts of {self.length} tokens",
                expected=f"{MAX_WIDTH} tokens in all, at most",
            )
        if self.written > self.wanted:
            raise OptionError(
                f"initial: written={self.written} of {self.wanted} prompts",
                expected="no more than are drawn",
            )

    @property
    def wanted(self) -> int:
        """Prompts that are drawn."""
        return self.count or (RETRIEVED if self.draw is StartDraw.RETRIEVAL else 1)


@options(label="adapters", kw_only=True)
class AdapterConfig:
    """What adapters that are not given are built from, and where they are kept.

    Attributes:
        corpus: text files or folders whose words are counted.
        words: a list of words, one a line, instead of a corpus.
        texts: text files whose words are added to those that both models hold as one token, where
            neither a corpus nor a list of words is given.
        min_count: leave out words of the corpus seen fewer times.
        max_words: keep so many words, the most frequent.
        max_tokens: leave out words of more tokens in either model.
        cache: folder to keep adapters in; by default $FUSE_INDEX_CACHE or ~/.cache/fuse_index.
    """

    corpus: tuple[str, ...] = ()
    words: str | None = None
    texts: tuple[str, ...] = ()
    min_count: Count = 2
    max_words: Count | None = None
    max_tokens: TokenLimit = 4
    cache: Path | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("corpus", "words", "texts") if getattr(self, name)]
        if len(given) > 1:
            raise OptionError(
                f"adapters: both {given[0]} and {given[1]}", expected="one of corpus, words, texts"
            )


Initial = Annotated[StartConfig, Section("texts")]
Limits = Annotated[Budget, Section("steps")]
MethodChoice = Annotated[MethodOptions, OneOf(METHODS, default=GCG.type)]
SearchChoice = Annotated[SearchOptions, OneOf(SEARCHES)]


@options(kw_only=True)
class SearchConfig:
    """How prompts are looked for: what runs of every kind share.

    Attributes:
        initial: where it begins.
        method: how candidates are proposed; by default chosen by what is at hand. Options without
            a type are GCG's.
        search: which prompts are kept; by default chosen by the method.
        tokens: which tokens of the source may be used.
        budget: when to stop.
        options: seed and the rest.
        adapters: how adapters are built.
    """

    initial: Initial = field(default_factory=StartConfig)
    method: MethodChoice | None = None
    search: SearchChoice | None = None
    tokens: Annotated[TokenFilter, Section()] = field(default_factory=TokenFilter)
    budget: Limits = field(default_factory=Budget)
    options: Annotated[RunOptions, Section()] = field(default_factory=RunOptions)
    adapters: AdapterConfig = field(default_factory=AdapterConfig)


@options(kw_only=True)
class RunConfig(SearchConfig):
    """A run file.

    Attributes:
        models: models by the names they have here.
        objectives: what is wanted of the prompt; at least one.
        source: name of the model whose tokens prompts are made of; by default the first.
        probe: the draft of probe sampling, or None.
    """

    models: dict[str, Annotated[ModelConfig, Section("model")]] = field(default_factory=dict)
    objectives: Objectives = ()
    source: str = ""
    probe: ProbeConfig | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise OptionError("no models", expected="at least one, under 'models' or by --model")
        if not self.objectives:
            raise OptionError(
                "no objectives", expected="at least one, under 'objectives' or by --objective"
            )
        if not self.source:
            object.__setattr__(self, "source", next(iter(self.models)))
        require_known(self.source, self.models, "source: model")
        draft = () if self.probe is None else self.probe.objectives
        for where, items in (("", self.objectives), ("probe.", draft)):
            for index, item in enumerate(items):
                require_known(item.model, self.models, f"{where}objectives[{index}]: model")


def read_run(value: Any) -> RunConfig:
    """Build a run from what a file says.

    Raises:
        OptionError: a name is unknown, or a value is of another type or outside its range.
    """
    value = _mapping(value)
    models = unwrapped(value.get("models"))
    names = list(models) if isinstance(models, Mapping) else []
    if names and value.get("objectives") is not None:
        value["objectives"] = _with_models(value["objectives"], names, "")
    probe = unwrapped(value.get("probe"))
    if names and isinstance(probe, Mapping) and probe.get("objectives") is not None:
        items = _with_models(probe["objectives"], names, "probe.")
        value["probe"] = {**probe, "objectives": items}
    return read_config(RunConfig, value)


def read_config(cls: type[Config], value: Any) -> Config:
    """Build a run of any kind from what a file says.

    A section that the file leaves out has the default of the class, and so have the fields that a
    section leaves out; only of a budget, what is given is all there is.

    Raises:
        OptionError: a name is unknown, or a value is of another type or outside its range.
    """
    defaults = {item.name: default_of(item) for item in fields(cls)}
    given = {
        name: _over(defaults.get(name), unwrapped(item))
        for name, item in _mapping(value).items()
        if item is not None
    }
    return read_options(cls, given)


def _mapping(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise OptionError(
            f"a run that is a {type(value).__name__}",
            expected="a mapping with models and objectives",
        )
    return dict(value or {})


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field of a dataclass; ``MISSING`` where it has none."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def _over(default: Any, value: Any) -> Any:
    """Put what a section says over its default."""
    if not is_dataclass(default) or isinstance(default, Budget) or not isinstance(value, Mapping):
        return value
    kind = getattr(default, "type", None)
    if value.get("type", kind) != kind:
        return value
    named = {} if kind is None else {"type": kind}
    return {
        **named,
        **{item.name: getattr(default, item.name) for item in fields(default)},
        **value,
    }


def _with_models(value: Any, models: list[str], inside: str) -> list[Any]:
    """Return objectives that all name a model: the only one, where one names none."""
    value = unwrapped(value)
    found = []
    for index, item in enumerate(value if isinstance(value, (list, tuple)) else [value]):
        options = unwrapped(item)
        if isinstance(options, str):
            options = {"type": options}
        if isinstance(options, Mapping) and options.get("model") is None:
            if len(models) > 1:
                raise OptionError(
                    f"{inside}objectives[{index}]: no model", expected="one of " + ", ".join(models)
                )
            options = {**options, "model": models[0]}
        found.append(options)
    return found
