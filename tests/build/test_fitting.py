"""Fits from group tensors alone: the bytes of a build with the same options, or a clear line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fuse_index.adapter import MapKind
from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.build import BuildOptions, Stage, build_bundle, fit_bundle
from fuse_index.bundle import read_bundle, read_manifest, verify_bundle, write_bundle
from fuse_index.errors import BundleError, OptionError, StorageError
from fuse_index.index import IndexOptions, Kind
from fuse_index.words import table as word_table
from fuse_index.words.corpus.words import CorpusOptions
from tests.build.helpers import digest, load_once, make_shards_small
from tests.bundle import sample

FITS = {
    "default": FitOptions(),
    "target": FitOptions(
        grouping=Grouping.TARGET, ridge=0.01, max_words=300, min_words=20, holdout=0.2, seed=3
    ),
    "plain": FitOptions(ridge=0.0, min_words=200, holdout=0.0, chunk_words=100),
    "local": FitOptions(kind=MapKind.LOCAL, min_words=200, max_words=300, landmarks=250),
    "affine": FitOptions(kind=MapKind.AFFINE, grouping=Grouping.TARGET, ridge=0.1, min_words=50),
}


PLAIN = ("default", "target", "plain")
PAIRS = [
    *((before, after) for before in PLAIN for after in PLAIN),
    ("default", "local"),
    ("local", "default"),
    ("local", "affine"),
]


@pytest.fixture(scope="module", params=["in memory", "in shards"])
def built(request, tmp_path_factory, gpt2_dir, minilm_dir, captions_file, wikitext_file):
    """Bundles by options of the fit, all of the same words."""
    folder = tmp_path_factory.mktemp("built")
    corpus = [captions_file]
    with pytest.MonkeyPatch.context() as patch:
        load_once(patch)
        if request.param == "in shards":
            pytest.importorskip("duckdb")
            make_shards_small(patch)
            corpus.append(wikitext_file)
        for name, fit in FITS.items():
            build_bundle(
                str(gpt2_dir),
                str(minilm_dir),
                folder / name,
                corpus,
                options=BuildOptions(corpus=CorpusOptions(min_count=3), fit=fit),
            )
        yield folder


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_fit_writes_the_bytes_of_a_build(built, tmp_path, before, after):
    """All files, so also words and tensors sorted into other groups."""
    result = fit_bundle(built / before, tmp_path / "b", FITS[after])
    assert digest(tmp_path / "b") == digest(built / after)
    assert result.manifest == read_manifest(built / after)
    assert [*result.seconds] == [Stage.VERIFY, Stage.FIT, Stage.WRITE]


def test_without_options_a_fit_changes_nothing(built, tmp_path):
    shutil.copytree(built / "target", tmp_path / "b")
    with pytest.raises(StorageError, match="--overwrite"):
        fit_bundle(tmp_path / "b")
    fit_bundle(tmp_path / "b", overwrite=True)
    assert digest(tmp_path / "b") == digest(built / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


class StopError(Exception):
    pass


def test_an_interrupted_fit_continues(built, tmp_path, monkeypatch):
    make_shards_small(monkeypatch)
    shards = digest(built / "default")

    def stop(stage, done, total):
        if stage is Stage.FIT and done > 0.5 * (total or done):
            raise StopError

    fit = replace(FITS["plain"], chunk_words=None)
    expected = tmp_path / "expected"
    fit_bundle(built / "default", expected, fit)
    with pytest.raises(StopError):
        fit_bundle(built / "default", tmp_path / "b", fit, progress=stop)
    other = replace(fit, seed=1)
    with pytest.raises(OptionError, match="--resume: seed was 0, now 1"):
        fit_bundle(built / "default", tmp_path / "b", other, resume=True)
    fit_bundle(built / "default", tmp_path / "b", fit, resume=True)
    assert digest(tmp_path / "b") == digest(expected)
    assert digest(built / "default") == shards


def test_word_indexes_are_carried_over(tmp_path, gpt2_dir, minilm_dir, captions_file, monkeypatch):
    load_once(monkeypatch)
    options = BuildOptions(corpus=CorpusOptions(min_count=20), index=IndexOptions(Kind.FLAT))
    models = str(gpt2_dir), str(minilm_dir)
    build_bundle(*models, tmp_path / "a", [captions_file], options=options)
    fit_bundle(tmp_path / "a", tmp_path / "b", FITS["plain"])
    verify_bundle(tmp_path / "b")
    before, after = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert before.indexes == after.indexes
    index = {name: file for name, file in before.files.items() if name.startswith("index/")}
    assert index
    assert index.items() <= after.files.items()


def test_memory_does_not_grow_with_the_words(built, tmp_path, monkeypatch):
    """No array of token ids of all words is ever read at once."""
    from fuse_index.bundle.wordfile import WordReader

    monkeypatch.setattr(word_table, "SHARD_WORDS", 500)
    sizes = []
    part = WordReader.part

    def spy(self, start, stop):
        sizes.append(stop - start)
        return part(self, start, stop)

    monkeypatch.setattr(WordReader, "part", spy)
    fit_bundle(built / "default", tmp_path / "b", FITS["target"])
    assert max(sizes) == 500
    assert (
        digest(tmp_path / "b")["words.safetensors"]
        == (digest(built / "target")["words.safetensors"])
    )


def test_no_model_library_is_imported(built, tmp_path):
    code = (
        "import sys\n"
        "from fuse_index.build.fitting import fit_bundle\n"
        "fit_bundle(*sys.argv[1:])\n"
        "assert 'transformers' not in sys.modules and 'open_clip' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(built / "plain"), str(tmp_path / "b")]
    subprocess.run(command, check=True)
    assert digest(tmp_path / "b") == digest(built / "plain")


def test_a_bundle_without_tensors_says_how_to_get_them(tmp_path):
    write_bundle(tmp_path / "b", sample.contents(groups=None))
    with pytest.raises(BundleError, match=r"holds no group tensors.*without --no-groups") as caught:
        fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_identity_has_nothing_to_fit(tmp_path):
    write_bundle(tmp_path / "b", sample.identity_contents())
    with pytest.raises(OptionError, match="its adapter is the identity"):
        fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions())


def test_a_manifest_without_options_is_refused_unless_they_are_given(tmp_path):
    write_bundle(tmp_path / "b", sample.contents())
    with pytest.raises(BundleError, match="does not say how the adapters were fitted"):
        fit_bundle(tmp_path / "b", tmp_path / "out")
    fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions(min_words=1, holdout=0.0))
    verify_bundle(tmp_path / "out")


@pytest.mark.parametrize("name", ["words.safetensors", "groups.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove"])
def test_damage_is_found_before_anything_is_parsed(tmp_path, name, damage, monkeypatch):
    from fuse_index.bundle import files

    write_bundle(tmp_path / "b", sample.contents())
    path = tmp_path / "b" / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"truncate": data[:-1], "extend": data + b"\0"}.get(damage, data))
    parsed = []
    parse = files.parse_header
    monkeypatch.setattr(files, "parse_header", lambda *a: parsed.append(a[2]) or parse(*a))
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions())
    assert not [where for where in parsed if where.endswith(name)]
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


def test_damaged_adapters_do_not_matter(built, tmp_path):
    """They are not read: a fit repairs them."""
    shutil.copytree(built / "plain", tmp_path / "b")
    (tmp_path / "b" / "adapter.safetensors").write_bytes(b"damaged")
    fit_bundle(tmp_path / "b", overwrite=True)
    assert digest(tmp_path / "b") == digest(built / "plain")


def test_values_that_are_not_finite_are_named(tmp_path):
    write_bundle(tmp_path / "b", sample.contents())
    path = tmp_path / "b" / "groups.safetensors"
    sample.edit_column(path, "source.1x1", lambda values: np.full_like(values, np.nan))
    sample.reseal(tmp_path / "b")
    with pytest.raises(BundleError, match=r"groups\.safetensors.*NaN or infinity"):
        fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions(min_words=1, holdout=0.0))
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


def first_wrong(value):
    """Replace the first value of a column."""
    return lambda values: np.concatenate([[value], values[1:]])


def last_wrong(value):
    return lambda values: np.concatenate([values[:-1], [value]])


@pytest.mark.parametrize("size", [2, 1 << 18])
@pytest.mark.parametrize(
    ("column", "edit"),
    [
        ("words.offsets", first_wrong(-5)),
        ("words.offsets", last_wrong(1 << 62)),
        ("words.offsets", lambda values: values[::-1]),
        ("words.offsets", lambda values: values[:-1]),
        ("words.groups", first_wrong(99)),
        ("words.groups", first_wrong(-1)),
        ("words.groups", lambda values: values[::-1]),
        ("words.counts", first_wrong(-1)),
        ("source.offsets", first_wrong(1)),
        ("source.offsets", last_wrong(0)),
        ("target.offsets", np.zeros_like),
        ("source.ids", first_wrong(1 << 40)),
        ("target.ids", last_wrong(-1)),
        ("target.ids", lambda values: np.concatenate([values, values])),
    ],
)
def test_columns_that_do_not_fit_are_refused_with_fitting_checksums(
    tmp_path, monkeypatch, column, edit, size
):
    monkeypatch.setattr(word_table, "SHARD_WORDS", size)
    write_bundle(tmp_path / "b", sample.contents())
    sample.edit_column(tmp_path / "b" / "words.safetensors", column, edit)
    sample.reseal(tmp_path / "b")
    with pytest.raises(BundleError, match=r"words\.safetensors"):
        fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions(min_words=1, holdout=0.0))
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("source.2x1", lambda values: values[:, :1], "tube length 1"),
        ("target.1x1", lambda values: values[:-1], "has shape"),
        ("target.fallback", lambda values: values[:, :1], "more target tokens than"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, edit, message):
    write_bundle(tmp_path / "b", sample.contents())
    sample.edit_column(tmp_path / "b" / "groups.safetensors", name, edit)
    sample.reseal(tmp_path / "b")
    with pytest.raises(BundleError, match=message):
        fit_bundle(tmp_path / "b", tmp_path / "out", FitOptions(min_words=1, holdout=0.0))
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


def test_the_tensors_hold_what_the_bundle_says(built):
    """Rows picked anywhere, in any order, are those of the tensors read whole."""
    import torch

    bundle = read_bundle(built / "default", parts=("groups",))
    for side in ("source", "target"):
        vectors = bundle.groups.vectors(side)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vectors.shape[0], (7, 5), generator=generator)
        picked = vectors[ids]
        whole = torch.cat(
            [
                bundle.groups.load(f"{side}.{name}").flatten(0, 1)
                for name in sorted(bundle.manifest.group_names)
            ]
        )
        assert torch.equal(picked, whole[ids])
        first, k = vectors.first(f"{side}.2x2")
        assert torch.equal(whole[first : first + k], bundle.groups.load(f"{side}.2x2")[0])
