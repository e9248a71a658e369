"""Names of places: a local folder, a repository of the Hub, or an fsspec URL."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fuse_index.errors import MissingDependencyError, OptionError

ACCEPTED = (
    "a Hub id such as owner/name (optionally @revision), a folder, or a URL such as "
    "s3://bucket/bundle"
)
_HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>\w[\w./-]{0,255}))?"
)
_LOCAL = re.compile(r"[./~]|[A-Za-z]:")
"""How a path begins that is no Hub id: here, the root, a home, a drive."""
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


HUB_URL = "hf://"
"""How URLs of the Hub begin; those of its buckets are opened by fsspec."""

Token = str | bool | None
"""As huggingface_hub takes it: None and True take the one that is stored, False takes none."""


class PlaceKind(str, Enum):
    """What kind of place holds a bundle."""

    FOLDER = "folder"
    HUB = "hub"
    URL = "url"


@dataclass(frozen=True)
class Place:
    """A parsed place.

    Attributes:
        kind: what kind of place.
        location: the folder, the repository's id, or the URL without a closing slash.
        revision: branch, tag or commit of a repository; ``None`` is its main branch.
    """

    kind: PlaceKind
    location: str
    revision: str | None = None

    def __str__(self) -> str:
        if self.kind is PlaceKind.URL:
            return hide_password(self.location)
        return f"{self.location}@{self.revision}" if self.revision else self.location


def parse_place(given: str | os.PathLike[str], revision: str | None = None) -> Place:
    """Parse a place; a folder that exists wins over a Hub id of the same spelling.

    Args:
        given: a path, ``owner/name[@revision]`` (also with ``hf://`` before it), or a URL.
        revision: of a repository, where the name does not say it.

    Raises:
        OptionError: it is malformed, or has a revision twice or where there are none.
    """
    place = _parse(os.fspath(given), isinstance(given, os.PathLike))
    if revision is None:
        return place
    if place.kind is not PlaceKind.HUB or place.revision not in (None, revision):
        raise OptionError(
            f"revision {revision!r} of {place}",
            expected="one revision, and of a repository of the Hub only",
        )
    if _HUB_ID.fullmatch(f"a/b@{revision}") is None or ".." in revision:
        raise OptionError(f"revision {revision!r}", expected="a branch, a tag or a commit")
    return Place(place.kind, place.location, revision)


def _parse(text: str, is_path: bool) -> Place:
    if not text:
        raise OptionError("no place", expected=ACCEPTED)
    path = Path(text)
    with suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    if is_path or path.is_dir():
        return Place(PlaceKind.FOLDER, str(path))
    if url := _URL.fullmatch(text):
        return _parse_url(text, url["protocol"].lower(), url["rest"])
    if "::" in text:
        raise OptionError(f"{text!r} is a chain of file systems", expected=ACCEPTED)
    if _LOCAL.match(text) or "\\" in text or "/" not in text:
        return Place(PlaceKind.FOLDER, str(path))
    return _parse_hub(text)


def _parse_url(text: str, protocol: str, rest: str) -> Place:
    if protocol == "hf":
        if rest.startswith("buckets/"):
            return _parse_hub_bucket(f"{protocol}://{rest.rstrip('/')}")
        return _parse_hub(rest.removeprefix("models/"))
    if protocol in ("file", "local"):
        return Place(PlaceKind.FOLDER, unquote(rest.removeprefix("localhost")))
    path = rest.rstrip("/")
    if not path or any(part in (".", "..") for part in path.split("/")) or "::" in text:
        raise OptionError(
            f"{hide_password(text)!r} is no place for a bundle", expected="PROTOCOL://bucket/folder"
        )
    return Place(PlaceKind.URL, f"{protocol}://{path}")


def _parse_hub_bucket(url: str) -> Place:
    """Parse ``hf://buckets/OWNER/NAME[/FOLDER]`` as huggingface_hub does.

    Raises:
        MissingDependencyError: huggingface_hub is from before there were buckets.
        OptionError: it is malformed.
    """
    try:
        from huggingface_hub import parse_hf_uri  # noqa: PLC0415 - only for buckets
        from huggingface_hub.errors import HfUriError  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"{url}: this huggingface_hub knows no buckets",
            expected="one that parses such URLs",
            remedy="pip install -U huggingface_hub",
        ) from error
    expected = "hf://buckets/OWNER/NAME, with a folder in it or without"
    try:
        parsed = parse_hf_uri(url)
    except HfUriError as error:
        raise OptionError(f"{url!r} is no bucket of the Hub", expected=expected) from error
    parts = [*parsed.id.split("/"), *parsed.path_in_repo.split("/")]
    if any(part in (".", "..") for part in parts) or "::" in url:
        raise OptionError(f"{url!r} is no place for a bundle", expected=expected)
    return Place(PlaceKind.URL, parsed.to_uri())


def _parse_hub(text: str) -> Place:
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text or "--" in match["id"]:
        raise OptionError(f"{text!r} is neither a folder nor a Hub id", expected=ACCEPTED)
    return Place(PlaceKind.HUB, match["id"], match["revision"])


def hide_password(url: str) -> str:
    """Leave user, password and query out of a URL, for messages."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
