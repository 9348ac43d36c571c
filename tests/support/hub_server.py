# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""A stand-in for the Hugging Face Hub on the loopback interface: repositories, commits, LFS uploads, downloads.

It speaks as much of the protocol as pushing and loading a model needs, keeps everything in memory, and fails on
request: a `Fault` makes the next matching requests go wrong.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Stored:
    """A file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self):
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.is_lfs else self.oid


@dataclass
class Repository:
    """Commits by id, and branches by name."""

    private: bool = False
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, files):
        oid = hashlib.sha1(f"{branch}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def resolve(self, revision):
        revision = urllib.parse.unquote(revision)
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass
class Fault:
    """The next `times` requests of that method and path get `status`; status 0 drops the connection."""

    method: str
    path: str
    status: int
    times: int = 1


class HubServer:
    """`lfs_from`: files of that many bytes and more are uploaded by LFS; None: all files travel in the commit."""

    def __init__(self, lfs_from=None):
        self.lfs_from = lfs_from
        self.repositories, self.objects = {}, {}
        self.faults, self.requests = [], []
        self.damage_objects = False
        self.lock = threading.RLock()
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()

    def fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.status
        return None


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        self.hub.requests.append((self.command, url.path))
        status = self.hub.fault(self.command, url.path)
        if status == 0:
            self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            self.connection.close()
            return
        body = self.body()
        if status is not None:
            self.answer({"error": f"fault {status}"}, status)
            return
        with self.hub.lock:
            self.route(url.path, body)

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def answer(self, body=b"", status=200, headers=None):
        headers = dict(headers or {})
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        headers.setdefault("Content-Length", str(len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code, **headers):
        self.answer({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code, **headers})

    def route(self, path, body):
        routes = [
            ("POST", r"/api/validate-yaml", self.validate),
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/(.+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/objects/([0-9a-f]{64})", self.store),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self.preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self.commit),
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", self.branch),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", self.tree),
            ("GET", r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", self.info),
            ("GET", r"/api/models/([^/]+/[^/]+)()", self.info),
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, serve in routes:
            match = re.fullmatch(pattern, path)
            if match and wanted == method:
                return serve(body, *match.groups())
        return self.refuse("NoSuchRoute")

    def repository(self, name):
        if name not in self.hub.repositories:
            self.refuse("RepoNotFound")
        return self.hub.repositories.get(name)

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    def create(self, body):
        values = json.loads(body)
        name = f"{values.get('organization') or 'user'}/{values['name']}"
        if name in self.hub.repositories:
            return self.answer({"error": "exists", "url": f"{self.hub.endpoint}/{name}"}, 409)
        repository = self.hub.repositories[name] = Repository(private=_is_private(values))
        repository.commit("main", {".gitattributes": Stored(b"*.safetensors filter=lfs\n", False)})
        return self.answer({"url": f"{self.hub.endpoint}/{name}", "id": name, "name": name})

    def branch(self, body, name, branch):
        if repository := self.repository(name):
            branch = urllib.parse.unquote(branch)
            if branch in repository.branches:
                return self.answer({"error": "Reference already exists"}, 409)
            repository.branches[branch] = repository.branches["main"]
            self.answer({})
        return None

    def preupload(self, body, name, branch):
        if self.repository(name):
            limit = self.hub.lfs_from
            modes = ["regular" if limit is None or f["size"] < limit else "lfs" for f in json.loads(body)["files"]]
            paths = [f["path"] for f in json.loads(body)["files"]]
            files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in zip(paths, modes, strict=True)]
            self.answer({"files": files})

    def batch(self, body, name):
        objects = []
        for entry in json.loads(body)["objects"]:
            known = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.objects:
                href = f"{self.hub.endpoint}/objects/{entry['oid']}"
                known["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(known)
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer({"error": "checksum mismatch"}, 400)
        self.hub.objects[oid] = body[:-1] + b"?" if self.hub.damage_objects else body
        return self.answer()

    def commit(self, body, name, branch):
        repository = self.repository(name)
        if repository is None:
            return
        branch = urllib.parse.unquote(branch)
        files = dict(repository.commits[repository.branches[branch]])
        for line in filter(None, body.decode().splitlines()):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
            elif entry["key"] == "lfsFile":
                files[value["path"]] = Stored(self.hub.objects[value["oid"]], True)
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = repository.commit(branch, files)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def info(self, body, name, revision):
        if repository := self.repository(name):
            oid = repository.resolve(revision or "main")
            if oid is None:
                return self.refuse("RevisionNotFound")
            siblings = [{"rfilename": path} for path in sorted(repository.commits[oid])]
            values = {"id": name, "modelId": name, "sha": oid, "private": repository.private, "siblings": siblings}
            self.answer({"_id": "0", "tags": [], "downloads": 0, "likes": 0, **values})
        return None

    def tree(self, body, name, revision, folder):
        if repository := self.repository(name):
            oid = repository.resolve(revision)
            if oid is None:
                return self.refuse("RevisionNotFound")
            if folder:
                return self.refuse("EntryNotFound")
            entries = []
            for path, file in sorted(repository.commits[oid].items()):
                entry = {"type": "file", "path": path, "oid": file.oid, "size": len(file.content)}
                if file.is_lfs:
                    entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
                entries.append(entry)
            self.answer(entries)
        return None

    def resolve(self, body, name, revision, path):
        repository = self.repository(name)
        if repository is None:
            return None
        oid = repository.resolve(revision)
        if oid is None:
            return self.refuse("RevisionNotFound")
        file = repository.commits[oid].get(urllib.parse.unquote(path))
        if file is None:
            return self.refuse("EntryNotFound", **{"X-Repo-Commit": oid})
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        if (span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) and self.command == "GET":
            start, stop = int(span[1]), int(span[2] or len(file.content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(file.content)}"
            return self.answer(file.content[start:stop], 206, headers)
        return self.answer(file.content, 200, headers)


def _is_private(values):
    """Newer clients send the visibility by name."""
    return values.get("visibility") == "private" or bool(values.get("private"))
