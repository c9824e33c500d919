"""A hub for tests, with two data sets: the few answers that `datasets` asks for. Prints its port, then serves."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROWS = {name: f'{{"prompt": "{name}?", "completion": "Yes."}}\n'.encode() * 2 for name in ("train", "test", "fr", "de")}
CONFIGS = b"---\nconfigs:\n- config_name: fr\n  data_files: fr.jsonl\n- config_name: de\n  data_files: de.jsonl\n---\n"
SETS = {
    "owner/splits": {"train.jsonl": ROWS["train"], "test.jsonl": ROWS["test"]},
    "owner/configs": {"README.md": CONFIGS, "fr.jsonl": ROWS["fr"], "de.jsonl": ROWS["de"]},
}
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content, headers = self._api() if self.path.startswith("/api/") else self._file()
        self.send_response(404 if content is None else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def _api(self) -> tuple[bytes | None, dict[str, str]]:
        words = self.path.partition("?")[0].removeprefix("/api/datasets/").split("/")
        files = SETS.get("/".join(words[:2]))
        if files is None:
            return None, {"X-Error-Code": "RepoNotFound"}
        if words[2:3] == ["tree"]:
            entries = [
                {"type": "file", "oid": _hash(files[name]), "size": len(files[name]), "path": name} for name in files
            ]
            return json.dumps(entries).encode(), {}
        return json.dumps(
            {"id": "/".join(words[:2]), "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
        ).encode(), {}

    def _file(self) -> tuple[bytes | None, dict[str, str]]:
        words = self.path.removeprefix("/datasets/").split("/")
        files = SETS.get("/".join(words[:2]))
        if files is None:
            return None, {"X-Error-Code": "RepoNotFound"}
        content = files.get("/".join(words[4:]))
        if content is None:
            return None, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        return content, {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT}

    def log_message(self, *_: object) -> None:
        pass


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
