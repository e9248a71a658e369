"""How places are named, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import MissingDependencyError, OptionError
from fuse_index.share import Place, PlaceKind, parse_place
from fuse_index.share.places import hide_password

HUB, URL, FOLDER = PlaceKind.HUB, PlaceKind.URL, PlaceKind.FOLDER


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("org/name", Place(HUB, "org/name")),
        ("org/name@v1.0", Place(HUB, "org/name", "v1.0")),
        ("org/name@refs/pr/1", Place(HUB, "org/name", "refs/pr/1")),
        ("hf://org/name@main", Place(HUB, "org/name", "main")),
        ("hf://models/org/name", Place(HUB, "org/name")),
        ("hf://buckets/org/name", Place(URL, "hf://buckets/org/name")),
        ("HF://buckets/org/name/a/b/", Place(URL, "hf://buckets/org/name/a/b")),
        ("s3://bucket/a/b/", Place(URL, "s3://bucket/a/b")),
        ("S3://bucket", Place(URL, "s3://bucket")),
        ("https://host/x", Place(URL, "https://host/x")),
        ("file:///data/b%20c", Place(FOLDER, "/data/b c")),
        ("name", Place(FOLDER, "name")),
        ("./org/name", Place(FOLDER, "org/name")),
        ("/org/name", Place(FOLDER, "/org/name")),
        ("C:/org/name", Place(FOLDER, "C:/org/name")),
    ],
)
def test_names(text, place):
    assert parse_place(text) == place


def test_a_folder_that_exists_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert parse_place("org/name") == Place(FOLDER, "org/name")
    assert parse_place(Path("org/other")) == Place(FOLDER, "org/other")


@pytest.mark.parametrize(
    "text",
    [
        *("", "org/name@", "org/../x", "org/a..b", "org/name@../x", "a/b/c", "org/na me"),
        *("org/a--b", "s3://", "s3:///", "s3://b/../c", "s3://b/./c", "zip::s3://b/c"),
        *("org/name@v1@v2", "hf://datasets/org/name"),
        *("hf://buckets/", "hf://buckets/org", "hf://buckets/org/name@main"),
        *("hf://buckets/org/name/../x", "hf://buckets/org/name//x", "hf://buckets/org/name/./x"),
    ],
)
def test_malformed_names(text):
    with pytest.raises(OptionError, match=r"expected|no place"):
        parse_place(text)


def test_revisions():
    assert parse_place("org/name", "v1") == parse_place("org/name@v1", "v1")
    for text, revision in (
        *(("org/name@v1", "v2"), ("s3://b/c", "v1"), (Path("x"), "v1")),
        ("hf://buckets/org/name", "v1"),
    ):
        with pytest.raises(OptionError, match=r"expected one revision, and of a repository"):
            parse_place(text, revision)
    with pytest.raises(OptionError, match=r"revision '\.\./x'; expected a branch"):
        parse_place("org/name", "../x")


@given(st.text(alphabet="ab./@:-_~\\ 1\n", max_size=24))
def test_what_is_taken_for_a_hub_id_cannot_leave_its_folder(text):
    try:
        place = parse_place(text)
    except OptionError:
        return
    if place.kind is HUB:
        owner, name = place.location.split("/")
        for part in (owner, name, place.revision or "x"):
            assert not part.startswith((".", "/"))
            assert ".." not in part


def test_buckets_need_a_huggingface_hub_that_knows_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", ModuleType("huggingface_hub"))
    with pytest.raises(MissingDependencyError, match=r"knows no buckets; .* install -U"):
        parse_place("hf://buckets/org/name")


def test_passwords_are_not_shown():
    assert hide_password("https://me:secret@host:80/a?key=secret#x") == "https://host:80/a"
    assert str(Place(URL, "ftp://me:secret@host/a")) == "ftp://host/a"
    assert str(Place(HUB, "a/b", "v1")) == "a/b@v1"
