"""A hub for tests that takes uploads, and refuses what the real one would: no token, wrong digests, missing blobs."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import yaml

TOKEN, READER = "hf_" + "w" * 34, "hf_" + "r" * 34  # may write, may only read
LARGE = 1 << 20  # lower than the real one, so that a tokenizer is large
OWNERS = {"me", "club"}
LICENCES = {"apache-2.0", "mit", "llama3.1", "llama3.2", "other"}
RELATIONS = {"adapter", "finetune", "quantized", "merge"}


class PushHub(ThreadingHTTPServer):
    """`repos` are names with their files; `blobs` large files by SHA-256; `sent` the digests that arrived by PUT.

    `hold` is told the digest of a large file half way, and may keep its sender waiting for ever; `arrived` is called
    after each. `put_status` refuses every large file, `commit_status` the next commit.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.private, self.blobs, self.sent, self.commits = {}, set(), {}, [], []
        self.arrived = lambda: None
        self.hold, self.put_status, self.commit_status = None, None, None
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def content(self, repo, name):
        """A file as somebody who downloads it gets it."""
        found = self.repos[repo][name]
        return self.blobs[found] if isinstance(found, str) else found


@contextlib.contextmanager
def connected(monkeypatch, folder):
    """A hub that huggingface_hub in this process speaks to, with a token; `folder` takes the place of its home."""
    server = PushHub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self._refused():
            return
        repo = self.path.partition("?")[0].removeprefix("/api/models/").removesuffix("/revision/main")
        if repo not in self.server.repos:
            return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = [{"rfilename": name} for name in self.server.repos[repo]]
        self._say(200, {"id": repo, "private": repo in self.server.private, "sha": "0" * 40, "siblings": files})

    def do_POST(self):
        body = self._body()
        path = self.path.partition("?")[0]
        if self._refused():
            return
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if path.startswith("/verify/"):
            asked = json.loads(body)
            known = len(self.server.blobs.get(asked["oid"], b"")) == asked["size"]
            return self._say(200 if known else 404, {})
        repo, verb, revision = path.removeprefix("/api/models/").rsplit("/", 2)
        if repo not in self.server.repos or revision != "main":
            return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        {"preupload": self._preupload, "commit": self._commit}[verb](repo, body)

    def do_PUT(self):
        oid = self.path.partition("?")[0].removeprefix("/blobs/")
        if self.headers["Authorization"] or "signature=" not in self.path:
            return self._say(400, {"error": "Only one auth mechanism allowed"})
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size // 2)
        if self.server.hold and self.server.hold(oid):
            return threading.Event().wait()
        body += self.rfile.read(size - len(body))
        if self.server.put_status:
            return self._say(self.server.put_status, {"error": "no"})
        if hashlib.sha256(body).hexdigest() != oid:
            return self._say(400, {"error": "the digest is wrong"})
        self.server.blobs[oid] = body
        self.server.sent.append(oid)
        self.server.arrived()
        self._say(200, {})

    def _create(self, asked):
        repo = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.url}/{repo}"
        if asked["organization"] not in OWNERS:
            return self._say(404, {"error": "This namespace does not exist"})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._say(403, {"error": "You don't have the rights to create a model under this namespace"})
        if repo in self.server.repos:
            return self._say(409, {"error": "You already created this model repo", "url": url})
        self.server.repos[repo] = {}
        if asked.get("visibility") == "private" or asked.get("private"):
            self.server.private.add(repo)
        self._say(200, {"url": url})

    def _validate(self, content):
        matter = yaml.safe_load(content.split("---\n")[1])
        wrong = [name for name in ("license",) if matter.get(name) not in {*LICENCES, None}]
        wrong += [name for name in ("base_model_relation",) if matter.get(name) not in {*RELATIONS, None}]
        wrong += ["base_model"] if "/" not in matter.get("base_model", "/") else []
        errors = [{"message": f'"{name}" is not valid'} for name in wrong]
        self._say(400 if errors else 200, {"errors": errors, "warnings": []})

    def _preupload(self, repo, body):
        told = []
        for file in json.loads(body)["files"]:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"])
            told.append({"path": file["path"], "uploadMode": _mode(file["path"], file["size"]), "shouldIgnore": False})
            known = self.server.repos[repo].get(file["path"])
            if known is not None:
                told[-1]["oid"] = known if isinstance(known, str) else _git_hash(known)
        self._say(200, {"files": told})

    def _batch(self, asked):
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256" and "basic" in asked["transfers"]
        objects = []
        for wanted in asked["objects"]:
            objects.append({"oid": wanted["oid"], "size": wanted["size"]})
            if wanted["oid"] not in self.server.blobs:
                places = {"upload": f"/blobs/{wanted['oid']}?signature=1", "verify": f"/verify/{wanted['oid']}"}
                objects[-1]["actions"] = {name: {"href": self.server.url + place} for name, place in places.items()}
        self._say(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo, body):
        if self.server.commit_status:
            status, self.server.commit_status = self.server.commit_status, None
            return self._say(status, {"error": "A commit has happened since"})
        header, *changes = [json.loads(line) for line in body.splitlines()]
        assert header["key"] == "header" and header["value"]["summary"]
        files = {}
        for change in changes:
            value = change["value"]
            if change["key"] == "lfsFile":
                stored = self.server.blobs.get(value["oid"])
                if value["algo"] != "sha256" or stored is None or len(stored) != value["size"]:
                    return self._say(400, {"error": "Your push was rejected because an LFS pointer points to nothing"})
                files[value["path"]] = value["oid"]
            else:
                assert change["key"] == "file" and value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"], validate=True)
                if _mode(value["path"], len(files[value["path"]])) == "lfs":
                    return self._say(400, {"error": "Your push was rejected because it contains files larger than …"})
        self.server.repos[repo] |= files
        self.server.commits.append(sorted(files))
        commit = hashlib.sha1(body).hexdigest()
        self._say(200, {"success": True, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _refused(self):
        """Whether the token is none that this hub gave out; then it has answered so."""
        if self.headers["Authorization"] in (f"Bearer {TOKEN}", f"Bearer {READER}"):
            return False
        self._say(401, {"error": "Invalid username or password."})
        return True

    def _body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _say(self, status, value, headers=()):
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def _mode(name, size):
    return "lfs" if name.endswith((".safetensors", ".gguf")) or size >= LARGE else "regular"


def _git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
