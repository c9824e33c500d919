"""Talking through llama.cpp's server: what it says is what the engine says, and what goes wrong is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import psutil
import pytest

from bp_core.errors import FileMissing, GgufUnusable, LlamaCppFailed
from bp_export.chat_template import ChatTemplate
from bp_export.gguf.metadata import gguf_facts
from bp_export.llama_cpp.client import ChatClient, chat_client
from bp_export.llama_cpp.engine import Engine
from bp_export.replies import Reply

ASKED = [{"role": "user", "content": "Say hi"}]


def test_it_answers_as_the_engine_does_and_remembers_nothing_of_other_talks(gguf_source):
    facts = gguf_facts(gguf_source)
    longer = [*ASKED, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Again"}]
    with Engine(gguf_source, context=512, gpu=False) as engine, chat_client(gguf_source, gpu=False) as server:
        for turns in (ASKED, longer, ASKED):
            pieces = []
            answer = server.answer(turns, 12, pieces.append)
            tokens = engine.tokenize(ChatTemplate.of(facts).prompt(turns), add_special=facts.add_bos)
            assert answer == engine.generate(tokens, 12).text == "".join(pieces) and len(pieces) > 2


def test_a_reply_has_its_parts(gguf_source):
    with chat_client(gguf_source, gpu=False) as server:
        reply = server.reply(ASKED, limit=12)
        assert reply.text and not reply.calls and not reply.thought
        assert reply.text == server.answer(ASKED, 12, str).strip()
        assert not server.reply(ASKED, limit=1).ended


def test_a_conversation_that_is_too_long_is_told_and_the_next_is_answered(gguf_source):
    with chat_client(gguf_source, gpu=False) as server:
        with pytest.raises(LlamaCppFailed, match=r"longer than the context") as caught:
            server.answer([{"role": "user", "content": "word " * 9000}], 4, str)
        assert "/new" in caught.value.fix
        assert server.answer(ASKED, 4, str)


def test_a_message_the_template_cannot_write_is_told(gguf_source):
    with chat_client(gguf_source, gpu=False) as server, pytest.raises(LlamaCppFailed, match="llama-server: "):
        server.answer([{"role": "user"}], 4, str)


class _CannotRead(BaseHTTPRequestHandler):
    """What llama-server b10488 answers where a model writes what is no UTF-8."""

    def do_POST(self):
        message = "The model produced output that does not match the expected peg-native format"
        body = json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}).encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_an_answer_that_the_server_cannot_read_is_a_reply():
    with HTTPServer(("127.0.0.1", 0), _CannotRead) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            assert ChatClient(client).reply(ASKED, limit=4) == Reply("", read=False)
            with pytest.raises(LlamaCppFailed, match="peg-native"):
                ChatClient(client).prompt(ASKED)
        server.shutdown()


def test_a_server_that_dies_is_told(gguf_source):
    with chat_client(gguf_source, gpu=False) as server:
        child = next(one for one in psutil.Process().children() if "bp_export.llama_cpp._server" in one.cmdline())
        with pytest.raises(LlamaCppFailed, match="connection to llama-server broke"):
            server.answer(ASKED, 200, lambda _: child.kill())


def test_no_file_and_no_template_are_refused(tmp_path, gguf_source):
    with pytest.raises(FileMissing), chat_client(tmp_path / "nothing.gguf"):
        pass
    (tmp_path / "song.gguf").write_text("la la la")
    with pytest.raises(GgufUnusable), chat_client(tmp_path / "song.gguf"):
        pass
