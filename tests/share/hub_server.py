"""A Hub on the loopback interface: the calls that huggingface_hub makes for a bundle, and faults.

It keeps repositories as commits of files in memory. Large files are served as the Hub serves LFS
files: by a redirect to another host ("the CDN"), with ranges.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

WRITER, READER = "hf_writer", "hf_reader"
Files = dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        text = repr((sorted(files.items()), branch, len(self.commits)))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Faults:
    """What goes wrong, by path in the repository."""

    cut: dict[str, list[int]] = field(default_factory=dict)
    """Bytes after which each next answer's connection is closed."""
    altered: set[str] = field(default_factory=set)
    lengthened: dict[str, int] = field(default_factory=dict)
    """Bytes sent beyond the announced ones, without a length."""
    announced: dict[str, int] = field(default_factory=dict)
    fail: dict[str, int] = field(default_factory=dict)
    """Status by a piece of the URL."""
    etag: str | None = None
    ignore_ranges: bool = False
    on_content: Callable[[str], Any] = lambda path: None
    """Called with the path before a file's content is sent."""


class Hub:
    """The server; use as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults = Faults()
        self.log: list[tuple[str, str, str]] = []
        """Method, path and range of every request."""
        self.lock = threading.Lock()
        self.stopped = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more, not even on connections that are kept open."""
        self.stopped = True
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: Files, private: bool = False) -> str:
        """Make a repository, or add a commit to it."""
        repository = self.repositories.setdefault(name, Repository(private))
        return repository.commit(files)

    def fetched(self, part: str) -> list[tuple[str, str]]:
        """Path and range of every GET whose path holds ``part``."""
        return [(path, span) for method, path, span in self.log if method == "GET" and part in path]


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".faiss"))


def oid_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def etag_of(path: str, data: bytes) -> str:
    if is_large(path):
        return oid_of(data)
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def do_POST(self) -> None:
        self.route()

    def do_PUT(self) -> None:
        self.route()

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.stopped:
            self.close_connection = True
            return None
        with self.hub.lock:
            self.hub.log.append((self.command, path, self.headers.get("Range", "")))
        for piece, status in self.hub.faults.fail.items():
            if piece in path:
                return self.fail(status, "", "the server has a bad day")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", WRITER, READER):
            return self.fail(401, "", "Invalid credentials in Authorization header")
        self.token = token
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return getattr(self, action)(*match.groups())
        return self.fail(404, "", f"no such route: {self.command} {path}")

    # Answers

    def answer(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Reading

    def repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.token):
            if self.token:
                self.fail(404, "RepoNotFound", "Repository not found")
            else:
                self.fail(401, "", "Invalid username or password.")
            return None
        return found

    def whoami(self) -> None:
        if not self.token:
            return self.fail(401, "", "Invalid username or password.")
        return self.answer({"name": "tester", "type": "user", "orgs": []})

    def info(self, name: str, revision: str | None = None) -> None:
        repository = self.repository(name)
        if repository is None:
            return None
        sha = repository.resolve(revision or "main")
        if sha is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        value = {"id": name, "sha": sha, "private": repository.private, "siblings": siblings}
        return self.answer({**value, "tags": [], "downloads": 0})

    def tree(self, name: str, revision: str) -> None:
        repository = self.repository(name)
        if repository is None:
            return None
        files = repository.commits[repository.resolve(revision) or ""]
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": etag_of(path, data)}
            for path, data in sorted(files.items())
        ]
        return self.answer(entries)

    def resolve(self, name: str, rest: str) -> None:
        repository = self.repository(name)
        if repository is None:
            return None
        # a branch may have slashes, and is quoted as a whole
        quoted = urlsplit(self.path).path.split("/resolve/")[1]
        revision, _, path = quoted.partition("/")
        revision, path = unquote(revision), unquote(path)
        sha = repository.resolve(revision)
        if sha is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        data = repository.commits[sha].get(path)
        headers = {"X-Repo-Commit": sha}
        if data is None:
            self.send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            return None
        etag = self.hub.faults.etag or etag_of(path, data)
        size = self.hub.faults.announced.get(path, len(data))
        if not is_large(path):
            return self.content(path, data, {**headers, "ETag": f'"{etag}"'}, size)
        oid = oid_of(data)
        self.hub.objects[oid] = data
        headers |= {
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(size),
            "Location": f"http://localhost:{self.hub.server.server_port}/cdn/{oid}/{path}",
        }
        return self.send(302, b"", headers)

    def cdn(self, oid: str, path: str) -> None:
        if self.token:
            return self.fail(400, "", "the token of the Hub went to another host")
        data = self.hub.objects[oid]
        return self.content(path, data, {"ETag": f'"{oid}"'}, len(data))

    def content(self, path: str, data: bytes, headers: dict[str, str], size: int) -> None:
        faults = self.hub.faults
        if path in faults.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.command == "HEAD":
            return self.send(200, b"", {**headers, "Content-Length": str(size)})
        faults.on_content(path)
        start, status = 0, 200
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if span and not faults.ignore_ranges:
            start, status = int(span[1]), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        rest = data[start:]
        if extra := faults.lengthened.get(path):
            self.send_response(status)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(rest + b"\0" * extra)
            self.close_connection = True
            return None
        cuts = faults.cut.get(path)
        if not cuts:
            return self.send(status, rest, headers)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(rest))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest[: cuts.pop(0)])
        self.wfile.flush()
        self.close_connection = True
        return None

    # Writing

    def may_write(self) -> bool:
        if self.token != WRITER:
            self.fail(403 if self.token else 401, "", "you may not write here")
        return self.token == WRITER

    def create(self) -> None:
        if not self.may_write():
            return None
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self.fail(409, "", "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repository = self.hub.repositories[name] = Repository(private)
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.answer({"url": f"{self.hub.url}/{name}", "name": name})

    def branch(self, name: str, branch: str) -> None:
        repository = self.repository(name)
        if repository is None or not self.may_write():
            return None
        if branch in repository.branches:
            return self.fail(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return self.answer({})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        errors = []
        try:
            front = yaml.safe_load(text.split("---")[1])
            assert isinstance(front, dict)
        except Exception as error:
            errors = [{"message": str(error)}]
        return self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        if not self.may_write():
            return None
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        return self.answer({"files": modes})

    def batch(self, name: str) -> None:
        found = []
        for item in json.loads(self.body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/put/{item['oid']}"}}
            found.append(entry)
        return self.answer({"transfer": "basic", "objects": found})

    def put(self, oid: str) -> None:
        if oid_of(self.body) != oid:
            return self.fail(400, "", "the content has another hash")
        self.hub.objects[oid] = self.body
        return self.send(200, b"", {})

    def commit(self, name: str, revision: str) -> None:
        repository = self.repository(name)
        if repository is None or not self.may_write():
            return None
        files = dict(repository.commits[repository.branches[revision]])
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                parent = value.get("parentCommit")
                if parent and parent != repository.branches[revision]:
                    return self.fail(412, "", "A commit has happened since")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        return self.answer({"success": True, "commitOid": sha, "commitUrl": url})


_NAME = r"([^/]+/[^/]+)"
_ROUTES = (
    (("GET",), r"/api/whoami-v2", "whoami"),
    (("GET",), rf"/api/models/{_NAME}", "info"),
    (("GET",), rf"/api/models/{_NAME}/revision/(.+)", "info"),
    (("GET",), rf"/api/models/{_NAME}/tree/(.+)", "tree"),
    (("HEAD", "GET"), rf"/{_NAME}/resolve/(.+)", "resolve"),
    (("HEAD", "GET"), r"/cdn/([0-9a-f]+)/(.+)", "cdn"),
    (("POST",), r"/api/repos/create", "create"),
    (("POST",), rf"/api/models/{_NAME}/branch/(.+)", "branch"),
    (("POST",), r"/api/validate-yaml", "validate"),
    (("POST",), rf"/api/models/{_NAME}/preupload/(.+)", "preupload"),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (("PUT",), r"/put/([0-9a-f]+)", "put"),
    (("POST",), rf"/api/models/{_NAME}/commit/(.+)", "commit"),
)
