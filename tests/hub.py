"""A stand-in for the Hugging Face hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


class Hub:
    """Repositories in memory: name -> revision -> file -> bytes; every request that arrives, by method and path."""

    token = "hf_test"

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.created: dict[str, Any] = {}

    def publish(self, name: str, folder: Path, revision: str = "main") -> None:
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repositories.setdefault(name, {})[revision] = files


def _commit_id(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def do_HEAD(self) -> None:  # noqa: N802
        self._read()

    def do_GET(self) -> None:  # noqa: N802
        self._read()

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._note()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._answer(401, {"error": "no valid token"})
        if self.path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('organization') or 'me'}/{values['name']}"
            self.hub.created[name] = values
            self.hub.repositories.setdefault(name, {"main": {}})
            return self._answer(200, {"url": f"{self._root()}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name, _, action = self.path.removeprefix("/api/models/").partition("/preupload/")
        if action:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.repositories[name]["main"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = _commit_id(self.hub.repositories[name]["main"])
        url = f"{self._root()}/{name}/commit/{commit}"
        return self._answer(200, {"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})

    def _read(self) -> None:
        self._note()
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/").removeprefix("api/").split("/")
        at = 3 if path[0] == "datasets" else 2  # a data set's name is here datasets/owner/name
        name, kind, revision = "/".join(path[:at]), path[at : at + 1], unquote("".join(path[at + 1 : at + 2])) or "main"
        file = unquote("/".join(path[at + 2 :]))
        if name not in self.hub.repositories:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        revisions = self.hub.repositories[name]
        named = {_commit_id(files): files for files in revisions.values()} | revisions
        if revision not in named:
            return self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        files = named[revision]
        if kind in ([], ["revision"]):
            return self._answer(200, {"id": name, "sha": _commit_id(files), "private": False})
        if kind == ["tree"] and not file:
            entries = [
                {"type": "file", "path": one, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for one, content in files.items()
            ]
            return self._answer(200, entries)
        if file not in files:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(files[file]).hexdigest()
        return self._answer(200, files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": _commit_id(files)})

    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _note(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Authorization")))

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that this process uses, with an empty cache; as HF_ENDPOINT and HF_HUB_CACHE would choose them."""
    stub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": stub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_address[1]}"
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", root)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", root + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", root)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # made with the endpoint of its time
    yield stub
    server.shutdown()
    server.server_close()
