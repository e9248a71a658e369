"""What a checkpoint holds of a run, and how the run goes on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuse_index.optimize.budget import Spent
from fuse_index.optimize.checkpoint import Checkpoint, pack_rows, unpack_rows

if TYPE_CHECKING:
    from fuse_index.optimize.batching import BatchSize
    from fuse_index.optimize.run import Run


def checkpoint_of(run: Run) -> Checkpoint:
    """Return everything a run needs to go on after its last finished step."""
    values = {
        "spent": run.spent.to_json(),
        "record": run.record.to_json(),
        "search": run.search.to_json(),
        "weights": run.weights.tolist(),
        "batch_sizes": [size.to_json() for size in _batch_sizes(run)],
        "counters": [run.check.empty_steps, run.check.lost_candidates, run.stale],
    }
    tensors = {f"method.{name}": value for name, value in run.method.tensors().items()}
    tensors |= pack_rows("memory", *run.scorer.memory())
    if run.probe is not None:
        tensors |= pack_rows("draft", *run.probe.draft_scorer.memory())
    tensors["generator"] = run.generator.get_state()
    return Checkpoint(run.configuration(), values, tensors)


def restore(run: Run, saved: Checkpoint) -> None:
    """Let a run go on from a checkpoint of the same configuration."""
    values, tensors = saved.values, saved.tensors
    for name, value in vars(Spent.from_json(values["spent"])).items():
        setattr(run.spent, name, value)
    run.weights[:] = values["weights"]
    run.record.load_json(values["record"])
    run.search.load_json(values["search"])
    for size, item in zip(_batch_sizes(run), values["batch_sizes"], strict=True):
        size.load_json(item)
    run.check.empty_steps, run.check.lost_candidates, run.stale = values["counters"]
    run.scorer.restore(*unpack_rows("memory", tensors))
    if run.probe is not None:
        run.probe.draft_scorer.restore(*unpack_rows("draft", tensors))
    own = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    run.method.load_tensors(own)
    run.generator.set_state(tensors["generator"])


def _batch_sizes(run: Run) -> list[BatchSize]:
    drafts = () if run.probe is None else run.probe.draft_scorer.batch_sizes
    return [*run.scorer.batch_sizes, *drafts, run.gradients.rows]
