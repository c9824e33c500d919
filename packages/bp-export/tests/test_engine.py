import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque
from pathlib import Path

import pytest

from bp_core.errors import FileMissing, LlamaCppFailed, LlamaCppMissing
from bp_export import Engine
from bp_export.llama_cpp import engine
from bp_export.llama_cpp.process import ModuleProcess
from bp_export.weights.merge import open_base


@pytest.fixture(scope="module")
def model(gguf_source):
    with Engine(gguf_source, context=512, gpu=False) as model:
        yield model


def chat(model, question):
    return model.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").split(") ")[1][0] != "Z"


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def test_an_answer_ends_by_itself_and_streams(model):
    pieces = []
    made = model.generate(chat(model, "What is the capital of France?"), 64, on_piece=pieces.append)
    assert made.stopped
    assert made.tokens[-1] == 2
    assert made.text == "".join(pieces)
    assert "Paris" in made.text
    assert "<|im_end|>" not in made.text
    assert len(pieces) > 3


def test_greedy_is_repeatable_and_a_seed_too(model):
    prompt = chat(model, "Tell me about the sea.")
    assert model.generate(prompt, 12).tokens == model.generate(prompt, 12).tokens
    hot = [model.generate(prompt, 12, temperature=1.5, seed=seed).tokens for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_characters_arrive_whole(model):
    pieces = []
    prompt = model.tokenize("日本語のテキスト。今日は天気がいい。明日は雨が降る。🎉🎊🎉🎊🎉🎊")
    made = model.generate(prompt, 48, temperature=1.2, seed=5, on_piece=pieces.append)
    assert made.text == "".join(pieces)
    assert not any("�" in piece for piece in pieces[:-1])
    assert any(ord(letter) > 0x2FF for letter in made.text), "the prompt should have led to such characters"


def test_the_limit_and_the_context_end_an_answer(model):
    assert len(model.generate(chat(model, "Write a long story."), 5).tokens) == 5
    almost = [*range(100, 100 + model.context - 3)]
    assert len(model.generate(almost, 50).tokens) <= 3
    with pytest.raises(LlamaCppFailed, match="do not fit"):
        model.generate([5] * (model.context + 1), 1)
    with pytest.raises(LlamaCppFailed, match="outside the vocabulary"):
        model.logits([10**6])
    assert model.tokenize("still here") != []


def test_an_interrupted_answer_leaves_the_engine_usable(model):
    def stop(piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate(chat(model, "Count to a hundred."), 400, on_piece=stop)
    assert model.generate(chat(model, "Say hello."), 8).tokens


def test_logits_do_not_depend_on_how_rows_are_batched(tiny_llama, tmp_path, helpers):
    gguf = helpers.write_gguf(open_base(tiny_llama), tiny_llama, tmp_path / "m.gguf")
    with Engine(gguf, context=512, gpu=False) as tiny:
        tokens = tiny.tokenize("What is love? " * 75)
        assert 256 < len(tokens) < 512
        whole, part = tiny.logits(tokens), tiny.logits(tokens[:20])
        assert whole.shape == (len(tokens), tiny.vocabulary)
        assert helpers.mean_kl(whole[:20], part) < 1e-5
        assert helpers.mean_kl(whole[-1:], part[-1:]) > 1e-3


def test_tokenising_knows_special_tokens_and_the_empty_text(model):
    assert model.tokenize("<|im_end|>") == [2]
    assert len(model.tokenize("<|im_end|>", parse_special=False)) > 1
    assert model.tokenize("") == []
    assert model.tokenize("a\0b\r\n\u2028") != []


def test_a_dead_worker_is_an_error_not_a_crash(gguf_source):
    with pytest.raises(LlamaCppFailed, match="exited without an answer"), Engine(gguf_source, context=256) as model:
        os.kill(model.pid, signal.SIGSEGV)
        model.logits([1, 2, 3])


def test_a_worker_that_dies_in_the_middle_of_an_answer(gguf_source):
    def kill(piece):
        os.kill(model.pid, signal.SIGTERM)

    with pytest.raises(LlamaCppFailed, match="exited without"), Engine(gguf_source, context=256) as model:
        model.generate([1, 520, 9531, 198], 200, temperature=2.0, on_piece=kill)


def test_broken_files_are_refused_with_last_words(tmp_path, gguf_source):
    (tmp_path / "no.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(LlamaCppFailed):
        Engine(tmp_path / "no.gguf")
    (tmp_path / "cut.gguf").write_bytes(gguf_source.read_bytes()[:5_000_000])
    with pytest.raises(LlamaCppFailed) as caught:
        Engine(tmp_path / "cut.gguf")
    assert "not within the file bounds" in caught.value.fix
    with pytest.raises(FileMissing):
        Engine(tmp_path / "none.gguf")


@pytest.mark.skipif(os.name == "nt", reason="asking for a process by os.kill would end it there")
def test_leaving_ends_the_worker(gguf_source):
    with Engine(gguf_source, context=256) as model:
        pid = model.pid
    assert gone(pid)
    with pytest.raises(KeyboardInterrupt), Engine(gguf_source, context=256) as model:
        pid = model.pid
        raise KeyboardInterrupt
    assert gone(pid)


@pytest.mark.skipif(os.name == "nt", reason="asking for a process by os.kill would end it there")
def test_the_worker_does_not_outlive_a_killed_caller(gguf_source):
    code = """
        import sys
        from pathlib import Path
        from bp_export import Engine
        model = Engine(Path(sys.argv[1]), context=2048)
        print(model.pid, flush=True)
        model.generate([1, 520, 9531, 198], 2000, temperature=3.0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(gguf_source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        pid = int(caller.stdout.readline())
        assert alive(pid)
        caller.kill()
    assert gone(pid)


def test_nothing_is_said_on_stdout(gguf_source, capfd):
    with Engine(gguf_source, context=256) as model:
        model.tokenize("x")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_without_llama_cpp(monkeypatch, gguf_source):
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlamaCppMissing):
        Engine(gguf_source)


def test_a_context_shorter_than_a_batch_takes_what_llama_cpp_rounds_it_up_to(gguf_source):
    with Engine(gguf_source, context=64, gpu=False) as engine:
        assert engine.context == 256
        assert engine.logits(range(100, 300)).shape[0] == 200
        assert engine.generate(list(range(100, 300)), 4).tokens


def test_an_abort_is_told_by_the_line_that_names_its_cause():
    lines = [
        "llama_context: n_ctx = 256",
        "src/llama-context.cpp:1801: GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed",
        "[New LWP 123]",
        *(f"#{number} 0x00007f in frame () from lib.so" for number in range(40)),
        "[Inferior 1 (process 5) detached]",
    ]
    code = f"import sys; sys.stderr.write({chr(10).join(lines)!r}); sys.exit(6)"
    process = ModuleProcess.__new__(ModuleProcess)
    process._log, process._cause, process._on_log = deque(maxlen=12), "", None
    process._process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    process._listen()
    assert process._process.wait() == 6
    assert process.log_tail == "src/llama-context.cpp:1801: GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed"
    assert process._log[0] == "llama_context: n_ctx = 256", "the backtrace pushed nothing out"
