"""Tiny real runs in processes of their own, forked so that none has to import torch again."""

import json
import os
import re
import shutil
import sys
import traceback
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backpropagate import Trainer
from backpropagate.models import locate
from bp_core.folders import damage
from bp_runs import read_events

torch.set_num_threads(1)

STEPS = 12
SETTINGS = dict(
    backend="cpu", rank=4, batch_size=3, micro_batch=2, learning_rate=1e-2, max_length=48, dtype="float32",
    checkpoint_every=2, held_out=0.2, eval_every=4, dropout=0.1, report_to="none",
)  # fmt: skip


def prepare(folder):
    """A model with two random layers and a real tokenizer, and rows to train on."""
    source = locate.locate("smollm2-135m", lambda progress: None)
    model = folder / "model"
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, model / name)
    rows = folder / "rows.jsonl"
    pairs = [{"prompt": f"Question {n}?", "completion": f"It is {n * 7}, of course."} for n in range(20)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return model, rows


class Child:
    """A forked process that does `work(tell)`; what it tells arrives here, a byte at a time."""

    def __init__(self, work, log):
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _be_child(work, write, log)
        os.close(write)
        self.told = b""
        self.log = log

    def wait_for(self, word):
        """Wait until the child tells `word`; False if it ended before."""
        while word not in self.told and (more := os.read(self._read, 64)):
            self.told += more
        return word in self.told

    def end(self):
        """Wait for the end; the exit code, negative for a signal."""
        while more := os.read(self._read, 64):
            self.told += more
        os.close(self._read)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self):
        return Path(self.log).read_text(encoding="utf-8", errors="replace")


def _be_child(work, write, log):
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = 1
    try:
        code = work(lambda word: os.write(write, word)) or 0
    except BaseException:  # noqa: BLE001 - the child must never return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def training(model, rows, output, resume, **changes):
    """Work for a child: train there, or go on there. It tells S when training starts, F at its end."""

    def work(tell):
        words = {"Started": b"S", "Finished": b"F", "Checkpointed": b"c", "Paused": b"p"}
        trainer = Trainer(str(model), output=str(output), **SETTINGS | changes)
        watch = lambda event: tell(words.get(type(event).__name__, b"."))  # noqa: E731
        trainer.train(str(rows), steps=STEPS, resume=resume, watch=watch)

    return work


def begun(output):
    return next(Path(output).glob("runs/*/run.json"), None) is not None


def ended(output):
    """Whether the run in `output` is finished; a process that is killed afterwards takes nothing with it."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in Path(output).glob("runs/*/run.json")]
    return any(record["status"] == "finished" for record in records)


def finish(model, rows, output, log):
    """Bring the run in `output` to its end, or start it if it never began."""
    if ended(output):  # the kill may have fallen into the writing of the report, which nobody goes on with
        for draft in Path(output).glob("runs/*/.*"):
            if re.search(r"\.(svg|html|md)\.\w+$", draft.name):
                draft.unlink()
        return
    child = Child(training(model, rows, output, resume=begun(output)), log)
    code = child.end()
    assert code == 0, child.said()


def weights(output):
    return (Path(output) / "lora" / "adapter_model.safetensors").read_bytes()


def losses(output):
    """Losses by step, of the one run in `output`."""
    (run,) = [path.parent for path in Path(output).glob("runs/*/run.json")]
    return {event["step"]: event["loss"] for event in read_events(run) if event["event"] == "Stepped"}


def same(output, reference):
    """Assert that a run ended as the one in `reference`: adapter, losses, record, and nothing half written about."""
    assert weights(output) == weights(reference), "the adapters differ"
    assert losses(output) == losses(reference), "the losses differ"
    assert damage(Path(output) / "lora") is None
    (record,) = Path(output).glob("runs/*/run.json")
    assert json.loads(record.read_text(encoding="utf-8"))["status"] == "finished"
    left = [path for path in record.parent.rglob(".*") if ".lock" not in path.name]
    assert left == [], f"left behind: {left}"
