"""A model hub on this machine that speaks the Hugging Face Hub's protocol, so that the real client is what is tested.

Repositories live in memory. Large files (graphs and weights) are answered with a redirect to a second server, as to the
hub's storage. Every request is logged; faults can be put in.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".onnx", ".bin", ".ckpt")
WRITER = "hf_writer"  # the token that may write and see everything

Files = dict[str, bytes]


def read_folder(folder: Path) -> Files:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def etag(path: str, content: bytes) -> str:
    """Of a large file its sha256, of others git's hash of a blob."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{branch}{sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


class Hub:
    """The state of both servers: `url` is what HF_ENDPOINT must be, `storage` where large files lie."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # large files by sha256
        self.log: list[str] = []  # every request: "GET /path", with the Range asked for
        self.sent: list[str] = []  # the paths whose content was sent
        self.cut: Counter[str] = Counter()  # path -> how many downloads of it break off
        self.short: set[str] = set()  # paths whose content is cut while the headers are whole
        self.down = 0  # an HTTP status that everything answers
        self.url = self.storage = ""

    def publish(self, repo_id: str, files: Files, branch: str = "main", **facts: bool) -> Repo:
        repo = self.repos.setdefault(repo_id, Repo(**facts))
        repo.commit(files, branch)
        self.blobs |= {etag(p, c): c for p, c in files.items() if p.endswith(LARGE)}
        return repo

    def forget(self) -> None:
        self.log.clear()
        self.sent.clear()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: bytes | dict | list = b"", **headers: str) -> None:
        if isinstance(content, (dict, list)):
            content, headers = json.dumps(content).encode(), headers | {"Content_Type": "application/json"}
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    @property
    def writer(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {WRITER}"

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        asked = self.headers.get("Range", "")
        path = unquote(url.path)
        if self.hub.down:
            self.hub.log.append(f"{self.command} {path}")
            return self.answer(self.hub.down, {"error": "the hub is down"})
        for method, pattern, call in self.routes:
            match = re.fullmatch(pattern, url.path)
            if method in (self.command, "ANY") and match:
                self.hub.log.append(f"{self.command} {path} {asked}".rstrip())
                return call(self, **{key: unquote(value) for key, value in match.groupdict().items() if value})
        self.hub.log.append(f"{self.command} {path}: no such route")
        return self.answer(404, {"error": "no such route"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def find(self, id: str, revision: str) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(id)
        if repo is None or (repo.private and not self.writer):
            self.refuse(404 if self.writer else 401, "RepoNotFound", "Repository not found")
            return None
        commit = repo.find(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo, commit

    def info(self, id: str, revision: str = "main") -> None:
        if found := self.find(id, revision):
            repo, commit = found
            names = [{"rfilename": path} for path in repo.commits[commit]]
            self.answer(200, {"id": id, "sha": commit, "private": repo.private, "siblings": names})

    def tree(self, id: str, revision: str) -> None:
        if found := self.find(id, revision):
            repo, commit = found
            self.answer(200, [self.entry(path, content) for path, content in repo.commits[commit].items()])

    @staticmethod
    def entry(path: str, content: bytes) -> dict:
        record = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(LARGE):
            record["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 130}
        return record

    def resolve(self, id: str, revision: str, path: str) -> None:
        found = self.find(id, revision)
        if not found:
            return None
        repo, commit = found
        if repo.gated and not self.writer:
            return self.refuse(401, "GatedRepo", f"Access to model {id} is restricted")
        if path not in repo.commits[commit]:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = repo.commits[commit][path]
        facts = {"ETag": f'"{etag(path, content)}"', "X_Repo_Commit": commit}
        if path.endswith(LARGE):
            facts |= {"X_Linked_Size": str(len(content)), "X_Linked_ETag": facts["ETag"]}
            where = f"{self.hub.storage}/{etag(path, content)}/{path}"
            return self.answer(302, Location=where, **facts)
        return self.content(path, content, **facts)

    def content(self, path: str, content: bytes, **facts: str) -> None:
        """The whole or the range asked for; or less, where a fault was put in."""
        start = int(re.sub(r"\D", "", self.headers.get("Range", "")) or 0)
        part = content[start:]
        if path in self.hub.short:
            part = part[: len(part) // 2]
        facts = {"Content_Length": str(len(part)), "Accept_Ranges": "bytes"} | facts
        if start:
            facts["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.hub.sent.append(path)
            if self.hub.cut[path] > 0:
                self.hub.cut[path] -= 1
                part = part[: len(part) * 4 // 5]
                self.close_connection = True
        self.answer(206 if start else 200, part, **facts)

    def stored(self, oid: str, path: str = "") -> None:
        if self.command == "PUT":
            content = self.body()
            if hashlib.sha256(content).hexdigest() != oid:
                return self.answer(400)
            self.hub.blobs[oid] = content
            return self.answer(200)
        return self.content(path, self.hub.blobs[oid])

    def create(self) -> None:
        asked = json.loads(self.body())
        repo_id = f"{asked['organization']}/{asked['name']}"
        if not self.writer:
            return self.answer(401, {"error": "Invalid username or password."})
        if repo_id in self.hub.repos:
            return self.answer(
                409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}
            )
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[repo_id] = Repo(private=private)
        self.hub.repos[repo_id].commit({".gitattributes": b""})
        return self.answer(200, {"url": f"{self.hub.url}/{repo_id}"})

    def branch(self, id: str, revision: str) -> None:
        self.body()
        repo = self.hub.repos[id]
        if revision in repo.branches:
            return self.answer(409, {"error": "Reference already exists"})
        repo.branches[revision] = repo.branches["main"]
        return self.answer(200, {})

    def preupload(self, id: str, revision: str) -> None:
        files = json.loads(self.body())["files"]
        if not self.writer:
            return self.refuse(403, "", "you may not write here")
        modes = [("lfs" if f["path"].endswith(LARGE) else "regular", f["path"]) for f in files]
        return self.answer(
            200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for m, p in modes]}
        )

    def batch(self, id: str) -> None:
        objects = json.loads(self.body())["objects"]
        for each in objects:
            if each["oid"] not in self.hub.blobs:
                each["actions"] = {"upload": {"href": f"{self.hub.storage}/{each['oid']}"}}
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, id: str, revision: str) -> None:
        repo = self.hub.repos[id]
        files = dict(repo.commits[repo.branches[revision]])
        for line in self.body().splitlines():
            record = json.loads(line)
            value = record["value"]
            if record["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif record["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        oid = repo.commit(files, revision)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{id}/commit/{oid}", "commitOid": oid})

    def check_page(self) -> None:
        self.body()
        self.answer(200, {"warnings": [], "errors": []})

    _ID = r"(?P<id>[^/]+/[^/]+)"
    routes = (
        ("POST", "/api/repos/create", create),
        ("POST", "/api/validate-yaml", check_page),
        ("GET", f"/api/models/{_ID}", info),
        ("GET", f"/api/models/{_ID}/revision/(?P<revision>[^/]+)", info),
        ("GET", f"/api/models/{_ID}/tree/(?P<revision>[^/]+)", tree),
        ("POST", f"/api/models/{_ID}/branch/(?P<revision>[^/]+)", branch),
        ("POST", f"/api/models/{_ID}/preupload/(?P<revision>[^/]+)", preupload),
        ("POST", f"/api/models/{_ID}/commit/(?P<revision>[^/]+)", commit),
        ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", batch),
        ("ANY", f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
        ("ANY", "/(?P<oid>[0-9a-f]{64})(/(?P<path>.+))?", stored),
    )


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    hub.storage = f"http://localhost:{servers[1].server_port}"  # another host, as to the client
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


RUN = """
import contextlib, io, json
from diffrt.cli import run
results = []
for line in {!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(line)
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def one_line(code: int, out: str, err: str) -> str:
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    assert err.startswith("diffrt: ")
    return err


@dataclass
class Client:
    """Runs diffrt in processes of their own, because huggingface_hub reads its environment when it is imported."""

    hub: Hub
    home: Path  # HF_HOME

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def python(self, code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        settings = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
        }  # xet: not spoken
        return subprocess.run(
            [sys.executable, "-c", code], env=clean | settings | environment, capture_output=True, text=True
        )

    def runs(self, *lines: Sequence[object], **environment: str) -> list[tuple[int, str, str]]:
        """The exit code, stdout and stderr of command lines, one after another in one process."""
        done = self.python(RUN.format([[str(argument) for argument in line] for line in lines]), **environment)
        assert done.returncode == 0, done.stderr
        return [tuple(each) for each in json.loads(done.stdout)]

    def run(self, *arguments: object, **environment: str) -> tuple[int, str, str]:
        return self.runs(arguments, **environment)[0]

    def fails(self, *arguments: object, **environment: str) -> str:
        """The one line on stderr of a command that must end with exit code 2."""
        return one_line(*self.run(*arguments, **environment))

    def fetch(self, repo_id: str, revision: str | None = None, **environment: str) -> Path:
        done = self.python(f"from diffrt import hub; print(hub.fetch({repo_id!r}, {revision!r}))", **environment)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())
