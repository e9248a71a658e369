"""Check an installed fuse_index: the native core is in it, and a bundle can be built and used.

Run in the environment of a wheel, outside the source tree; cibuildwheel does it for every wheel
(pyproject.toml). ``FUSE_INDEX_CUDA=1`` says that the CUDA kernels must be in it; a driver need not
be there. Leaves with an error and one line that says what is wrong.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch

import fuse_index
from fuse_index import Adapter, verify_bundle
from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, model_name, verify, write_corpus
from fuse_index.ops import native_status, t_product

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-5


def check(holds: bool, what: str) -> None:
    """Leave where something does not hold."""
    if not holds:
        sys.exit(f"check_wheel: {what}")


def check_native() -> None:
    """The extension is there, and its CUDA part where it was asked for."""
    status = native_status()
    check(status.native, f"no native core: {status.reason}")
    folder = Path(fuse_index.__file__).parent
    check(not folder.is_relative_to(ROOT), f"{folder} is the source tree, not an installed wheel")
    built = json.loads((folder / "ops" / "_build_info.json").read_text(encoding="utf-8"))
    wanted = os.environ.get("FUSE_INDEX_CUDA", "auto")
    if wanted in {"0", "1"}:
        check(built["cuda"] is (wanted == "1"), f"FUSE_INDEX_CUDA={wanted}, but built {built}")
    print(f"native core: {status}")


def check_values() -> None:
    """A t-product is a circular convolution of matrix products."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 5, 6, generator=generator)
    expected = torch.stack([sum(a[s] @ b[(t - s) % 3] for s in range(3)) for t in range(3)])
    check(torch.allclose(t_product(a, b), expected, atol=TOLERANCE), "t_product is wrong")


def check_bundle(folder: Path) -> None:
    """A bundle of the packaged models is built, verified, and pulls a gradient back."""
    verify()
    corpus, bundle = folder / "corpus.txt", folder / "bundle"
    write_corpus(corpus)
    source, target = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)
    code = main(["build", source, target, "--corpus", str(corpus), "--out", str(bundle)])
    check(code == 0, f"build ended with {code}")
    verify_bundle(bundle)
    adapter = Adapter.from_pretrained(bundle)
    layout = adapter.layout([1, 2, 1], [1, 1, 2])
    gradient = torch.randn(4, adapter.target_width, generator=torch.Generator().manual_seed(1))
    fast = adapter.pull_back(gradient, layout)
    exact = adapter.to(dtype=torch.float64).pull_back(gradient.double(), layout)  # never native
    worst = float((fast - exact).abs().max() / exact.abs().max())
    check(worst < TOLERANCE, f"the native pull-back is off by {worst:.1e}")


if __name__ == "__main__":
    check_native()
    check_values()
    with tempfile.TemporaryDirectory() as name:
        check_bundle(Path(name))
    print(f"fuse_index {fuse_index.__version__} is sound")
