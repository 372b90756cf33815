"""Server of the few endpoints of Hugging Face that sharing uses, with its repositories in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer"


class FakeHub:
    """Repositories by id: `private`, `gated`, and `files` of each commit, newest last."""

    def __init__(self):
        self.repositories = {}
        self.requests = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, name, files=None, *, private=False, gated=False):
        self.repositories[name] = {"private": private, "gated": gated, "commits": []}
        self.commit(name, files or {})

    def commit(self, name, files, removed=()):
        commits = self.repositories[name]["commits"]
        merged = {**(commits[-1][1] if commits else {}), **files}
        sha = hashlib.sha1(f"{name}{len(commits)}".encode()).hexdigest()
        commits.append((sha, {key: value for key, value in merged.items() if key not in removed}))
        return sha

    def files(self, name):
        return self.repositories[name]["commits"][-1][1]

    def downloads(self):
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes, and the client would confirm the first one after 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def _send(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status, code, text):
        self._send(status, {"error": text}, X_Error_Code=code, X_Error_Message=text)

    @property
    def _token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repository(self, name):
        found = self.hub.repositories.get(name)
        if found is None or (found["private"] and self._token != TOKEN):
            # The real hub does not tell the two apart.
            return self._fail(401 if not self._token else 404, "RepoNotFound", "Repository not found")
        if found["gated"]:
            return self._fail(403, "GatedRepo", "Access to this model is restricted")
        return found

    def _commit(self, name, revision):
        found = self._repository(name)
        if found is None:
            return None
        by_sha = dict(found["commits"])
        sha = found["commits"][-1][0] if revision == "main" else revision
        if sha not in by_sha:
            return self._fail(404, "RevisionNotFound", "Revision not found")
        return sha, by_sha[sha], found

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/"):
            name = "/".join(parts[2:4])
            found = self._commit(name, parts[5] if len(parts) > 5 else "main")
            if found is not None:
                sha, files, repository = found
                siblings = [{"rfilename": key, "size": len(value)} for key, value in files.items()]
                facts = {"id": name, "sha": sha, "private": repository["private"], "siblings": siblings}
                self._send(200, {**facts, "tags": [], "downloads": 0, "likes": 0})
            return
        if parts[2:3] != ["resolve"]:
            self._fail(404, "", f"no such page: {path}")
            return
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self._commit(name, revision)
        if found is None:
            return
        sha, files, _ = found
        if file not in files:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
        self._send(200, files[file], ETag=etag, X_Repo_Commit=sha)

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif self._token != TOKEN:
            self._fail(403, "", "You don't have the rights to create or change this model")
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            if name in self.hub.repositories:
                url = f"{self.hub.endpoint}/{name}"
                self._send(409, {"error": "You already created this model repo", "url": url})
                return
            is_private = wanted.get("private") or wanted.get("visibility") == "private"
            self.hub.add(name, {".gitattributes": b""}, private=bool(is_private))
            self._send(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif "preupload" in parts:
            files = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            self._send(200, {"files": modes})
        elif "commit" in parts:
            lines = [json.loads(line) for line in body.splitlines()]
            name = "/".join(parts[2:4])
            added = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            removed = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
            sha = self.hub.commit(name, added, removed)
            url = f"{self.hub.endpoint}/{name}/commit/{sha}"
            self._send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})
        else:
            self._fail(404, "", f"no such endpoint: {path}")
