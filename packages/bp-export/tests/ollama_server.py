"""An Ollama for tests: real sockets, real digests, real llama.cpp; what it takes and refuses depends on its version.

After the source of Ollama (server/create.go, server/routes.go, template/template.go) at 0.29, 0.33 and 0.34.1. Before
0.30 the prompt is written by a Go template, later by llama-server from the file's Jinja, unless there is a Go template
and Jinja can do no more. Answers are those of llama-server, running the very bytes that were uploaded.
"""

import contextlib
import hashlib
import json
import re
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import go_structs
import go_text

from bp_core.errors import BackpropagateError
from bp_export.config import ServeConfig
from bp_export.gguf.metadata import gguf_facts
from bp_export.gguf.reader import GgufFile
from bp_export.llama_cpp.server import LlamaServer

VERSIONS = ("0.29.0", "0.33.3", "0.34.1")
# One of the templates that Ollama knows by heart, and what it takes in place of one that resembles it.
KNOWN_JINJA = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
KNOWN_GO = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
CANNOT_READ = (
    "llama-server chat error: map[code:500 message:The model produced output that does not match the expected "
    "peg-native format type:server_error]"
)
PASSED_ON = "{{ .Prompt }}"
_NAME = re.compile(r"([\w.-]+/)*[A-Za-z0-9][\w.-]{0,79}(:[A-Za-z0-9][\w.-]{0,79})?")
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")


class Refused(Exception):
    def __init__(self, status, error):
        super().__init__(error)
        self.status, self.error = status, error


class OllamaServer:
    """`with OllamaServer("0.33.3", folder) as server: server.url`. `talk` is what was said: method, path, status, body.

    `faults` makes it misbehave: {"/api/create": "break off"}; see `_Handler.fault`.
    """

    def __init__(self, version, folder):
        self.version, self.folder = version, folder
        self.numbers = tuple(map(int, version.split(".")))
        self.models, self.talk, self.faults, self._running = {}, [], {}, {}
        self.loaded = {}  # digest: the name under which it was loaded first
        self.reads = True  # False: as llama-server b10488 where a model writes what is no UTF-8
        self.over = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"ollama": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self._http.shutdown()
        self._http.server_close()
        for server in self._running.values():
            server.close()

    def since(self, *version):
        return self.numbers >= version

    def blob(self, digest):
        if not _DIGEST.fullmatch(digest):
            raise Refused(400, "invalid digest format")
        return self.folder / digest.replace(":", "-")

    def find(self, name):
        full = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        if full not in self.models:
            raise Refused(404, f"model '{name}' not found")
        return self.models[full]

    def check_request(self, request):
        """What is refused before anything is done, with a status of its own."""
        if not _NAME.fullmatch(request.get("model", "")):
            raise Refused(400, "invalid model name")
        if not request.get("files") and not request.get("from"):
            raise Refused(400, "neither 'from' or 'files' was specified")
        if self.since(0, 34, 1):
            if request.get("adapters"):
                raise Refused(400, "LoRA adapters are no longer supported")
            for path, digest in request.get("files", {}).items():
                if path.startswith("/") or ".." in path.split("/") or re.search(r"[\\:]", path):
                    raise Refused(400, f"file path must be relative: {path}")
                self.blob(digest)
            if request.get("quantize"):
                what = "create-time quantization is only supported for safetensors imports"
                raise Refused(400, f"{what}; quantize GGUF models with llama.cpp tools before importing")

    def create(self, request):
        """Do it, step by step; a step may be an error."""
        yield {"status": "parsing GGUF"}
        ((name, digest),) = request["files"].items()
        if not self.blob(digest).is_file():
            yield {"error": f"open {self.blob(digest)}: no such file or directory"}
            return
        try:
            gguf = GgufFile(self.blob(digest))
        except BackpropagateError as error:
            yield {"error": str(error)}
            return
        if gguf.fields.get("general.type") == "adapter" and self.since(0, 34, 1):
            yield {"error": f"LoRA adapters are no longer supported: {name} is a LoRA adapter"}
            return
        jinja = gguf.fields.get("tokenizer.chat_template", "")
        detected = KNOWN_GO if _distance(jinja, KNOWN_JINJA) < 100 else ""
        yield {"status": f"using existing layer {digest}"}
        yield {"status": "writing manifest"}
        full = request["model"] if ":" in request["model"].rpartition("/")[2] else request["model"] + ":latest"
        self.models[full] = {
            "digest": digest,
            "jinja": jinja,
            "go": request.get("template") or detected,
            **{key: request.get(key) for key in ("system", "license", "parameters")},
        }
        yield {"status": "success"}

    def capabilities(self, model):
        """What a model can do, as the server reads it off its template."""
        if self.writes_jinja(model):
            jinja = model["jinja"]
            tools = "tools" in jinja or "tool_call" in jinja
            split = "content.split('</think>')" in jinja and "reasoning_content" not in jinja
            thinking = split or ("<think>" in jinja and "</think>" in jinja)
        else:
            tools, thinking = (word in (model["go"] or "") for word in (".Tools", ".Thinking"))
        return ["completion", *(["tools"] if tools else []), *(["thinking"] if thinking else [])]

    def check_chat(self, model, request):
        """What is asked must be among what the model can do. Returns whether thoughts are wanted; None: not asked."""
        can, name = self.capabilities(model), request["model"]
        if request.get("tools") and "tools" not in can:
            raise Refused(400, f"registry.ollama.ai/library/{name} does not support tools")
        if "thinking" not in can:
            if request.get("think"):
                raise Refused(400, f'"{name}" does not support thinking')
            return request.get("think")
        return request["think"] if request.get("think") is not None else True

    def with_system(self, model, messages):
        if model["system"] and messages[0]["role"] != "system":
            return [{"role": "system", "content": model["system"]}, *messages]
        return messages

    def prompt(self, model, request, think):
        messages = self.with_system(model, request["messages"])
        if self.writes_jinja(model):
            return self.ask(model, "/apply-template", self.for_llama_server(model, request, think))["prompt"]
        system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
        turns = [go_structs.message_for_go_template(message) for message in messages]
        values = {"System": system, "Messages": turns, "Prompt": messages[-1]["content"], "Response": ""}
        values |= {"Tools": go_structs.tools_for_go_template(request.get("tools") or [])}
        values |= {"Think": bool(think), "IsThinkSet": think is not None}
        return go_text.render(model["go"] or PASSED_ON, values)

    def for_llama_server(self, model, request, think):
        messages = self.with_system(model, request["messages"])
        told = {"messages": [go_structs.message_for_llama_server(message) for message in messages]}
        if request.get("tools"):
            told["tools"] = go_structs.tools_as_kept(request["tools"])
        if think is not None:
            told["chat_template_kwargs"] = {"enable_thinking": bool(think)}
        return told

    def writes_jinja(self, model):
        return self.since(0, 30, 0) and (not model["go"] or "tools" in model["jinja"])

    def ask(self, model, path, request):
        if model["digest"] not in self._running:
            longest = gguf_facts(self.blob(model["digest"])).context_length
            config = ServeConfig(port=0, num_ctx=min(512, longest))
            self._running[model["digest"]] = LlamaServer(self.blob(model["digest"]), config, gpu=False)
        url = self._running[model["digest"]].url + path
        try:
            with urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode())) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read())["error"]["message"]) from error

    def answer(self, model, request, think):
        """The message and why it ended."""
        if not self.reads:
            raise Refused(500, CANNOT_READ)
        options = (model["parameters"] or {}) | request.get("options", {})
        limit, temperature = options.get("num_predict", 128), options.get("temperature", 0.8)
        common = {"stop": options.get("stop", []), "temperature": temperature}
        if self.writes_jinja(model):
            told = self.for_llama_server(model, request, think) | {"max_tokens": limit, **common}
            (choice,) = self.ask(model, "/v1/chat/completions", told)["choices"]
            message, reason = choice["message"], choice["finish_reason"]
            calls = [_told_call(call, number) for number, call in enumerate(message.get("tool_calls") or [])]
            found = {"content": message.get("content") or "", "thinking": message.get("reasoning_content")}
            return found | {"tool_calls": calls}, "stop" if reason == "tool_calls" else reason
        prompt = self.prompt(model, request, think)
        done = self.ask(model, "/completion", {"prompt": prompt, "n_predict": limit, **common})
        thought, found, rest = done["content"].strip().partition("</think>")
        if think and "thinking" in self.capabilities(model) and (found or thought.startswith("<think>")):
            message = {"content": rest.strip(), "thinking": thought.removeprefix("<think>").strip()}
        else:
            message = {"content": done["content"]}
        return message, "length" if done["stop_type"] == "limit" else "stop"

    def load(self, name, model):
        self.loaded.setdefault(model["digest"], name)

    def unload(self, model):
        self.loaded.pop(model["digest"], None)


def _told_call(call, number):
    function = call["function"] | {"arguments": json.loads(call["function"]["arguments"] or "{}"), "index": number}
    return {"id": call["id"], "function": function}


_LOADED = {"details": {"format": "gguf"}, "expires_at": "2026-11-25T00:05:00Z", "context_length": 4096}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ollama = None
    request_body = b""

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def handled(self, verb):
        try:
            if not self.fault(self.ollama.faults.get(self.path)):
                verb()
        except Refused as refused:
            self.reply(refused.status, {"error": refused.error})

    def fault(self, kind):
        """Misbehave: "hang", "break off" (close without a word), or a body that is sent in place of the right one."""
        if kind == "hang":
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.ollama.over.wait(30)
        if kind in ("hang", "break off"):
            self.close_connection = True
        elif kind:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.stream(kind) if isinstance(kind, list) else self.reply(200, kind)
        return bool(kind)

    def do_HEAD(self):
        self.handled(lambda: self.reply(200 if self.ollama.blob(self.path.split("/")[-1]).is_file() else 404, None))

    def do_GET(self):
        answers = {"/api/version": lambda: {"version": self.ollama.version}, "/api/tags": self.tags, "/api/ps": self.ps}
        self.handled(lambda: self.reply(200, answers[self.path]()))

    def do_DELETE(self):
        self.handled(self.delete)

    def do_POST(self):
        verb = self.take if self.path.startswith("/api/blobs/") else getattr(self, self.path.rpartition("/")[2])
        self.handled(verb)

    def tags(self):
        size = {name: self.ollama.blob(model["digest"]).stat().st_size for name, model in self.ollama.models.items()}
        return {
            "models": [
                {"name": name, "size": size[name], "digest": model["digest"][7:], "modified_at": "2026-11-25T00:00:00Z"}
                for name, model in self.ollama.models.items()
            ]
        }

    def ps(self):
        models = []
        for digest, name in self.ollama.loaded.items():
            size = self.ollama.blob(digest).stat().st_size
            models.append({"name": name, "model": name, "size": size, "size_vram": 0, "digest": digest[7:], **_LOADED})
        return {"models": models}

    def take(self):
        target, expected = self.ollama.blob(self.path.split("/")[-1]), self.path.split("/")[-1]
        made, draft = hashlib.sha256(), target.with_suffix(".part")
        with draft.open("wb") as file:
            for chunk in self.chunks():
                made.update(chunk)
                file.write(chunk)
        if (got := f"sha256:{made.hexdigest()}") != expected:
            draft.unlink()
            raise Refused(400, f'digest mismatch, expected "{expected}", got "{got}"')
        draft.rename(target)
        self.reply(201, None)

    def chunks(self):
        left = int(self.headers["Content-Length"])
        while left:
            chunk = self.rfile.read(min(left, 1 << 20))
            left -= len(chunk)
            yield chunk

    def body(self):
        value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.request_body = value
        return value

    def create(self):
        request = self.body()
        self.ollama.check_request(request)
        self.stream(self.ollama.create(request))

    def stream(self, steps):
        """Status 200 goes out with the first step; what fails later can only be said in the stream."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        said = []
        for step in steps:
            line = json.dumps(step).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            said.append(step)
        self.remember(200, said)
        self.wfile.write(b"0\r\n\r\n")

    def show(self):
        model = self.ollama.find(self.body()["model"])
        lines = [
            f"{name:<30} {json.dumps(item, ensure_ascii=False)}"
            for name, value in (model["parameters"] or {}).items()
            for item in (value if isinstance(value, list) else [value])
        ]
        shown = {"parameters": "\n".join(lines), "template": model["go"] or model["jinja"], "system": model["system"]}
        if self.ollama.since(0, 6, 4):
            shown["capabilities"] = self.ollama.capabilities(model)
        self.reply(200, {key: value for key, value in shown.items() if value})

    def chat(self):
        request = self.body()
        model, told = self.ollama.find(request["model"]), {"model": request["model"]}
        if not request["messages"] and request.get("keep_alive") == 0:
            self.ollama.unload(model)
            empty = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "unload"}
            self.reply(200, told | empty)
            return
        think = self.ollama.check_chat(model, request)
        self.ollama.load(_with_tag(request["model"]), model)
        if request.get("_debug_render_only") and self.ollama.since(0, 12):
            prompt = self.ollama.prompt(model, request, think)
            self.reply(200, told | {"_debug_info": {"rendered_template": prompt}})
            return
        answer, reason = self.ollama.answer(model, request, think)
        message = {"role": "assistant", **{key: value for key, value in answer.items() if value or key == "content"}}
        self.reply(200, told | {"message": message, "done": True, "done_reason": reason})

    def copy(self):
        request = self.body()
        self.ollama.models[_with_tag(request["destination"])] = self.ollama.find(request["source"])
        self.reply(200, None)

    def delete(self):
        request = self.body()
        self.ollama.find(request["model"])
        del self.ollama.models[_with_tag(request["model"])]
        self.reply(200, None)

    def reply(self, status, value):
        self.remember(status, value)
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.end_headers()
        self.wfile.write(data)

    def remember(self, status, value):
        self.ollama.talk.append((self.command, self.path, status, self.request_body, value))
        self.request_body = b""


def _with_tag(name):
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _distance(first, second):
    """Levenshtein's, or 100 where the lengths tell already that it is not less."""
    if abs(len(first) - len(second)) >= 100:
        return 100
    row = list(range(len(second) + 1))
    for count, letter in enumerate(first, 1):
        last, row[0] = row[0], count
        for place, other in enumerate(second, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (letter != other))
    return row[-1]
