"""The demo's models and the adapters between them, built on the spot."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fuse_index.common.progress import Progress, silent
from fuse_index.demo.corpus import write_vocabulary
from fuse_index.demo.packaged import DemoModel, model_name, verify
from fuse_index.errors import StorageError
from fuse_index.run.adapters import AdapterStore
from fuse_index.run.config import AdapterConfig

if TYPE_CHECKING:
    from fuse_index.adapter.adapter import Adapter
    from fuse_index.models.base import Model
    from fuse_index.models.causal import CausalModel
    from fuse_index.models.clip import ClipModel
    from fuse_index.models.encoder import ClassifierModel

LONGEST_WORD = 5
"""Tokens of the longest word of the grammar, in the language model."""


@dataclass(frozen=True, eq=False)
class Cast:
    """Who takes part in a demo.

    Attributes:
        lm: writes; captions are made of its tokens.
        clip: compares captions with pictures.
        sentiment: guides the feeling.
        judge: judges the feeling afterwards.
        to_clip: adapter from the language model's tokens to CLIP's.
        to_sentiment: adapter from them to the classifier's.
        quality: of the adapters on held-out words, by target and group.
        seconds: that loading and building took, by stage.
    """

    lm: CausalModel
    clip: ClipModel
    sentiment: ClassifierModel
    judge: ClassifierModel
    to_clip: Adapter
    to_sentiment: Adapter
    quality: dict[str, dict[str, Any]]
    seconds: dict[str, float]


def assemble_cast(folder: Path | None = None, progress: Progress = silent) -> Cast:
    """Check and load the packaged models, and build the adapters from the grammar's words.

    Args:
        folder: where the models are; None is the package's own.
        progress: called before each stage.

    Raises:
        ModelError: a file of the models is missing or damaged; the message names it and the
            checksum expected.
        StorageError: there is no place for the adapters' files.
    """
    from fuse_index.models import load_model  # noqa: PLC0415 - it imports transformers

    clock = time.perf_counter
    begin = clock()
    progress("checking the models' files", 0, None)
    verify(folder)
    checked = clock()
    models: dict[DemoModel, Model] = {}
    for done, model in enumerate(DemoModel):
        progress(f"loading {model.value}", done, len(DemoModel))
        bos = True if model is DemoModel.LM else None
        models[model] = load_model(model_name(model, folder), bos=bos, local_files_only=True)
    loaded = clock()
    progress("building adapters", 0, None)
    adapters = _build(models)
    seconds = {"check": checked - begin, "load": loaded - checked, "build": clock() - loaded}
    names = (DemoModel.CLIP, DemoModel.SENTIMENT)
    quality = {
        name.value: dict(adapter.bundle.manifest.quality) if adapter.bundle else {}
        for name, adapter in zip(names, adapters, strict=True)
    }
    return Cast(
        lm=cast("CausalModel", models[DemoModel.LM]),
        clip=cast("ClipModel", models[DemoModel.CLIP]),
        sentiment=cast("ClassifierModel", models[DemoModel.SENTIMENT]),
        judge=cast("ClassifierModel", models[DemoModel.JUDGE]),
        to_clip=adapters[0],
        to_sentiment=adapters[1],
        quality=quality,
        seconds=seconds,
    )


def _build(models: dict[DemoModel, Model]) -> list[Adapter]:
    """Adapters to CLIP and to the classifier, from bundles in a folder that goes away."""
    try:
        with tempfile.TemporaryDirectory(prefix="fuse-index-demo-") as folder:
            words = write_vocabulary(Path(folder) / "words.txt")
            config = AdapterConfig(words=str(words), max_tokens=LONGEST_WORD, cache=Path(folder))
            store = AdapterStore(models[DemoModel.LM], config)
            found = [store.get(models[name]) for name in (DemoModel.CLIP, DemoModel.SENTIMENT)]
    except OSError as error:
        raise StorageError(
            f"temporary folder {tempfile.gettempdir()}: {error.strerror or error}",
            expected="a folder that can be written, for the adapters",
            remedy="set TMPDIR to another folder",
        ) from error
    return [adapter for adapter in found if adapter is not None]
