"""The report of captions: pictures, captions, curves, alternatives, words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fuse_index.errors import FuseIndexError
from fuse_index.models.images import open_image
from fuse_index.report import Card, Entry, Page, Table, alternatives_of, curve_of, word_effects

if TYPE_CHECKING:
    from PIL.Image import Image

    from fuse_index.report import WordEffects
    from fuse_index.run.captioned import Caption, Captions, FailedImage
    from fuse_index.run.captions import Captioner


def captions_page(captioner: Captioner, captions: Captions) -> Page:
    """Return what the report of captions shows.

    What each word is worth takes two prompts a word; they are not counted as the run's.

    Args:
        captioner: that made them.
        captions: what it made, and the images that failed.
    """
    items = captions.items
    return Page(
        title="Captions",
        lead=_lead(captioner, len(items)),
        notes=[_without_folder(item) for item in captions.failed],
        cards=[_card(captioner, item) for item in items],
        after=[_settings(captioner, captions)] if items else [],
    )


def _lead(captioner: Captioner, count: int) -> str:
    models = f"{captioner.lm.name} and {captioner.clip.name}"
    role = captioner.config.classifier
    if captioner.classifier is not None and role is not None:
        models = (
            f"{captioner.lm.name}, {captioner.clip.name} and {captioner.classifier.name}, label "
            f"{role.label!r}"
        )
    noun = "image" if count == 1 else "images"
    return f"{count:,} {noun}, captioned by {models}."


def _card(captioner: Captioner, item: Caption) -> Card:
    result = item.result
    figures = [("total loss", f"{result.total:.3f}")]
    figures += [(name, f"{loss:.3f}") for name, loss in result.losses.items()]
    figures += [
        ("forward passes", f"{result.spent['forward_passes']:,}"),
        ("seconds", f"{result.spent['seconds']:.1f}"),
        ("ended by", result.stop.value),
    ]
    entry = Entry(
        text=item.text,
        figures=figures,
        curve=curve_of(result),
        alternatives=alternatives_of(result),
        words=_words(captioner, item),
    )
    name = Path(item.image).name
    return Card(name, f"The image {name}, captioned: {item.text}", [entry], _picture(item.image))


def _picture(image: str) -> Image | None:
    """The picture, unless it is gone by now."""
    try:
        return open_image(image)
    except FuseIndexError:
        return None


def _words(captioner: Captioner, item: Caption) -> WordEffects | None:
    """The words' effects, where the models can still be asked."""
    try:
        return word_effects(captioner.problem(item.image), item.result.text)
    except FuseIndexError:
        return None


def _without_folder(failed: FailedImage) -> str:
    """Why an image failed; a page that is passed on says nothing of the folders."""
    return failed.message.replace(failed.image, Path(failed.image).name)


def _settings(captioner: Captioner, captions: Captions) -> Table:
    first, rates = captions.items[0].result, captions.rates
    rows = [
        ["method", first.chosen or str(first.configuration["method"]["type"])],
        ["weights", ", ".join(f"{name} {value:.4g}" for name, value in first.weights.items())],
        ["seed", str(captioner.config.options.seed)],
        ["seconds of all images", f"{rates['seconds']:.1f}"],
        ["forward passes a second", f"{rates['passes_per_second']:.1f}"],
        *([name, version] for name, version in first.versions.items()),
    ]
    return Table("How these were made", ("what", "value"), rows, numbers=False)
