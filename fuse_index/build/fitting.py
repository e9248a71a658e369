"""Fitting the adapters of a bundle again from its group tensors, without the models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from fuse_index.adapter.fit.options import FitOptions
from fuse_index.adapter.fit.store import FitStore
from fuse_index.build.forecast.memory import return_large_blocks
from fuse_index.build.options import BuildResult, Stage, fallback_notes
from fuse_index.build.tensors import GroupTensors, fit_contents
from fuse_index.build.timing import StageTimer
from fuse_index.build.work import Work, as_plan
from fuse_index.bundle import GroupReader, Manifest, check_output, read_manifest, write_bundle
from fuse_index.bundle.files import check_member, check_no_strangers
from fuse_index.bundle.layout import GROUPS, INDEX_FOLDER, WORDS
from fuse_index.bundle.wordfile import WordReader
from fuse_index.common.progress import Progress, Tick, adding
from fuse_index.errors import BundleError, OptionError
from fuse_index.words import table as word_table


def fit_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: FitOptions | None = None,
    *,
    overwrite: bool = False,
    work_dir: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Fit the adapters of a bundle again, from its words and group tensors alone.

    No model is loaded. The bundle that is written has the bytes of a build with these options; its
    word indexes are carried over. Memory does not grow with the number of words.

    Args:
        bundle: the folder of a bundle with group tensors.
        output: the folder to make; ``None`` is the bundle itself, which needs ``overwrite``.
        options: of the fit; ``None`` takes those that the bundle was built with.
        overwrite: whether an existing bundle at ``output`` may be replaced.
        work_dir: folder for unfinished work; beside the output if not given.
        resume: whether to continue a fit that was interrupted.
        progress: called with (stage, units done, units in all or ``None``).

    Returns:
        The path and manifest of the bundle written, and the time of every stage.

    Raises:
        BundleError: the bundle is damaged, holds no group tensors, or does not say how it was
            built.
        OptionError: it is a bundle of one model with itself, or ``resume`` with other options.
        StorageError: the output exists or cannot be written; nothing is left behind.
    """
    timer = StageTimer(progress)
    manifest = read_manifest(bundle)
    options = options or recorded_options(manifest)
    root, output = Path(bundle), check_output(bundle if output is None else output, overwrite)
    if manifest.identity:
        raise OptionError(
            f"{root} is a bundle of one model with itself: its adapter is the identity",
            expected="a bundle of two models",
        )
    plan = as_plan({"bundle": manifest.to_json()["checksum"], **options.to_dict()})
    with timer.stage(Stage.VERIFY) as report:
        words, groups = _verified(root, manifest, report)
    try:
        with Work(output, plan, folder=work_dir, resume=resume) as work:
            store = None
            if manifest.words > word_table.SHARD_WORDS:
                return_large_blocks()
                store = FitStore(work.folder("fit"), checkpoint=work.checkpoint)
            known = {
                "source": manifest.source,
                "target": manifest.target,
                "table": words.table(),
                "corpus_sha256": manifest.corpus_sha256,
                "options": options.replacing(manifest.options),
                "left_out": manifest.left_out,
                "index_files": _index_files(root, manifest),
                "indexes": manifest.indexes,
                "published": manifest.published,
            }
            tensors = GroupTensors.read(words, groups, manifest)
            with timer.stage(Stage.FIT) as report:
                contents = fit_contents(tensors, known, options, report, store)
            with timer.stage(Stage.WRITE) as report:
                contents = replace(contents, groups=tensors.by_group(contents.group_names))
                written = write_bundle(output, contents, overwrite, report)
    finally:
        words.close()
        groups.close()
    counted = manifest.words + sum(manifest.left_out.values())
    return BuildResult(output, written, counted, timer.seconds, fallback_notes(written))


def recorded_options(manifest: Manifest) -> FitOptions:
    """Return the options that a manifest says its adapters were fitted with.

    Raises:
        BundleError: one is missing or out of range.
    """
    try:
        return FitOptions.from_dict(manifest.options)
    except (KeyError, TypeError, OptionError) as error:
        raise BundleError(
            f"the manifest does not say how the adapters were fitted ({error})",
            expected="the options that fuse-index build records",
            remedy="give all options of the fit",
        ) from error


def _verified(root: Path, manifest: Manifest, report: Tick) -> tuple[WordReader, GroupReader]:
    """Check all that is read: checksums before anything is parsed."""
    check_no_strangers(root, manifest.files)
    sizes = {name: record.size for name, record in manifest.files.items()}
    kept = [name for name in sizes if name.startswith(f"{INDEX_FOLDER}/")]
    add = adding(report, sum(sizes.get(name, 0) for name in (WORDS, GROUPS, *kept)))
    groups = GroupReader(root, manifest, add)
    try:
        for name in kept:
            os.close(check_member(root, name, manifest.files[name], add))
        return WordReader(root, manifest, add), groups
    except BaseException:
        groups.close()
        raise


def _index_files(root: Path, manifest: Manifest) -> dict[str, Path]:
    names = [name for name in manifest.files if name.startswith(f"{INDEX_FOLDER}/")]
    return {name.removeprefix(f"{INDEX_FOLDER}/"): root / name for name in names}
