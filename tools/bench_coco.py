r"""Captions of real photographs by every method, scored as the field scores them.

Reads COCO's annotations, split files (Karpathy's for COCO and Flickr, SentiCap's), captions
by file name and Flickr's lines; without references, a folder of pictures. The figures are BLEU,
METEOR, ROUGE-L, CIDEr and SPICE (what needs Java is named where it is missing), CLIPScore,
RefCLIPScore, perplexity, agreement with the sentiment, vocabulary, forward passes and seconds.

    python tools/bench_coco.py --demo 20          # the demo's scenes and models: nothing to fetch
    python tools/bench_coco.py --images coco/ --references dataset_coco.json --subset 1000 \
        --lm openai-community/gpt2-medium --clip openai/clip-vit-base-patch32 --found found.jsonl

Captions are kept in --found as they are made; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _bench
import _scores
from _coco_found import Found, Store
from _coco_scores import COMPARED, as_row, markdown, score
from _coco_set import PLAIN, TASKS, Task, read_task, write_demo_set

from fuse_index.errors import FuseIndexError
from fuse_index.evaluate.clipscore import PROMPT
from fuse_index.evaluate.coco import ImageId
from fuse_index.evaluate.interval import Score
from fuse_index.optimize import Stop
from fuse_index.run import Captioner, load_file, read_captions
from fuse_index.run.captioned import Caption, FailedImage

PAIRS = (("best", "no retrieval"), ("best", "no gradient"), ("best", "paper"))
"""Methods that are compared on the same images, first less second."""
PAPER = {
    "method": {"type": "autodan", "length": 17, "search_width": 512},
    "search": {"type": "beam", "width": 4},
    "budget": {"steps": 16, "forward_passes": None},
    "initial": {"draw": "model", "texts": ["a"]},
    "lm": {"weight": 1.0, "reduction": "mean", "include_end": False},
    "clip": {"weight": 22.0},
}
"""FUSE's own setting (Williams & Kolter 2024): AutoDAN with a beam of 4, 16 steps of 512
candidates, mean log-likelihood and 22 times CLIP's ``1 - cosine``."""


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        try:
            _run(arguments, stack)
        except FuseIndexError as error:
            parser.error(str(error))
        except KeyboardInterrupt:
            print("interrupted; with --found the same command goes on", file=sys.stderr)
            sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = _bench.parser(__doc__)
    add = parser.add_argument
    add("--demo", type=int, metavar="N", help="caption N of the demo's scenes with its models")
    add("--images", type=Path, metavar="FOLDER", help="the pictures; with --demo, where they go")
    add("--references", type=Path, metavar="FILE", help="captions of them, in any layout")
    add("--senticap", type=Path, metavar="FILE", help="references with a sentiment")
    add("--split", help="of a file with splits (default: test)")
    add("--subset", type=int, metavar="N", help="so many images, drawn by --seed")
    add("--tasks", default=PLAIN, help=f"of {', '.join(TASKS)}, separated by commas")
    add("--methods", default=",".join(METHODS), help="separated by commas")
    add("--lm", help="language model, whose tokens captions consist of")
    add("--clip", help="CLIP that compares caption and picture")
    add("--classifier", help="classifier that guides the sentiment")
    add("--positive", default="positive", help="the classifier's label for it, or its index")
    add("--negative", default="negative", help="likewise")
    add("--judge", help="classifier that judges it (default: the one that guides)")
    add("--clipscore", metavar="MODEL", help="CLIP of CLIPScore (default: --clip)")
    add("--clip-prompt", default=PROMPT, help="what CLIPScore puts before every caption")
    add("--corpus", type=Path, help="captions from which retrieval takes its beginnings")
    add("--file", type=Path, metavar="RUN.yaml", help="any option of 'fuse-index caption'")
    add("--passes", type=int, default=1500, help="forward passes a caption, but for 'paper'")
    add("--metrics", help="of bleu, meteor, rouge, cider, spice, separated by commas")
    add("--seed", type=int, default=0)
    add("--device", help="of the models that score")
    add("--found", type=Path, metavar="FILE.jsonl", help="captions, kept and read again")
    return parser


def _run(arguments: Any, stack: ExitStack) -> None:
    arguments.settings = {} if arguments.file is None else load_file(arguments.file)
    for role in ("lm", "clip", "classifier"):
        stated = arguments.settings.get(role)
        name = stated.get("model") if isinstance(stated, dict) else stated
        setattr(arguments, role, getattr(arguments, role) or name)
    if arguments.demo:
        folder = arguments.images or Path(stack.enter_context(TemporaryDirectory()))
        arguments.images = None
        for name, value in write_demo_set(folder, arguments.demo).items():
            if getattr(arguments, name) in (None, {}, PROMPT):
                setattr(arguments, name, value)
    tasks = [read_task(name, arguments) for name in _names(arguments.tasks, TASKS, "--tasks")]
    methods = _names(arguments.methods, tuple(METHODS), "--methods")
    store = Store(arguments.found)
    told = [line for task in tasks for line in task.told] + store.told
    rows: list[_bench.Row] = []
    scores: dict[str, dict[str, Score]] = {}
    left_out: dict[str, str] = {}
    for name in methods:
        for task in tasks:
            case = name if task.name == PLAIN else f"{name} ({task.name})"
            config = settings(name, task.name, arguments)
            if config is None:
                told.append(f"{case}: without --corpus it is the same as best")
                continue
            found = captions_of(case, config, task, store, told)
            if not found:
                told.append(f"{case}: no image could be captioned")
                continue
            scores[case] = score(task, found, arguments, left_out)
            rows.append(as_row(case, task, found, scores[case]))
    compared = [pair for pair in _cases(tasks) if _same_images(pair, rows)]
    differences = _scores.differences(compared, scores, COMPARED)
    told = list(dict.fromkeys(told))
    if arguments.json:
        extra = {"differences": differences, "left_out": left_out, "told": told}
        _bench.publish("coco", rows, True, ("transformers", "pycocoevalcap"), **extra)
    else:
        print(markdown(rows, scores, differences, left_out, told))


def _names(given: str, known: Sequence[str], flag: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise FuseIndexError(f"{flag} {given}", expected=f"one or several of {', '.join(known)}")
    return names


def _best(arguments: Any) -> dict[str, Any]:
    """The defaults of ``fuse-index caption``; from retrieved sentences where there is a corpus."""
    if arguments.corpus is None:
        return {}
    return {"initial": {"draw": "retrieval", "corpus": [str(arguments.corpus)]}}


METHODS = {
    "best": _best,
    "no retrieval": lambda arguments: {} if arguments.corpus else None,
    "no gradient": lambda arguments: {
        **_best(arguments),
        "method": {"type": "moves", "weight": 0.0},
    },
    "paper": lambda _: PAPER,
}
"""What each changes in the options of ``fuse-index caption``; None where it would be another."""


def settings(method: str, task: str, arguments: Any) -> dict[str, Any] | None:
    """The run file of a method and a task, without what was not named."""
    own = METHODS[method](arguments)
    if own is None:
        return None
    roles: dict[str, Any] = {"lm": {"model": arguments.lm}, "clip": {"model": arguments.clip}}
    if task != PLAIN:
        if arguments.classifier is None:
            raise FuseIndexError(f"task {task} without --classifier", expected="a classifier")
        roles["classifier"] = {"model": arguments.classifier, "label": getattr(arguments, task)}
    base = {"budget": {"forward_passes": arguments.passes}, "options": {"seed": arguments.seed}}
    return _merged(_merged(_merged(base, arguments.settings), roles), own)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Put options over others, section by section; None leaves what is there."""
    found = dict(under)
    for name, value in over.items():
        below = found.get(name)
        if isinstance(value, Mapping) and name not in ("method", "search"):
            given = {"model": below} if isinstance(below, str) else below or {}
            found[name] = _merged(given, value)
        elif value is not None or name == "forward_passes":
            found[name] = value
    return found


def caption_images(
    captioner: Captioner, images: Mapping[ImageId, Path]
) -> Iterator[tuple[ImageId, Caption | FuseIndexError]]:
    """Caption images, as many at once as the verb does; the reason for those that cannot be."""
    made = captioner.caption_all(list(images.values()))
    for image, item in zip(images, made, strict=False):  # an interrupt ends it early
        yield image, item.error if isinstance(item, FailedImage) else item


def captions_of(
    case: str, config: dict[str, Any], task: Task, store: Store, told: list[str]
) -> dict[ImageId, Found]:
    """Captions of a case by image: those that were kept, and the missing ones made now."""
    known = store.of(config)
    missing = {image: path for image, path in task.images.items() if image not in known}
    captioner = Captioner(read_captions(config)) if missing else None
    for image, made in caption_images(captioner, missing) if captioner else ():
        if isinstance(made, FuseIndexError):
            told.append(f"{case}: image {image!r} has no caption: {made}")
            continue
        if made.result.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        known[image] = store.keep(config, image, made)
        print(f"{case}: {len(known)} of {len(task.images)}", file=sys.stderr, flush=True)
    return {image: known[image] for image in task.images if image in known}


def _cases(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """The pairs that are compared, for every task."""
    ends = ["" if task.name == PLAIN else f" ({task.name})" for task in tasks]
    return [(first + end, second + end) for end in ends for first, second in PAIRS]


def _same_images(pair: tuple[str, str], rows: Sequence[_bench.Row]) -> bool:
    """Whether both cases have captions of the same images."""
    images = [row["captions"].keys() for row in rows if row["case"] in pair]
    return len(images) == 2 and images[0] == images[1]


if __name__ == "__main__":
    main()
