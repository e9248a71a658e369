"""What a run file says: models, objectives, method, search, budget; validated on construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from fuse_index.errors import OptionError
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives import OBJECTIVES, Objective
from fuse_index.optimize import METHODS, SEARCHES, Budget, MethodOptions, RunOptions, SearchOptions
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.run.fields import FlagText, convert, parse_text, read_options, require_known

Typed = TypeVar("Typed")


class Precision(str, Enum):
    """Dtype of a model's weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Draw(str, Enum):
    """Where the tokens of a drawn initial prompt come from."""

    UNIFORM = "uniform"
    """Every allowed token that begins a word is as likely."""
    MODEL = "model"
    """The source, a causal language model, writes it."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model of a run.

    Attributes:
        model: Hub id[@revision], folder, or open_clip:ARCH[/PRETRAINED or file].
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
    bos: bool | None = None
    adapter: Path | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise OptionError("a model with an empty name", expected="a Hub id or a folder")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """An objective and whose eyes it is asked of.

    Attributes:
        model: name of one of the run's models.
        objective: what is wanted.
    """

    model: str
    objective: Objective


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probe sampling: a draft ranks the candidates, so that fewer are scored.

    Attributes:
        objectives: the draft, objectives of some of the run's models.
        share: of a step's candidates, how many the draft is compared with the problem on.
        reduction: the more, the fewer candidates the draft passes on.
    """

    objectives: tuple[ObjectiveConfig, ...]
    share: float = 1 / 16
    reduction: float = 8.0

    def __post_init__(self) -> None:
        if not self.objectives:
            raise OptionError("probe: no objectives", expected="the draft's objectives")


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where a run begins.

    Attributes:
        texts: prompts to begin from.
        length: tokens of a prompt that is drawn where no text is given.
        count: prompts drawn.
        draw: uniform (any allowed words) or model (the source writes it).
        temperature: of what the source writes.
    """

    texts: tuple[str, ...] = ()
    length: int = 12
    count: int = 1
    draw: Draw = Draw.UNIFORM
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.draw not in tuple(Draw):
            expected = "one of " + ", ".join(item.value for item in Draw)
            raise OptionError(f"initial: draw {self.draw!r}", expected=expected)
        object.__setattr__(self, "draw", Draw(self.draw))
        for name in ("length", "count"):
            if getattr(self, name) < 1:
                raise OptionError(f"initial: {name}={getattr(self, name)}", expected="at least 1")
        if not self.temperature > 0:
            raise OptionError(f"initial: temperature={self.temperature}", expected="more than 0")
        if any(not text.strip() for text in self.texts):
            raise OptionError("initial: an empty text", expected="some text, or a length instead")


@dataclass(frozen=True, kw_only=True)
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
    min_count: int = 2
    max_words: int | None = None
    max_tokens: int = 4
    cache: Path | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("corpus", "words", "texts") if getattr(self, name)]
        if len(given) > 1:
            raise OptionError(
                f"adapters: both {given[0]} and {given[1]}", expected="one of corpus, words, texts"
            )
        for name in ("min_count", "max_words", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"adapters: {name}={value}", expected="at least 1")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How prompts are looked for: what runs of every kind share.

    Attributes:
        initial: where it begins.
        method: how candidates are proposed; by default the measured best.
        search: which prompts are kept; by default what suits the method.
        tokens: which tokens of the source may be used.
        budget: when to stop.
        options: seed and the rest.
        adapters: how adapters are built.
    """

    initial: StartConfig = field(default_factory=StartConfig)
    method: MethodOptions | None = None
    search: SearchOptions | None = None
    tokens: TokenFilter = field(default_factory=TokenFilter)
    budget: Budget = field(default_factory=Budget)
    options: RunOptions = field(default_factory=RunOptions)
    adapters: AdapterConfig = field(default_factory=AdapterConfig)


@dataclass(frozen=True, kw_only=True)
class RunConfig(SearchConfig):
    """A run file.

    Attributes:
        models: models by the names they have here.
        objectives: what is wanted of the prompt; at least one.
        source: name of the model whose tokens prompts are made of; by default the first.
        probe: the draft of probe sampling, or None.
    """

    models: Mapping[str, ModelConfig]
    objectives: tuple[ObjectiveConfig, ...]
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


SECTIONS: dict[str, type] = {
    "initial": StartConfig,
    "tokens": TokenFilter,
    "budget": Budget,
    "options": RunOptions,
    "adapters": AdapterConfig,
}
"""Sections of a run file with one form each."""
REGISTRIES: dict[str, Mapping[str, type]] = {"method": METHODS, "search": SEARCHES}
"""Sections whose field ``type`` says which form they have."""
SHORTHANDS = {"initial": "texts", "budget": "steps"}


def read_run(value: Any) -> RunConfig:
    """Build a run from what a file says.

    Raises:
        OptionError: a name is unknown, or a value is of another type or outside its range.
    """
    value = _mapping(value, [item.name for item in fields(RunConfig)])
    models = read_models(value.get("models"))
    return RunConfig(
        models=models,
        objectives=_objectives(value.get("objectives"), list(models)),
        source=convert(value.get("source", ""), str, "source"),
        probe=_probe(value.get("probe"), list(models)),
        **read_search(value),
    )


def _probe(value: Any, models: list[str]) -> ProbeConfig | None:
    if isinstance(value, FlagText):
        value = parse_text(value, "probe")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise OptionError(f"probe: {value!r}", expected="a mapping with objectives")
    items = _objectives(value.get("objectives"), models, "probe.")
    return read_options(ProbeConfig, {**value, "objectives": items}, "probe")


def _mapping(value: Any, known: list[str]) -> Mapping[str, Any]:
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise OptionError(
            f"a run that is a {type(value).__name__}",
            expected="a mapping with models and objectives",
        )
    for name in value:
        require_known(name, known, "section")
    return value


def read_search(value: Mapping[str, Any], defaults: SearchConfig | None = None) -> dict[str, Any]:
    """Read the sections that runs of every kind share.

    Args:
        value: what a file says.
        defaults: has the sections that it leaves out, and their fields.
    """
    defaults = defaults or SearchConfig()
    found: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        if value.get(name) is not None:
            base, short = getattr(defaults, name), SHORTHANDS.get(name, "")
            found[name] = read_options(cls, value[name], name, shorthand=short, base=base)
    for name, registry in REGISTRIES.items():
        if value.get(name) is not None:
            found[name] = read_typed(registry, value[name], name, getattr(defaults, name))
    return found


def read_models(value: Any) -> dict[str, ModelConfig]:
    """Read models by name; a plain text is the model itself."""
    if isinstance(value, FlagText):
        value = parse_text(value, "models")
    if value is not None and not isinstance(value, Mapping):
        raise OptionError(f"models: {value!r}", expected="a mapping of names to models")
    return {
        str(name): read_options(ModelConfig, item, f"models.{name}", shorthand="model")
        for name, item in (value or {}).items()
    }


def read_typed(
    registry: Mapping[str, type[Typed]], value: Any, where: str, default: Typed | None = None
) -> Typed:
    """Build one of several forms, as the field ``type`` says.

    Args:
        registry: the forms by their type name.
        value: a mapping, or the type name alone.
        where: the section, for messages.
        default: has the type where none is given, and the fields left out of that type.
    """
    if isinstance(value, FlagText) and value[:1] == "{":
        value = parse_text(value, where)
    options = dict(value) if isinstance(value, Mapping) else {"type": value}
    kind = str(options.pop("type", getattr(default, "type", None)))
    require_known(kind, registry, f"{where}: type")
    base = default if getattr(default, "type", None) == kind else None
    return read_options(registry[kind], options, f"{where} ({kind})", base=base)


def _objectives(value: Any, models: list[str], inside: str = "") -> tuple[ObjectiveConfig, ...]:
    if isinstance(value, FlagText):
        value = parse_text(value, f"{inside}objectives")
    if value is None:
        return ()
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, (list, tuple)):
        raise OptionError(f"objectives: {value!r}", expected="a list of mappings")
    found = []
    for index, item in enumerate(items):
        where = f"{inside}objectives[{index}]"
        if isinstance(item, FlagText):
            item = parse_text(item, where)  # noqa: PLW2901
        if not isinstance(item, Mapping):
            raise OptionError(f"{where}: {item!r}", expected="a mapping with type and model")
        options = dict(item)
        model = options.pop("model", models[0] if len(models) == 1 else None)
        if model is None:
            raise OptionError(f"{where}: no model", expected="one of " + ", ".join(models))
        objective = read_typed(OBJECTIVES, options, where)
        found.append(ObjectiveConfig(model=convert(model, str, where), objective=objective))
    return tuple(found)
