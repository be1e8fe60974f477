"""A model hub on 127.0.0.1 for tests: the few calls that huggingface_hub's own client makes to fetch and to send."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


class FakeHub:
    """Repositories in memory: name -> commits, each a mapping from path to bytes."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.claimed_sizes: dict[str, int] = {}
        self.address = ""

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """A new commit with these files; returns its name."""
        past = self.commits.setdefault(repo, [])
        content = repr((len(past), sorted((n, hashlib.sha256(b).hexdigest()) for n, b in files.items())))
        commit = hashlib.sha1(content.encode()).hexdigest()
        past.append((commit, dict(files)))
        return commit

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        past = self.commits.get(repo) or []
        wanted = self.tags.get((repo, revision), revision)
        if wanted == "main":
            return past[-1] if past else None
        return next((entry for entry in past if entry[0] == wanted), None)


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run a hub until the block ends."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def _answer(self, status: int, body: bytes | list | dict = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self) -> tuple[str, bytes]:
        path = unquote(urlsplit(self.path).path)
        self.hub.calls.append(f"{self.command} {path}")
        return path, self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command != "GET" else b""

    def do_HEAD(self) -> None:
        """As GET."""
        self.do_GET()

    def do_GET(self) -> None:
        """Model info, tree, and files."""
        path, _ = self._begin()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            entry = self._find(found[1], found[2] or "main")
            if entry:
                files = [{"rfilename": n, "size": self.hub.claimed_sizes.get(n, len(b))} for n, b in entry[1].items()]
                self._answer(200, {"id": found[1], "sha": entry[0], "siblings": files})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            entry = self._find(found[1], found[2])
            if entry:
                sizes = {name: len(content) for name, content in entry[1].items()}
                self._answer(
                    200,
                    [{"type": "file", "path": n, "size": s, "oid": _etag(entry[1][n])} for n, s in sizes.items()],
                )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            entry = self._find(found[1], found[2])
            if entry and found[3] in entry[1]:
                content = entry[1][found[3]]
                self._answer(200, content, ETag=f'"{_etag(content)}"', X_Repo_Commit=entry[0])
            elif entry:
                self._answer(404, b"no such file", X_Error_Code="EntryNotFound", X_Repo_Commit=entry[0])
        else:
            self._answer(404, b"unknown call")

    def _find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if repo not in self.hub.commits:
            self._answer(404, b"no such model", X_Error_Code="RepoNotFound")
            return None
        entry = self.hub.at(repo, revision)
        if entry is None:
            self._answer(404, b"no such revision", X_Error_Code="RevisionNotFound")
        return entry

    def do_POST(self) -> None:
        """New repository, which files are large, where large ones go, and the commit itself."""
        path, body = self._begin()
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\nlibrary_name: foreact\n")
            return self._answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, b"who are you?")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            if repo in self.hub.commits:
                return self._answer(409, {"url": f"{self.hub.address}/{repo}", "error": "exists"})
            self.hub.private[repo] = bool(asked.get("private") or asked.get("visibility") == "private")
            self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
            return self._answer(200, {"url": f"{self.hub.address}/{repo}", "name": repo})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            large = {True: "lfs", False: "regular"}
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": large[n.endswith(".safetensors")], "shouldIgnore": False} for n in names]
            return self._answer(200, {"files": modes})
        if path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.address}/upload/{o['oid']}", "header": {}}}}
                for o in wanted
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            commit = self.hub.add(found[1], self._changed(self.hub.commits[found[1]][-1][1], body))
            address = f"{self.hub.address}/{found[1]}/commit/{commit}"
            return self._answer(200, {"success": True, "commitOid": commit, "commitUrl": address})
        self._answer(404, b"unknown call")

    def _changed(self, before: dict[str, bytes], body: bytes) -> dict[str, bytes]:
        files = dict(before)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return files

    def do_PUT(self) -> None:
        """A large file."""
        path, body = self._begin()
        assert hashlib.sha256(body).hexdigest() == path.rsplit("/", 1)[-1]
        self.hub.objects[path.rsplit("/", 1)[-1]] = body
        self._answer(200)


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()
