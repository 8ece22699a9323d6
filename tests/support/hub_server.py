"""A stand-in of the Hub on loopback: it makes repositories and takes commits of files, as the Hub's client sends them.

Contents above SMALL bytes go by LFS, as the Hub has it; the rest stands in the commit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

SMALL = 1000
TOKEN = "hf_standin"
REPO = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+?)(?:/(preupload|commit)/main|/revision/\w+)?")
BATCH = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+?)\.git/info/lfs/objects/batch")
Reply = tuple[int, Any]


@dataclass
class Repository:
    """What a repository has."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@dataclass
class HubServer:
    """What the Hub has, and what was asked of it."""

    whoami: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "me",
            "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "club", "roleInOrg": "read"}],
            "auth": {"accessToken": {"role": "write"}},
        }
    )
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)  # by kind and name, for example models/me/x
    stored: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    uploads: int = 0  # bytes that came by LFS
    asked: list[str] = field(default_factory=list)

    def reply(self, method: str, path: str, content: bytes, token: str) -> Reply:
        """Answer one request."""
        self.asked.append(f"{method} {path}")
        if path.startswith("/lfs/"):
            self.stored[path.removeprefix("/lfs/")] = content
            self.uploads += len(content)
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "unauthorized"}
        if path == "/api/whoami-v2":
            return 200, self.whoami
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        batch = BATCH.fullmatch(path)
        if batch:
            return 200, {"objects": [self.action(one) for one in json.loads(content)["objects"]]}
        asked = REPO.fullmatch(path)
        repository = self.repositories.get(f"{asked[1]}/{asked[2]}") if asked else None
        if asked is None or repository is None:
            return 404, {"error": "Repository not found"}
        return self.of_repository(asked, repository, content)

    def create(self, wanted: dict[str, Any]) -> Reply:
        """Make a repository."""
        name = f"{wanted.get('organization') or self.whoami['name']}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        self.repositories[f"{kind}s/{name}"] = Repository(private=wanted.get("visibility") == "private")
        return 200, {"url": f"{self.address}/{'' if kind == 'model' else 'datasets/'}{name}", "name": name}

    def action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Say where to send a content, if it is not there."""
        if wanted["oid"] in self.stored:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.address}/lfs/{wanted['oid']}"}}}

    def of_repository(self, asked: re.Match[str], repository: Repository, content: bytes) -> Reply:
        """Answer what is asked of a repository."""
        if asked[3] == "preupload":
            return 200, {"files": [preupload(one, repository) for one in json.loads(content)["files"]]}
        if asked[3] == "commit":
            self.commit(repository, content)
            oid = sha(repository)
            return 200, {"commitUrl": f"{self.address}/{asked[2]}/commit/{oid}", "commitOid": oid}
        siblings = [{"rfilename": name} for name in sorted(repository.files)]
        return 200, {"id": asked[2], "sha": sha(repository), "private": repository.private, "siblings": siblings}

    def commit(self, repository: Repository, content: bytes) -> None:
        """Take a commit."""
        repository.commits += 1
        for line in content.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.stored[value["oid"]]


def sha(repository: Repository) -> str:
    """Return the name of a repository's last commit."""
    return f"{repository.commits:040x}"


def preupload(wanted: dict[str, Any], repository: Repository) -> dict[str, Any]:
    """Say how a file is to be sent, and which content its path has now."""
    before = repository.files.get(wanted["path"])
    is_large = wanted["size"] > SMALL
    about = {"path": wanted["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
    if before is None:
        return about
    whole = hashlib.sha256(before) if is_large else hashlib.sha1(b"blob %d\0" % len(before) + before)
    return about | {"oid": whole.hexdigest()}


def use(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hub's client of this process talk to a stand-in: by plain LFS, which is what it speaks without Xet."""
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@contextlib.contextmanager
def running() -> Iterator[HubServer]:
    """Hold a stand-in of the Hub on loopback."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            code, body = hub.reply(self.command, path, content, self.headers.get("Authorization", ""))
            sent = json.dumps(body).encode()
            self.send_response(code)
            if code == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
