"""One-line errors from the exceptions of huggingface_hub and fsspec."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections.abc import Iterator
from typing import Any

from fuse_index.errors import FuseIndexError, MissingDependencyError, RemoteError

EXTRA = "pip install 'fuse-index[fsspec]'"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_REFUSALS = ("Forbidden", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_NO_LOGIN = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "ProfileNotFound")
_HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_TEXT_LENGTH = 240


def is_about_the_disk(error: BaseException) -> bool:
    """Whether an error is about the local disk, not about the other side."""
    return isinstance(error, OSError) and error.errno in _DISK


def may_pass(error: Exception) -> bool:
    """Whether trying again could help: a cut connection, a time-out, an overloaded server."""
    if isinstance(error, (FuseIndexError, PermissionError, FileNotFoundError, ImportError)):
        return False
    status = status_of(error)
    return not is_about_the_disk(error) and (status is None or status >= 500 or status == 429)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error of a client library carries, if it does."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


@contextlib.contextmanager
def bucket_errors(url: str, doing: str) -> Iterator[None]:
    """Turn what an fsspec file system raises into one line.

    Args:
        url: where, fit for messages.
        doing: "read" or "written".
    """
    of_the_hub = url.startswith("hf://")
    try:
        with quiet_hub() if of_the_hub else contextlib.nullcontext():
            yield
    except FuseIndexError:
        raise
    except Exception as error:
        if is_about_the_disk(error):
            raise
        missing = isinstance(error, (FileNotFoundError, ImportError))
        translate = of_hub if of_the_hub and not missing else of_bucket
        raise translate(error, url, doing) from error


def of_bucket(error: Exception, url: str, doing: str) -> FuseIndexError:
    """Return the error of an fsspec file system as one of this package."""
    kind, text = type(error).__name__, message_of(error)
    if isinstance(error, ImportError):
        return MissingDependencyError(
            f"{url}: {text}", expected="the package that opens such URLs", remedy=EXTRA
        )
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return RemoteError(
            f"{url}: fsspec knows no such protocol", expected="s3://, gs://, https:// and the like"
        )
    if isinstance(error, FileNotFoundError) or status_of(error) == 404:
        what = "is not there" if doing == "read" else "has no such bucket or folder"
        return RemoteError(f"{url} {what} ({text})", remedy="check the spelling of the URL")
    if any(name in kind for name in _NO_LOGIN):
        return RemoteError(
            f"{url} cannot be {doing}: no credentials ({text})",
            remedy="log in with the provider's own tool, or pass --storage anon=true",
        )
    if isinstance(error, PermissionError) or any(n in kind or n in text for n in _REFUSALS):
        return RemoteError(
            f"{url} cannot be {doing}: permission denied ({text})",
            remedy="check the credentials and the bucket's policy",
        )
    return RemoteError(
        f"{url} cannot be {doing} ({kind}: {text})",
        remedy="check the network and the address, then run the same again",
    )


@contextlib.contextmanager
def hub_errors(name: str, doing: str) -> Iterator[None]:
    """Keep huggingface_hub quiet and turn what it raises into one line.

    Args:
        name: the repository, with its revision.
        doing: "read" or "written".
    """
    try:
        with quiet_hub():
            yield
    except FuseIndexError:
        raise
    except Exception as error:
        if is_about_the_disk(error):
            raise
        raise of_hub(error, name, doing) from error


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub from logging and from drawing progress bars."""
    import huggingface_hub.utils  # noqa: PLC0415 - only for the Hub

    bars: Any = huggingface_hub.utils  # it re-exports what it does not list
    library = logging.getLogger("huggingface_hub")
    level, had_bars = library.level, not bars.are_progress_bars_disabled()
    library.setLevel(logging.CRITICAL)
    if had_bars:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        library.setLevel(level)
        if had_bars:
            bars.enable_progress_bars()


def of_hub(error: Exception, name: str, doing: str) -> FuseIndexError:
    """Return the error of huggingface_hub as one of this package."""
    from huggingface_hub import errors  # noqa: PLC0415 - only for the Hub

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what went wrong before huggingface_hub looked into its cache
    status = status_of(error)
    if isinstance(error, errors.GatedRepoError):
        return RemoteError(
            f"{name}: the Hub gives it only to those who accepted its terms",
            remedy="accept them on its page and run `hf auth login`",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return RemoteError(
            f"{name}: the repository has no such revision", expected="a branch, a tag or a commit"
        )
    if status == 401 and re.search("Invalid (credentials|user token)", message_of(error)):
        return RemoteError(
            f"{name}: the Hub does not accept the token",
            remedy="run `hf auth login` again, or correct HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and doing == "read"):
        local = "there is no such folder, and " if doing == "read" else ""
        return RemoteError(
            f"{name}: {local}the Hub has no such repository, or you may not see it",
            remedy="check the spelling; for a private one run `hf auth login` or set HF_TOKEN",
        )
    return _of_hub_otherwise(error, status, name, doing)


def _of_hub_otherwise(error: Exception, status: int | None, name: str, doing: str) -> RemoteError:
    from huggingface_hub import errors  # noqa: PLC0415 - only for the Hub

    text = message_of(error)
    if status in (401, 403):
        return RemoteError(
            f"{name} cannot be {doing}: permission denied ({text})",
            remedy="run `hf auth login` with a token that may, or set HF_TOKEN",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return RemoteError(
            f"{name} cannot be {doing}: the Hub may not be asked (HF_HUB_OFFLINE is set)",
            remedy="unset HF_HUB_OFFLINE, or pull it once where there is a network",
        )
    if isinstance(error, errors.LocalTokenNotFoundError):
        return RemoteError(
            f"{name} cannot be {doing}: no token of the Hub",
            remedy="run `hf auth login`, or set HF_TOKEN",
        )
    if (status is None and _is_about_the_network(error)) or (status or 0) >= 500:
        what = "no connection to the Hub" if status is None else "the Hub has a problem"
        failure = RemoteError(
            f"{name} cannot be {doing}: {what} ({type(error).__name__}: {text})",
            remedy="check the network, then run the same again",
        )
        failure.unreachable = True
        return failure
    return RemoteError(
        f"{name} cannot be {doing} ({type(error).__name__}: {text})",
        remedy="run the same again later",
    )


def _is_about_the_network(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or library in _HTTP_LIBRARIES


def message_of(error: BaseException) -> str:
    """Return the message of an error in one line, without the links that libraries add."""
    said: Any = getattr(error, "server_message", None) or getattr(error, "strerror", None) or error
    words = [w for w in str(said).split() if "://" not in w or "@" not in w]
    text = " ".join(words) or type(error).__name__
    return text if len(text) <= _TEXT_LENGTH else text[:_TEXT_LENGTH] + "..."
