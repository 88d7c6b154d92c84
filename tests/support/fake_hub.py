"""A model hub on this machine: as many of its endpoints as huggingface_hub calls to read a model and to write one.

Large files (of the suffix .safetensors) are kept apart and reached by a redirection to a host of another name, as a hub
keeps them: no token goes there.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

READER, WRITER = "hf_fake_reader_0123", "hf_fake_writer_4567"


@dataclass
class Repository:
    """commits: from a hash to the files, the newest last. tags: names of some of these hashes."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add or replace files; returns the commit's hash."""
        whole = {**(list(self.commits.values())[-1] if self.commits else {}), **files}
        text = repr((len(self.commits), sorted((name, hashlib.sha1(data).digest()) for name, data in whole.items())))
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = whole
        return name

    def find(self, revision: str) -> str | None:
        """The hash of a branch, tag or hash."""
        if revision == "main":
            return list(self.commits)[-1] if self.commits else None
        revision = self.tags.get(revision, revision)
        return revision if revision in self.commits else None


class FakeHub(ThreadingHTTPServer):
    """repositories: by "OWNER/REPO". requests: (method, path, token) of all that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def store_url(self) -> str:
        return f"http://localhost:{self.server_port}/large"


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", url: str = "") -> None:
        self.status, self.code, self.message, self.url = status, code, message, url


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_PUT(self) -> None:
        self._serve(self._put)

    # --- answers --------------------------------------------------------------------------------------------

    def _serve(self, answer: Any) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size) if size else self._chunks()
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        self.server.requests.append((self.command, urlsplit(self.path).path, self.token))
        try:
            if self.token not in (None, READER, WRITER):
                raise _Refused(401, message="Invalid credentials in Authorization header")
            answer(words)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, json.dumps({"error": refused.message, "url": refused.url}).encode(), headers)

    def _chunks(self) -> bytes:
        found = b""
        while self.headers.get("Transfer-Encoding") == "chunked":
            chunk = self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
            if not chunk:
                break
            found += chunk
        return found

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    # --- requests -------------------------------------------------------------------------------------------

    def _repository(self, name: str) -> Repository:
        """One that this client may see: others are not there, to it."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and self.token is None):
            raise _Refused(404 if self.token else 401, "RepoNotFound", "Repository not found")
        return found

    def _writable(self, name: str) -> Repository:
        if self.token != WRITER:
            raise _Refused(403, message="You don't have the rights to write here")
        return self._repository(name)

    def _get(self, words: list[str]) -> None:
        if words[0] == "large":
            self._send(200, self.server.large[words[1]])
        elif words[:2] == ["api", "models"] and len(words) == 4:
            name = "/".join(words[2:])
            found = self._repository(name)
            self._json({"id": name, "private": found.private, "sha": found.find("main"), "siblings": [], "tags": []})
        elif words[2:3] == ["resolve"]:
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            raise _Refused(404)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._repository(name)
        if found.gated and self.token is None:
            raise _Refused(403, "GatedRepo", "Access to this model is restricted")
        commit = found.find(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = found.commits[commit].get(path)
        if content is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if not path.endswith(".safetensors"):
            self._send(200, content, headers)
            return
        oid = hashlib.sha256(content).hexdigest()
        self.server.large[oid] = content
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._send(302, b"", {**headers, **linked, "Location": f"{self.server.store_url}/{oid}"})

    def _post(self, words: list[str]) -> None:
        if words == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif words == ["api", "repos", "create"]:
            self._create(json.loads(self.body))
        elif words[:2] == ["api", "models"] and words[4:5] == ["preupload"]:
            self._writable("/".join(words[2:4]))
            files = [each["path"] for each in json.loads(self.body)["files"]]
            modes = ["lfs" if path.endswith(".safetensors") else "regular" for path in files]
            told = zip(files, modes, strict=True)
            self._json({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in told]})
        elif words[2:] == ["info", "lfs", "objects", "batch"]:
            self._writable("/".join(words[:2]).removesuffix(".git"))
            wanted = json.loads(self.body)["objects"]
            to = {each["oid"]: {"upload": {"href": f"{self.server.store_url}/{each['oid']}"}} for each in wanted}
            self._json({"transfer": "basic", "objects": [{**each, "actions": to[each["oid"]]} for each in wanted]})
        elif words[:2] == ["api", "models"] and words[4:5] == ["commit"]:
            self._commit("/".join(words[2:4]))
        else:
            raise _Refused(404)

    def _create(self, wanted: dict[str, Any]) -> None:
        if self.token != WRITER:
            raise _Refused(403, message="You don't have the rights to create a model there")
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repositories:
            raise _Refused(409, message="You already created this model repo", url=f"{self.server.url}/{name}")
        self.server.repositories[name] = Repository(
            wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        self.server.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.server.url}/{name}", "name": name, "id": "1"})

    def _commit(self, name: str) -> None:
        found, files = self._writable(name), {}
        for line in self.body.splitlines():
            each = json.loads(line)
            if each["key"] == "file":
                files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            elif each["key"] == "lfsFile":
                files[each["value"]["path"]] = self.server.large[each["value"]["oid"]]
        commit = found.commit(files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})

    def _put(self, words: list[str]) -> None:
        assert words[0] == "large" and hashlib.sha256(self.body).hexdigest() == words[1]
        self.server.large[words[1]] = self.body
        self._send(200)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
