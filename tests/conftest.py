import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["BACKPROPAGATE_TRAIN_REPORT_TO"] = "none"  # a tracker costs a process a run; test_trackers.py asks for one

import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.models import locate
from bp_core.errors import OutputUnusable
from bp_core.folders import new_folder


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory, worker_id):
    """One BACKPROPAGATE_HOME for all workers, so that the embedded model is unpacked once."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "home"
    before = os.environ.get("BACKPROPAGATE_HOME")
    os.environ["BACKPROPAGATE_HOME"] = str(home)
    yield home
    os.environ.pop("BACKPROPAGATE_HOME")
    if before is not None:
        os.environ["BACKPROPAGATE_HOME"] = before


@pytest.fixture
def backprop(capsys):
    """Run the command line: exit code, stdout, and stderr."""

    def run(*words):
        code = exit_code_of(app, [str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err and "mistake in Backpropagate" not in said.err, said.err
        return code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def smollm2(home):
    """The embedded model, unpacked."""
    return locate.locate("smollm2-135m", lambda progress: None)


@pytest.fixture(scope="session")
def tiny_llama(home, smollm2):
    """A random two-layer llama with the real tokenizer; rows are multiples of 256, so K-quants are real ones."""
    folder = home / "tiny-llama"
    if not folder.exists():
        try:
            with new_folder(folder) as draft:
                _write_tiny(draft, smollm2)
        except OutputUnusable:
            assert folder.exists(), "another worker was quicker"
    return folder


def _write_tiny(folder, tokenizer):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


@pytest.fixture
def rows(tmp_path):
    """A small data file."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(12)), encoding="utf-8")
    return path


def row(n):
    answer = f"The answer to question {n} is {n * 7}, of course."
    return {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": answer}]}
