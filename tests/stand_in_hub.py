"""The Hugging Face hub on this machine: the few addresses that a download asks, over real HTTP.

Repositories are folders: OWNER/NAME/REVISION/files. A revision's commit is made from its name.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def commit_of(revision: str) -> str:
    """Forty hexadecimal digits for a revision's name."""
    return hashlib.sha1(revision.encode()).hexdigest()


@dataclass
class Hub:
    """A running stand-in: its address, what it holds, what it was asked, and how it behaves."""

    root: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)  # method, path
    agents: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)  # their files need a token
    breaks: str | None = None  # a file that is sent by half and then no further
    half_sent: threading.Event = field(default_factory=threading.Event)
    mended: threading.Event = field(default_factory=threading.Event)

    def sent(self) -> list[str]:
        """The files that were asked for with their contents."""
        return [path.split("/resolve/")[1].partition("/")[2] for method, path in self.asked
                if method == "GET" and "/resolve/" in path]  # fmt: skip

    def folder(self, repo: str, revision: str) -> Path | None:
        """Where a revision, by its name or commit, lies."""
        for folder in (self.root / repo).iterdir():
            if revision in (folder.name, commit_of(folder.name)):
                return folder
        return None


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """The folders below `root` on a free port of 127.0.0.1."""
    hub = Hub(root)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.mended.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 6:
            self._list("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._error(404, "EntryNotFound")

    def _list(self, repo: str, what: str, revision: str) -> None:
        folder = self._found(repo, revision)
        if folder is None:
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [(str(path.relative_to(folder)), path) for path in files]
        if what == "tree":
            self._json([{"type": "file", "path": name, "size": path.stat().st_size,
                         "oid": _etag(path)} for name, path in names])  # fmt: skip
        else:
            siblings = [{"rfilename": name} for name, _ in names]
            sha = commit_of(folder.name)
            self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings})

    def _file(self, repo: str, revision: str, name: str) -> None:
        folder = self._found(repo, revision)
        if folder is None:
            return
        if repo in self.hub.gated and "Authorization" not in self.headers:
            self._error(401, "GatedRepo")
        elif not (folder / name).is_file():
            self._error(404, "EntryNotFound")
        else:
            self._send(folder / name, commit_of(folder.name))

    def _send(self, file: Path, commit: str) -> None:
        whole, start = file.read_bytes(), 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(file)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(whole) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        if self.command == "GET" and file.name == self.hub.breaks and not self.hub.mended.is_set():
            self.wfile.write(whole[: len(whole) // 2])
            self.wfile.flush()
            self.hub.half_sent.set()
            self.hub.mended.wait()
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(whole[start:])

    def _found(self, repo: str, revision: str) -> Path | None:
        if not (self.hub.root / repo).is_dir():
            self._error(401, "RepoNotFound")
            return None
        folder = self.hub.folder(repo, revision)
        if folder is None:
            self._error(404, "RevisionNotFound")
        return folder

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
