"""A small Hugging Face Hub on this machine: a real HTTP server with the routes of huggingface_hub, standard library only.

It keeps repositories in memory, commit by commit, and can misbehave on request: cut a connection in the middle of a body, damage a body
without changing its size, or refuse every request.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Use as a context manager; `url` is the endpoint.

    Attributes:
        requests: "METHOD /path" of everything asked for.
        cut: file paths whose next body ends half-way, the connection closed.
        damaged: file paths whose bodies have one byte changed.
        status: answer everything with this code instead, None = behave.
    """

    def __init__(self):
        self.requests: list[str] = []
        self.cut: set[str] = set()
        self.damaged: set[str] = set()
        self.status: int | None = None
        self.repositories: dict[str, dict[str, str]] = {}  # repository -> branch, tag or commit -> commit
        self.commits: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody listens any more: connections are refused, open ones are gone."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.repositories[repository][revision]]

    def commit(self, repository: str, changes: dict[str, bytes | None], revision: str = "main") -> str:
        """Add or (None) remove files; returns the commit's 40 hex digits."""
        references = self.repositories.setdefault(repository, {})
        files = {**self.commits.get(references.get(revision, ""), {}), **changes}
        files = {path: content for path, content in files.items() if content is not None}
        digest = hashlib.sha1(f"{repository} {len(self.commits)}".encode()).hexdigest()
        self.commits[digest] = files
        references |= {revision: digest, digest: digest}
        return digest


def is_large(path: str) -> bool:
    """Stored as LFS, addressed by SHA-256."""
    return path.endswith((".safetensors", ".bin"))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        super().finish()

    def do_GET(self):
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass

    def _route(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            return self._send(self.hub.status, b"out of order")
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return answer(self, body, **match.groupdict())
        self._send(404, b"no such route")

    def _send(self, code: int, content: bytes, **headers: str):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), Content_Type="application/json")

    def _find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        references = self.hub.repositories.get(repository)
        if references is None:
            return self._send(404, b"Repository not found", X_Error_Code="RepoNotFound")
        if revision not in references:
            return self._send(404, b"Invalid rev id", X_Error_Code="RevisionNotFound")
        return references[revision], self.hub.commits[references[revision]]

    def info(self, _, repository, revision=None):
        if found := self._find(repository, revision or "main"):
            commit, files = found
            self._json({"id": repository, "sha": commit, "tags": [], "siblings": [{"rfilename": path} for path in files]})

    def tree(self, _, repository, revision):
        if found := self._find(repository, revision):
            entries = []
            for path, content in found[1].items():
                entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob_id(content)}
                if is_large(path):
                    entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                entries.append(entry)
            self._json(entries)

    def resolve(self, _, repository, revision, path):
        found = self._find(repository, revision)
        if not found:
            return
        commit, files = found
        if path not in files:
            return self._send(404, b"Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[path]
        tag = hashlib.sha256(content).hexdigest() if is_large(path) else git_blob_id(content)
        headers = {"X_Repo_Commit": commit, "ETag": f'"{tag}"', "Accept_Ranges": "bytes"}
        if is_large(path):
            headers |= {"X_Linked_ETag": f'"{tag}"', "X_Linked_Size": str(len(content))}
        if path in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        code, start = 200, 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            code, start = 206, int(asked[1])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content_Length"] = str(len(content) - start)
        if path in self.hub.cut and self.command == "GET":
            self.hub.cut.remove(path)
            self.close_connection = True
            return self._send(code, content[start:(start + len(content)) // 2], **headers)
        self._send(code, content[start:], **headers)

    def create(self, body):
        asked = json.loads(body)
        repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repository not in self.hub.repositories:
            self.hub.commit(repository, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.url}/{repository}", "name": repository})

    def validate(self, _):
        self._json({"warnings": [], "errors": []})

    def preupload(self, body, repository, revision):
        if self._find(repository, revision):
            files = [{"path": file["path"], "uploadMode": "lfs" if is_large(file["path"]) else "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]
            self._json({"files": files})

    def lfs_batch(self, body, repository):
        objects = [{"oid": item["oid"], "size": item["size"], "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
                   for item in json.loads(body)["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self._send(400, b"wrong content")
        self.hub.uploads[oid] = body
        self._send(200, b"")

    def write(self, body, repository, revision):
        if not self._find(repository, revision):
            return
        changes: dict[str, bytes | None] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.hub.uploads[value["oid"]]
        commit = self.hub.commit(repository, changes, revision)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repository}/commit/{commit}"})


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPOSITORY = r"(?P<repository>[\w.-]+/[\w.-]+?)"
_ROUTES = (
    ("GET", rf"/api/models/{_REPOSITORY}", _Handler.info),
    ("GET", rf"/api/models/{_REPOSITORY}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"/api/models/{_REPOSITORY}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (("GET", "HEAD"), rf"/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_REPOSITORY}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.lfs_put),
    ("POST", rf"/api/models/{_REPOSITORY}/commit/(?P<revision>[^/]+)", _Handler.write),
)
