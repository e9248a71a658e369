"""The verb ``fit`` as a user types it, mistakes included."""

from __future__ import annotations

import json

import pytest

from fuse_index.bundle import read_manifest, write_bundle
from fuse_index.cli.main import main
from tests.build.helpers import digest
from tests.bundle import sample


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def built(tmp_path_factory, gpt2_dir, minilm_dir, captions_file):
    """Two bundles of the same words, built with and without options of the fit."""
    folder = tmp_path_factory.mktemp("built")
    command = ["build", gpt2_dir, minilm_dir, "-c", captions_file, "--min-count", 20]
    other = ["--grouping", "target", "--ridge", "0.1", "--min-group", 3, "--holdout", "0.2"]
    for name, options in (("plain", []), ("other", [*other, "--seed", 4, "--max-group", 90])):
        assert main([str(item) for item in [*command, *options, "-o", folder / name]]) == 0
    return folder


def test_fit_gives_what_build_gives(capsys, tmp_path, built):
    flags = ["--grouping", "target", "--ridge", "0.1", "--min-group", 3, "--max-group", 90]
    flags += ["--holdout", "0.2", "--seed", 4]
    out = tmp_path / "b"
    code, stdout, stderr = run(capsys, "fit", built / "plain", "-o", out, *flags, "--json")
    assert (code, stderr) == (0, "")
    report = json.loads(stdout)
    assert report["bundle"] == str(out)
    assert report["words"] == read_manifest(out).words
    stages = {"verifying the bundle", "fitting adapters", "writing the bundle"}
    assert set(report["stages"]) == stages
    assert digest(out) == digest(built / "other")


def test_flags_that_are_not_given_stay_as_built(capsys, tmp_path, built):
    code, stdout, _ = run(capsys, "fit", built / "other", "-o", tmp_path / "b", "--ridge", "auto")
    assert code == 0
    assert "Quality on held-out words" in stdout
    before, after = (read_manifest(folder).options for folder in (built / "other", tmp_path / "b"))
    assert {key for key in before if before[key] != after[key]} == {"ridge", "ridges"}
    code, _, _ = run(capsys, "fit", tmp_path / "b", "--max-group", 0, "--overwrite")
    assert code == 0
    assert read_manifest(tmp_path / "b").options["max_words_per_group"] is None


def test_a_kind_is_fitted_told_and_taken_back(capsys, tmp_path, built):
    out = tmp_path / "b"
    code, stdout, stderr = run(
        capsys, "fit", built / "other", "-o", out, "--kind", "auto", "--json"
    )
    assert code == 0, stderr
    groups = json.loads(stdout)["groups"]
    kinds = read_manifest(out).kinds
    assert kinds["fallback"] == groups["fallback"]["kind"] == "affine"
    assert all(own["kind"] == kinds.get(name) for name, own in groups.items() if name in kinds)
    assert read_manifest(out).options["kind"] == "auto"
    code, stdout, _ = run(capsys, "inspect", out)
    assert code == 0
    assert "errors they were chosen by" in stdout
    code, _, _ = run(capsys, "fit", out, "--kind", "circulant", "--overwrite")
    assert code == 0
    assert digest(out) == digest(built / "other")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--kind", "spline"], "--kind spline; expected"),
        (["--ridge", "much"], "--ridge much; expected a number of at least 0, or auto"),
        (["--ridge", "-1"], "ridge=-1.0; expected a finite number"),
        (["--grouping", "words"], "--grouping words; expected one of pair, target"),
        (["--holdout", "1"], "holdout=1.0; expected a share of the words"),
        (["--min-group", "0"], "min_words=0; expected"),
        ([], "exists; expected a folder that does not exist yet"),
    ],
)
def test_mistakes_are_one_line(capsys, built, flags, line):
    before = digest(built / "plain")
    code, stdout, stderr = run(capsys, "fit", built / "plain", *flags)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert line in stderr
    assert digest(built / "plain") == before


def test_bundles_that_are_none(capsys, tmp_path, built):
    code, _, stderr = run(capsys, "fit", tmp_path / "nowhere", "-o", tmp_path / "b")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "does not exist" in stderr
    manifest = read_manifest(built / "plain")
    write_bundle(tmp_path / "thin", sample.contents(groups=None, options=manifest.options))
    code, _, stderr = run(capsys, "fit", tmp_path / "thin", "-o", tmp_path / "b")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "holds no group tensors" in stderr
    assert "without --no-groups" in stderr
    code, stdout, _ = run(capsys, "fit", tmp_path / "thin", "-o", tmp_path / "b", "--json")
    assert (code, json.loads(stdout)["error"]["type"]) == (2, "BundleError")


def test_help(capsys):
    code, stdout, _ = run(capsys, "fit", "--help")
    assert code == 0
    text = " ".join(stdout.split())
    assert "without its models" in text
    assert "Options that are not given stay as the bundle was built" in text
