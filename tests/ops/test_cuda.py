"""What only the CUDA kernels promise: capture, every block shape, clamped offsets, streams."""

from __future__ import annotations

import pytest
import torch

from fuse_index.ops import _cuda, native_status, pull_back, t_product
from fuse_index.ops._checks import Layout
from tests.ops.helpers import (
    TOLERANCE,
    TUBES,
    WORDS,
    brute_pull_back,
    make_case,
    relative_error,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not native_status().cuda, reason=f"no kernels: {native_status().reason}"),
]
STORAGE = [torch.float32, torch.bfloat16, torch.float16]
BULK = [_cuda.Variant.BULK64, _cuda.Variant.BULK128]
SHAPES = [v for v in _cuda.Variant if v is not _cuda.Variant.AUTO]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("variant", SHAPES, ids=lambda v: v.name)
@pytest.mark.parametrize("split", [1, 2, 4])
def test_every_block_shape_gives_the_definition(dtype, variant, split):
    case = make_case(WORDS * 9, TUBES, 200, 328, dtype=dtype, device="cuda")
    out = _cuda.launch_pull_back(
        case.target,
        case.faces,
        Layout(*case.layout),
        case.source.shape[0],
        variant=variant,
        split=split,
    )
    assert relative_error(out, brute_pull_back(case)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("variant", BULK)
@pytest.mark.parametrize("tube", [1, 2, 3, 4])
@pytest.mark.parametrize("split", [1, 2, 8])
def test_long_sums_go_round_the_rings(dtype, variant, tube, split):
    """Full tiles, a tile with an idle half, more target tokens than the tube; same every time."""
    words = [(0, tube, tube)] * 150 + [(1, tube, 2 * tube + 1)] * 20
    case = make_case(words, [tube, tube], 72, 1544, dtype=dtype, device="cuda")
    args = (case.target, case.faces, Layout(*case.layout), case.source.shape[0])
    out = _cuda.launch_pull_back(*args, variant=variant, split=split)
    exact = pull_back(case.target.double(), case.faces.double(), *case.layout, args[-1])
    assert relative_error(out, exact.cpu()) <= TOLERANCE[dtype]
    for _ in range(3):
        again = _cuda.launch_pull_back(*args, variant=variant, split=split)
        assert torch.equal(out, again)


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("variant", BULK)
@pytest.mark.parametrize("d_src", [1, 60, 75, 136])
def test_bulk_kernel_stores_rows_of_any_width(dtype, variant, d_src):
    """Rows that 16-byte pieces divide or not, a last block of few columns, words without rows."""
    words = [(w % 3, w % 4, 1 + w % 5) for w in range(100)]
    case = make_case(words, [4, 2, 3], d_src, 136, dtype=dtype, device="cuda")
    args = (case.target, case.faces, Layout(*case.layout), case.source.shape[0])
    want = brute_pull_back(case)
    for split in (1, 2):
        out = _cuda.launch_pull_back(*args, variant=variant, split=split)
        assert relative_error(out, want) <= TOLERANCE[dtype]


@pytest.mark.parametrize("variant", BULK)
def test_bulk_kernel_finds_many_words_and_leaves_long_tubes(variant):
    """More words than its first launch asks for at once, groups of long tubes alone or between."""
    words = [((w * 7) % 5, 1 + w % 2, 1 + w % 3) for w in range(800)]
    for tubes in ([2, 5, 1, 7, 4], [5, 6, 5, 7, 5]):
        case = make_case(words, tubes, 72, 64, dtype=torch.float32, device="cuda")
        args = (case.target, case.faces, Layout(*case.layout), case.source.shape[0])
        out = _cuda.launch_pull_back(*args, variant=variant)
        exact = pull_back(case.target.double(), case.faces.double(), *case.layout, args[-1])
        assert relative_error(out, exact.cpu()) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("variant", BULK)
@pytest.mark.parametrize("split", [1, 4])
def test_bulk_launches_of_a_graph_share_a_workspace(dtype, variant, split):
    """What the first launch of each writes down of the words is what the second reads."""
    cases = [
        make_case(
            [(w % groups, 2, 1 + w % 3) for w in range(150)],
            [4 - (g + groups) % 3 for g in range(groups)],
            *(200, 520),
            dtype=dtype,
            device="cuda",
            seed=groups,
        )
        for groups in (1, 2, 3)
    ]

    def run(case):
        args = (case.target, case.faces, Layout(*case.layout), case.source.shape[0])
        return _cuda.launch_pull_back(*args, variant=variant, split=split)

    alone = [run(case) for case in cases]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        together = [run(case) for _ in range(4) for case in cases]
    for _ in range(5):
        for out in together:
            out.fill_(torch.nan)
        graph.replay()
        for out, want in zip(together, alone * 4, strict=True):
            assert torch.equal(out, want)
    # The layout is read by the device: other words in the same graph.
    case = cases[1]
    case.layout[1].copy_(1 - case.layout[1])
    graph.replay()
    exact = pull_back(case.target.double(), case.faces.double(), *case.layout, case.source.shape[0])
    assert relative_error(together[-2], exact.cpu()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_a_large_batch_in_a_graph(dtype):
    """Large enough for the bulk kernel, whose workspace then belongs to the graph."""
    words = [(w % 2, 1 + w % 3, 1 + w % 2) for w in range(80)]
    case = make_case(words, [2, 6], 2048, 2048, dtype=dtype, device="cuda")
    args = (case.faces, *case.layout, case.source.shape[0])
    grad = torch.zeros_like(case.target)
    pull_back(grad, *args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = pull_back(grad, *args)
    grad.copy_(case.target)
    graph.replay()
    torch.cuda.synchronize()
    exact = pull_back(case.target.double(), case.faces.double(), *args[1:])
    assert relative_error(out, exact.cpu()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_capture_in_a_graph(dtype):
    case = make_case(WORDS, TUBES, 64, 128, dtype=dtype, device="cuda")
    args = (case.faces, *case.layout, case.source.shape[0])
    grad = case.target.clone()
    a = torch.randn(3, 16, 24, device="cuda").to(dtype)
    b = torch.randn(3, 24, 8, device="cuda").to(dtype)
    pull_back(grad, *args)
    t_product(a, b)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, product = pull_back(grad, *args), t_product(a, b)
    grad.copy_(case.target.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, pull_back(grad, *args))
    assert torch.equal(product, t_product(a, b))
    assert not torch.equal(out, pull_back(case.target, *args))


def test_runs_on_the_current_stream():
    case = make_case(WORDS, TUBES, 64, 128, dtype=torch.float32, device="cuda")
    args = (case.faces, *case.layout, case.source.shape[0])
    want = pull_back(case.target, *args)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = case.target * 1.0  # ready only after the sleep, on this stream
        out = pull_back(late, *args)
    stream.synchronize()
    assert torch.equal(out, want)


def test_offsets_out_of_range_are_clamped():
    """The values of CUDA offsets are not read by the host; no value may fault."""
    case = make_case([(0, 2, 2), (1, 1, 1)], [2, 1], 32, 64, dtype=torch.float32, device="cuda")
    huge = torch.tensor([0, 1 << 40, -5], device="cuda")
    for index in range(4):
        layout = list(case.layout)
        layout[index] = huge[: layout[index].shape[0]].contiguous()
        pull_back(case.target, case.faces, *layout, case.source.shape[0])
    torch.cuda.synchronize()
    out = pull_back(case.target, case.faces, *case.layout, case.source.shape[0])
    assert relative_error(out, brute_pull_back(case)) <= TOLERANCE[torch.float32]


def test_words_of_one_group_in_any_order_and_number():
    """Many tiles of words, groups interleaved: the device finds its own words."""
    words = [(w % 3, 1 + w % 3, 1 + (w + 1) % 3) for w in range(1000)]
    case = make_case(words, [3, 3, 3], 24, 40, dtype=torch.float32, device="cuda")
    out = pull_back(case.target, case.faces, *case.layout, case.source.shape[0])
    assert relative_error(out, brute_pull_back(case)) <= TOLERANCE[torch.float32]


def test_more_groups_than_shared_memory_holds():
    tubes = [1] * 1100
    case = make_case([(1099, 1, 2), (3, 2, 1)], tubes, 8, 8, dtype=torch.float32, device="cuda")
    out = pull_back(case.target, case.faces, *case.layout, case.source.shape[0])
    assert relative_error(out, brute_pull_back(case)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("tube", [1, 2, 3, 4, 7, 31, 33, 48])
def test_thin_kernel_takes_tubes_up_to_its_limit(dtype, tube):
    """More words than one block, tiles of several words, tubes longer than a tile, surplus rows."""
    words = [(w % 2, 1 + w % (tube + 2), w % (2 * tube + 2)) for w in range(70)]
    case = make_case(words, [tube, 1], 40, 200, dtype=dtype, device="cuda")
    args = (case.target, case.faces, Layout(*case.layout), case.source.shape[0])
    out = _cuda.launch_pull_back(*args, variant=_cuda.Variant.THIN)
    exact = pull_back(case.target.double(), case.faces.double(), *case.layout, args[-1])
    assert relative_error(out, exact.cpu()) <= TOLERANCE[dtype]
    assert torch.equal(out, _cuda.launch_pull_back(*args, variant=_cuda.Variant.THIN))


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_launches_that_overlap_read_what_came_before(dtype):
    """The kernel may start before the one before it has ended; every link of a chain is right."""
    case = make_case([(0, 1, 1), (1, 2, 2)], [1, 2], 64, 64, dtype=dtype, device="cuda")
    args = (case.faces * 0.1, *case.layout, case.source.shape[0])
    rows = case.target
    for _ in range(20):
        want = pull_back(rows.double(), args[0].double(), *args[1:])
        rows = pull_back(rows, *args)
        assert relative_error(rows, want.cpu()) <= TOLERANCE[dtype]
    chained = case.target
    for _ in range(20):
        chained = pull_back(chained, *args)
    assert torch.equal(chained, rows)
