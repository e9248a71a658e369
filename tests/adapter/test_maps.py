"""Maps that are no t-products: exact products with the Jacobian, ragged words, every dtype."""

from __future__ import annotations

import pytest
import torch

from fuse_index.adapter import Adapter, bridge
from fuse_index.adapter.maps import GroupMap, make_map
from fuse_index.bundle.kinds import FIELDS, has_faces
from fuse_index.errors import OptionError, ShapeError
from tests.adapter.helpers import pull_back_word

D_SRC, D_TGT = 4, 3
KINDS = [kind for kind in FIELDS if not has_faces(kind)]
CURVED = ["local", "mlp"]


def random_map(kind: str, p: int, q: int, seed: int = 0) -> GroupMap:
    """A map of random tensors in float64, of the shapes that a bundle holds."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "S": p * D_SRC,
        "T": q * D_TGT,
        "q": q,
        "s": D_SRC,
        "t": D_TGT,
        "r": 2,
        "m": 6,
        "h": 5,
        "1": 1,
    }
    tensors = {
        name: torch.randn([sizes[c] for c in field.shape], generator=generator).double()
        for name, field in FIELDS[kind].items()
    }
    if kind == "local":
        tensors["landmarks"] = torch.nn.functional.normalize(tensors["landmarks"], dim=1)
        tensors["sharpness"] = tensors["sharpness"].abs() + 1
    return make_map(kind, tensors)


def mixed(kind: str, names: tuple[str, ...] = ("1x1", "2x3")) -> Adapter:
    """An adapter with t-products for some groups, and maps of a kind for others."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps = {}
    for name in names:
        p, q = (int(own) for own in name.split("x"))
        maps[name] = random_map(kind, p, q)
    faces = {"fallback": draw(1, D_SRC, D_TGT), "2x1": draw(2, D_SRC, D_TGT)}
    intercepts = {"fallback": draw(1, D_TGT), "2x1": draw(1, D_TGT)}
    return Adapter(faces, intercepts=intercepts, maps=maps)


WORDS = [(2, 3), (1, 1), (5, 5), (2, 1), (2, 3), (1, 1), (2, 2)]
P, Q = [p for p, _ in WORDS], [q for _, q in WORDS]


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
def test_pull_back_is_the_exact_vector_jacobian_product_of_apply(kind):
    adapter = mixed(kind)
    layout = adapter.layout(P, Q)
    source = torch.randn(sum(P), D_SRC, dtype=torch.float64, requires_grad=True)
    out = adapter.apply(source, layout)
    assert out.shape == (sum(Q), D_TGT)
    assert torch.autograd.gradcheck(lambda x: adapter.apply(x, layout), (source,))
    grad = torch.randn(sum(Q), D_TGT, dtype=torch.float64)
    (expected,) = torch.autograd.grad(out, source, grad)
    found = adapter.pull_back(grad, layout, source=source.detach())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_every_map_are_mapped_word_by_word(kind):
    adapter = mixed(kind)
    source = torch.randn(sum(P), D_SRC, dtype=torch.float64)
    rows = adapter.apply(source, adapter.layout(P, Q)).split(Q)
    for (p, q), own, word in zip(WORDS, source.split(P), rows, strict=True):
        name = f"{p}x{q}"
        if name in ("1x1", "2x3"):
            group = adapter.maps[adapter.group_names.index(name)]
            expected = group.apply(own.reshape(1, -1)).view(q, D_TGT)
        else:
            name = name if name == "2x1" else "fallback"
            faces = adapter[name]
            ones = [sum(own[s] @ faces[(t - s) % len(faces)] for s in range(p)) for t in range(q)]
            index = adapter.products.names.index(name)
            first = adapter.products._rows[index]
            expected = torch.stack(ones) + adapter.products.intercepts[first]
        torch.testing.assert_close(word, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_shorter_than_its_map_is_padded_with_zeros(kind):
    own = random_map(kind, 3, 2)
    adapter = Adapter(
        {"fallback": torch.zeros(1, D_SRC, D_TGT, dtype=torch.float64)}, maps={"x2": own}
    )
    source = torch.randn(3, D_SRC, dtype=torch.float64)
    layout = adapter.layout([2, 1], [2, 2])
    padded = torch.zeros(2, 3, D_SRC, dtype=torch.float64)
    padded[0, :2], padded[1, :1] = source[:2], source[2:]
    expected = own.apply(padded.flatten(1)).view(4, D_TGT)
    torch.testing.assert_close(adapter.apply(source, layout), expected)
    grad = torch.randn(4, D_TGT, dtype=torch.float64)
    pulled = adapter.pull_back(grad, layout, source=source)
    whole = own.pull_back(grad.view(2, -1), padded.flatten(1)).view(2, 3, D_SRC)
    torch.testing.assert_close(pulled, torch.cat([whole[0, :2], whole[1, :1]]))
    fallback = adapter.layout([4], [2])
    assert not adapter.apply(torch.randn(4, D_SRC, dtype=torch.float64), fallback).any()


@pytest.mark.parametrize("kind", KINDS)
def test_only_maps_that_are_not_linear_need_the_words(kind):
    adapter = mixed(kind)
    layout, grad = adapter.layout(P, Q), torch.randn(sum(Q), D_TGT, dtype=torch.float64)
    assert adapter.linear is (kind not in CURVED)
    assert adapter.kinds["1x1"] == kind
    assert adapter.kinds["2x1"] == "affine"
    if adapter.linear:
        assert adapter.pull_back(grad, layout).shape == (sum(P), D_SRC)
        return
    with pytest.raises(OptionError, match="without the embeddings of the words; expected source="):
        adapter.pull_back(grad, layout)
    with pytest.raises(ShapeError, match="pull_back: source has shape"):
        adapter.pull_back(grad, layout, source=torch.zeros(1, D_SRC))


@pytest.mark.parametrize("kind", KINDS)
def test_padded_gradients_and_the_bridge_go_the_same_way(kind):
    adapter = mixed(kind)
    layout = adapter.layout(P, Q, [3, 4])
    source = torch.randn(sum(P), D_SRC, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(sum(Q), D_TGT, dtype=torch.float64)
    packed = adapter.pull_back(grad, layout, source=source.detach())
    length = int(layout.target_lengths.max()) + 1
    padded = layout.pad_target(grad, length, 1)
    found = adapter.pull_back(padded, layout, source=source.detach(), target_start=1)
    torch.testing.assert_close(layout.pack_source(found), packed)
    bridge(adapter, source, torch.zeros_like(grad), layout).backward(grad)
    torch.testing.assert_close(source.grad, packed)


@pytest.mark.parametrize("kind", KINDS)
def test_another_dtype_is_close_and_refuses_what_it_cannot_hold(kind):
    adapter = mixed(kind)
    narrow = adapter.to(dtype=torch.float32)
    assert {own.dtype for own in narrow.tensors().values()} == {torch.float32}
    source = torch.randn(sum(P), D_SRC, dtype=torch.float64)
    layout = adapter.layout(P, Q)
    expected = adapter.apply(source, layout).float()
    torch.testing.assert_close(narrow.apply(source.float(), layout), expected, rtol=1e-4, atol=1e-4)
    own = next(iter(adapter.maps.values()))
    own.intercept[0, 0] = 1e6
    with pytest.raises(ShapeError, match=r"not finite in torch\.float16"):
        adapter.to(dtype=torch.float16)


def test_maps_scale_about_their_intercept():
    source = torch.randn(5, 2 * D_SRC, dtype=torch.float64)
    for kind in KINDS:
        own = random_map(kind, 2, 1)
        half = own.scaled(0.5)
        torch.testing.assert_close(half.intercept, own.intercept)
        torch.testing.assert_close(half.offset(source), 0.5 * own.offset(source))


def test_an_intercept_does_not_change_the_pull_back():
    adapter = mixed("block", ())
    grad = torch.randn(1, D_TGT, dtype=torch.float64)
    found = adapter.pull_back(grad, adapter.layout([2], [1]))
    torch.testing.assert_close(found, pull_back_word(adapter["2x1"], grad, 2))
    with pytest.raises(ShapeError, match="intercept of '2x1' has shape"):
        Adapter(
            {"fallback": adapter["fallback"], "2x1": adapter["2x1"]},
            intercepts={"2x1": torch.zeros(2, D_TGT)},
        )
