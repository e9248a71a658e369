"""Bundles whose maps are no plain t-products: format version 2, written, read and refused."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fuse_index.adapter import Adapter
from fuse_index.bundle import (
    BundleContents,
    read_bundle,
    read_manifest,
    verify_bundle,
    write_bundle,
)
from fuse_index.bundle.card import render_card
from fuse_index.bundle.kinds import FIELDS, has_faces
from fuse_index.errors import BundleError, OptionError, ShapeError
from tests.bundle import mutations, sample
from tests.bundle.test_hostile import replaced

SIZES = {"s": 3, "t": 2, "r": 2, "m": 4, "h": 3, "1": 1}


def tensors(kind: str, p: int, q: int) -> dict[str, torch.Tensor]:
    """Tensors of the shapes of a kind, of values that every check lets pass."""
    sizes = SIZES | {"S": 3 * p, "T": 2 * q, "q": q}
    found = {
        name: sample.ramp(*(sizes[letter] for letter in field.shape), scale=0.01)
        for name, field in FIELDS[kind].items()
    }
    if "sharpness" in found:
        found["sharpness"] = torch.tensor([2.0])
    return found


def contents(kind: str, **changes) -> BundleContents:
    """The sample with an affine fallback, and a kind for its two groups."""
    faces = sample.adapters()
    maps = {
        "1x1": tensors(kind, 1, 1),
        "2x1": tensors(kind, 2, 1),
        "fallback": tensors("affine", 1, 1),
    }
    if not has_faces(kind):
        faces = {"fallback": faces["fallback"]}
    kinds = {"1x1": kind, "2x1": kind, "fallback": "affine"}
    selection = {"1x1": {"mean": 1.0, kind: 0.5}}
    fields = {"adapters": faces, "maps": maps, "kinds": kinds, "selection": selection}
    return sample.contents(**{**fields, **changes})


KINDS = [kind for kind in FIELDS if kind != "circulant"]


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(tmp_path, kind):
    written = write_bundle(tmp_path / "b", contents(kind))
    assert verify_bundle(tmp_path / "b") == written == read_manifest(tmp_path / "b")
    assert written.to_json()["format_version"] == 2
    assert written.kinds == {"1x1": kind, "2x1": kind, "fallback": "affine"}
    assert written.selection == {"1x1": {"mean": 1.0, kind: 0.5}}
    adapter = Adapter.from_pretrained(tmp_path / "b")
    assert adapter.kinds["1x1"] == kind
    assert adapter.linear is (kind not in ("local", "mlp"))
    expected = contents(kind).maps
    for group, own in read_bundle(tmp_path / "b").maps.items():
        assert all(torch.equal(own[name], expected[group][name]) for name in expected[group])
    adapter.save_pretrained(tmp_path / "again")
    both = [read_manifest(tmp_path / name).files["adapter.safetensors"] for name in ("b", "again")]
    assert both[0] == both[1]
    assert read_manifest(tmp_path / "again").kinds == written.kinds
    card = render_card(written)
    assert f"| 2x1 | {kind} |" in card
    assert re.search(r"\| group \| kind \|.* mean \|", card)


def test_without_kinds_the_format_is_the_first(tmp_path):
    manifest = write_bundle(tmp_path / "b", sample.contents())
    stored = manifest.to_json()
    assert stored["format_version"] == 1
    assert not {"kinds", "selection"} & set(stored)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 1}, "has format version 1; expected version 2"),
        ({"kinds": {"1x1": "spline"}}, "group '1x1' has maps of kind 'spline'"),
        ({"kinds": {"9x9": "block"}}, "kinds names the group '9x9'"),
        ({"kinds": {"fallback": "block"}}, "group 'fallback' has maps of kind 'block'"),
        ({"kinds": {"1x1": "block", "fallback": "affine"}}, "has tensors"),
        ({"kinds": ["block"]}, "kinds"),
        ({"selection": {"1x1": {"mean": "low"}}}, "selection"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(tmp_path, edit, message):
    write_bundle(tmp_path / "b", contents("block"))
    sample.edit_manifest(tmp_path / "b", lambda value: value.update(edit))
    for use in (verify_bundle, read_bundle):
        with pytest.raises(BundleError, match=re.escape(message)):
            use(tmp_path / "b")


@pytest.mark.parametrize(
    ("kind", "name", "tensor", "message"),
    [
        ("block", "matrix", torch.zeros(4, 2), "matrix '1x1' has shape (4, 2), expected (3, 2)"),
        ("block", "intercept", torch.zeros(2, 2), "intercept '1x1' has shape (2, 2)"),
        ("low-rank", "left", torch.zeros(3, 4), "right '1x1' has shape (2, 2), expected (4, 2)"),
        ("low-rank", "left", torch.full((3, 2), 1e16), "left '1x1' holds values beyond 1e+15"),
        ("local", "landmarks", torch.ones(4, 3) * 2, "landmarks '1x1' holds values beyond 1.001"),
        ("local", "landmarks", torch.zeros(0, 3), "landmarks '1x1' has shape (0, 3)"),
        ("local", "sharpness", torch.tensor([2e3]), "sharpness '1x1' holds values beyond 1000"),
        ("local", "coefficients", torch.full((4, 2), torch.nan), "holds NaN or infinity"),
        ("mlp", "bias", torch.zeros(7), "bias '1x1' has shape (7,), expected (3,)"),
        ("mlp", "inner", torch.zeros(3, 3).double(), "tensors of dtypes F32, F64"),
    ],
)
def test_tensors_that_do_not_fit_are_not_written(tmp_path, kind, name, tensor, message):
    own = contents(kind)
    maps = {**own.maps, "1x1": {**own.maps["1x1"], name: tensor}}
    with pytest.raises(ShapeError, match=re.escape(message)):
        write_bundle(tmp_path / "b", contents(kind, maps=maps))
    assert not (tmp_path / "b").exists()


def test_kinds_of_groups_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(OptionError, match="kinds names the group '7x7'"):
        write_bundle(tmp_path / "b", contents("block", kinds={"7x7": "block"}))


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "bundle"
    write_bundle(path, contents(request.param))
    return path


def attack(folder, file, data) -> None:
    """Refused in one line, or all that is read serves: words are mapped and gradients finite."""
    with replaced(folder, file, data):
        try:
            verify_bundle(folder)
            bundle = read_bundle(folder)
        except BundleError as error:
            line = str(error)
        else:
            line = ""
        if line:
            assert "\n" not in line
            return
        adapter = Adapter.of_bundle(bundle).to(dtype=torch.float32)
        if adapter.is_identity:
            return
        table = bundle.table
        layout = adapter.layout(table.source.lengths, table.target.lengths)
        source = torch.ones(layout.source_rows, adapter.source_width)
        grad = torch.ones(layout.target_rows, adapter.target_width)
        assert adapter.apply(source, layout).shape == grad.shape
        assert adapter.pull_back(grad, layout, source=source).isfinite().all()


@pytest.mark.parametrize("file", ["manifest.json", "adapter.safetensors"])
def test_mutated_bundles_are_refused_or_serve(folder, file):
    mutate = mutations.of_json if file == "manifest.json" else mutations.of_tensors
    data = (folder / file).read_bytes()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutate(data))
    def run(mutated):
        attack(folder, file, mutated)

    run()
