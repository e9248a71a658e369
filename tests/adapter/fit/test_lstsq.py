"""Every route to the solution against the float64 pseudo-inverse."""

from __future__ import annotations

import pytest
import torch

from fuse_index.adapter.fit import lstsq
from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.lstsq import Solver, solve_problem
from fuse_index.errors import ModelError
from fuse_index.tensors import t_lstsq, t_pinv, t_product
from tests.adapter.fit.fitting import CPU, draw, make_problem, pad, relative
from tests.cases import case

LENGTHS = [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3), (3, 3), (3, 4), (4, 2), (4, 4), (5, 5)]


@pytest.fixture
def workers():
    with Workers(CPU) as result:
        yield result


def words(p, q, n, width=12, columns=5, vocabulary=None):
    """Word tensors of tokens of their own, or of few tokens that repeat."""
    source, target = draw(1, vocabulary or n * p, width), draw(2, vocabulary or n * q, columns)
    pick = torch.Generator().manual_seed(3)
    if vocabulary:
        s_ids = torch.randint(vocabulary, (p, n), generator=pick)
        t_ids = torch.randint(vocabulary, (q, n), generator=pick)
    else:
        s_ids, t_ids = torch.arange(n * p).view(p, n), torch.arange(n * q).view(q, n)
    return source[s_ids], target[t_ids]


def reference(x, y, ridge=0.0):
    k = max(len(x), len(y))
    x, y = pad(x, k), pad(y, k)
    if not ridge:
        return t_product(t_pinv(x, rtol=1e-11), y)
    return t_lstsq(x, y, ridge=ridge * float(x.square().sum()) / x.shape[2])


@pytest.mark.parametrize(
    ("n", "vocabulary", "method"),
    [
        (60, None, Solver.CHOLESKY),  # tall
        (8, None, Solver.CHOLESKY),  # dual
        (12, None, None),  # square: badly conditioned by chance
        (60, 3, Solver.EIGENVALUES),  # tall, of few tokens
        (11, 2, Solver.EIGENVALUES),  # dual, of few tokens
        (1, None, Solver.CHOLESKY),
    ],
)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_equals_the_pseudo_inverse(workers, n, vocabulary, method, ridge):
    for p, q in LENGTHS:
        with case(p=p, q=q):
            x, y = words(p, q, n, vocabulary=vocabulary)
            solution = solve_problem(make_problem(x, y, workers), ridge)
            assert solution.faces.shape == (max(p, q), 12, 5)
            assert relative(solution.faces, reference(x, y, ridge)) < 1e-9
            assert solution.ridge == ridge
            if ridge:
                assert solution.method is Solver.CHOLESKY
            elif method is not None:
                assert solution.method is method
            assert (solution.gram is None) == (n < 12)


@pytest.mark.parametrize("n", [40, 9])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("smallest", [1e-3, 1e-5, 1e-6, 1e-8])
def test_badly_conditioned_words_take_the_careful_route(workers, n, k, smallest):
    """Where squaring the condition number would cost the accuracy, it is not squared."""
    x, y = words(k, k, n)
    small = draw(9, 12, 12)
    basis, _ = torch.linalg.qr(small)
    scale = torch.ones(12, dtype=torch.float64)
    scale[-4:] = smallest
    x = x @ (basis * scale) @ basis.T
    solution = solve_problem(make_problem(x, y, workers), 0.0)
    tolerance = 1e-14 / smallest + 1e-9
    assert relative(solution.faces, reference(x, y)) < min(1e-5, 1e4 * tolerance)
    if n >= 12:
        assert solution.method is (Solver.CHOLESKY if smallest > 1e-4 else Solver.ORTHOGONAL)


@pytest.mark.parametrize("n", [40, 9])
def test_careful_route_with_a_ridge_and_with_null_directions(workers, n):
    x, y = words(2, 2, n)
    x = x @ torch.diag(torch.tensor([1.0] * 6 + [1e-6] * 5 + [0.0], dtype=torch.float64))
    solution = solve_problem(make_problem(x, y, workers), 1e-16)
    assert solution.method is Solver.ORTHOGONAL
    assert relative(solution.faces, reference(x, y, 1e-16)) < 1e-5
    solution = solve_problem(make_problem(x, y, workers), 0.0)
    assert relative(solution.faces, reference(x, y)) < 1e-5


def test_zero_words_give_a_zero_adapter(workers):
    for n in (30, 4):
        x, y = torch.zeros(2, n, 12).double(), draw(0, 2, n, 5)
        for ridge in (0.0, "auto"):
            solution = solve_problem(make_problem(x, y, workers), ridge)
            assert torch.equal(solution.faces, torch.zeros(2, 12, 5).double())


@pytest.mark.parametrize("n", [60, 8])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 3), (4, 4)])
def test_automatic_ridge_is_used_as_a_number_would_be(workers, n, p, q):
    x, y = words(p, q, n)
    solution = solve_problem(make_problem(x, y, workers), "auto")
    assert solution.ridge > 0
    assert relative(solution.faces, reference(x, y, solution.ridge)) < 1e-9


def test_automatic_ridge_is_the_same_in_both_forms(workers):
    """Words of zeros add nothing but rows, and turn the dual form into the primal one."""
    x, y = words(3, 3, 10)
    dual = make_problem(x, y, workers)
    padded = [torch.cat([a, a.new_zeros(3, 5, a.shape[2])], dim=1) for a in (x, y)]
    primal = make_problem(*padded, workers)
    object.__setattr__(primal, "samples", 10)
    solutions = [solve_problem(problem, "auto") for problem in (dual, primal)]
    assert solutions[0].gram is None
    assert solutions[1].gram is not None
    assert solutions[0].ridge == solutions[1].ridge


def large(condition, offset=0.0, n=4096, width=512, k=2):
    """Enough words for float32 to pay, of a known condition number before the offset."""
    basis, _ = torch.linalg.qr(draw(4, width, width))
    scale = torch.logspace(0, -0.5 * torch.log10(torch.tensor(condition)).item(), width)
    x = (draw(5, k, n, width) * scale.double() @ basis + offset).float().double()
    return x, draw(6, k, n, 8).float().double()


@pytest.mark.parametrize(("condition", "offset"), [(1.0, 0.0), (20.0, 0.0), (2.0, 0.05)])
def test_float32_products_hold_the_tolerance(workers, condition, offset):
    x, y = large(condition, offset)
    solution = solve_problem(make_problem(x, y, workers, chunk=1000), 0.0)
    assert solution.method is Solver.SINGLE
    assert solution.gram.single
    exact = solve_problem(make_problem(x, y, workers, chunk=1000), 0.0, single=False)
    assert exact.method is Solver.CHOLESKY
    assert 1e-9 < relative(solution.faces, exact.faces) < 5e-6


@pytest.mark.parametrize(("condition", "offset"), [(1e4, 0.0), (2.0, 3.0)])
def test_float32_products_are_refused_where_they_do_not(workers, condition, offset):
    x, y = large(condition, offset)
    seen = []
    problem = make_problem(x, y, workers, chunk=1000)
    solution = solve_problem(problem, 0.0, add=seen.append)
    assert solution.method is Solver.CHOLESKY
    assert not solution.gram.single
    assert sum(seen) == x.shape[1]  # nothing is reported twice
    assert solution.rejected_single == (offset == 0.0)  # a large mean shows in the first chunk


def test_float32_products_need_full_float32_precision(workers, monkeypatch):
    x, y = large(1.0)
    problem = make_problem(x, y, workers, chunk=1000)
    assert lstsq._single_pays(problem, 0.0)
    assert not lstsq._single_pays(problem, "auto")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert not lstsq._single_pays(problem, 0.0)


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_an_error(workers, n, value):
    x, y = words(2, 2, n)
    x[1, 3, 2] = value
    with pytest.raises(ModelError, match="hold NaN or infinity; expected finite embeddings"):
        solve_problem(make_problem(x, y, workers), 0.0)


@pytest.mark.parametrize("n", [40, 5])
def test_targets_that_are_not_finite_are_an_error(workers, n):
    x, y = words(2, 2, n)
    y[0, 1, 2] = float("nan")
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        solve_problem(make_problem(x, y, workers), 0.0)
