"""Building a bundle again from its own manifest."""

from __future__ import annotations

import pytest

from fuse_index.build import BuildOptions, build_bundle
from fuse_index.build.rebuild import Outcome, options_of, rebuild_bundle
from fuse_index.bundle import add_index_files, read_bundle, read_manifest, write_bundle
from fuse_index.demo import DemoModel, model_name
from fuse_index.errors import BundleError, IdentityError
from fuse_index.share import PushOptions, push
from tests.bundle import sample

TEXT = "A Red circle is above two blue squares and a red circle is below a star\n" * 3
LM, SENTIMENT = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)


@pytest.fixture
def built(tmp_path):
    """A bundle of lower-cased text in Latin-1, as its maker published it, with an index."""
    from fuse_index.words.corpus.words import CorpusOptions

    text = tmp_path / "text.txt"
    text.write_text(TEXT.replace("circle", "réd"), encoding="latin-1")
    options = BuildOptions(CorpusOptions("latin-1", lowercase=True, min_count=3, max_words=9))
    build_bundle(LM, SENTIMENT, tmp_path / "plain", [text], options=options)
    push(tmp_path / "plain", str(tmp_path / "built"), PushOptions(license="mit"))
    add_index_files(tmp_path / "built", "target", {"target.json": b"{}"}, {"kind": "flat"})
    return tmp_path / "built"


def outcomes(found) -> dict[str, str]:
    return {file.name: file.outcome.value for file in found.files}


@pytest.mark.smoke
def test_the_same_bytes_but_for_what_was_measured(built, tmp_path):
    found = rebuild_bundle(built)
    assert found.same, found
    assert outcomes(found) == {
        "README.md": "same",
        "adapter.safetensors": "same",
        "groups.safetensors": "same",
        "words.safetensors": "same",
        "index/target.json": "not rebuilt",
        "manifest.json": "same",
    }
    assert found.taken == (
        "words and counts (name the text with --corpus or --words to test them)",
        "name and license of the publisher",
        "word indexes and what they measured",
    )
    tested = rebuild_bundle(built, corpus=[tmp_path / "text.txt"])
    assert tested.same
    assert not any("words and counts" in item for item in tested.taken)


def test_options_are_read_back(built):
    manifest = read_manifest(built)
    assert options_of(manifest).to_dict() == {
        name: value for name, value in manifest.options.items() if name != "ridges"
    }


def test_another_corpus_and_another_adapter_are_seen(built, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="latin-1")
    found = rebuild_bundle(built, corpus=[tmp_path / "text.txt"])
    assert outcomes(found)["words.safetensors"] == "differs"
    notes = {file.name: file.note for file in found.files}
    assert notes["words.safetensors"] == "1 words are missing, 1 are new"
    assert "corpus_sha256" in notes["manifest.json"]

    def nudge(values):
        return values * (1 + 1e-3)

    sample.edit_column(built / "adapter.safetensors", "adapter.fallback", nudge)
    sample.reseal(built)
    found = rebuild_bundle(built)
    assert not found.same
    (wrong,) = [file for file in found.files if file.outcome is Outcome.DIFFERS]
    assert wrong.name == "adapter.safetensors"
    assert wrong.note == "relative difference up to 1.0e-03"
    assert found.adapters == {"fallback": pytest.approx(1e-3, rel=1e-2)}


def test_another_model_is_refused_with_both_named(built):
    with pytest.raises(IdentityError, match=rf"source model is '{SENTIMENT}'.*'{LM}'"):
        rebuild_bundle(built, source=SENTIMENT)


def test_a_bundle_that_does_not_say_how_it_was_built(tmp_path):
    write_bundle(tmp_path / "b", sample.contents())
    with pytest.raises(BundleError, match=r"does not say how the bundle was built \(KeyError"):
        rebuild_bundle(tmp_path / "b")
    assert read_bundle(tmp_path / "b").table.words == sample.TABLE.words
