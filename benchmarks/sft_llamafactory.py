"""LLaMA-Factory's side of sft_vs_trl.py; runs in an environment of its own."""

import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

a = json.loads(sys.argv[1])
times, targets, tokens, losses = [], [], [], []
compute_loss = CustomSeq2SeqTrainer.compute_loss


def counted(self, model, inputs, *args, **kwargs):
    targets.append(int((inputs["labels"] != -100).sum()))
    mask = inputs["attention_mask"]  # of packed rows one of queries and keys: they have hardly any padding
    tokens.append(int(mask.sum()) if mask.dim() == 2 else inputs["input_ids"].numel())
    return compute_loss(self, model, inputs, *args, **kwargs)


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        times.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        times[-1] = time.perf_counter() - times[-1]

    def on_log(self, _args, _state, _control, logs=None, **_):
        if logs and "loss" in logs:
            losses.append(logs["loss"])


CustomSeq2SeqTrainer.compute_loss = counted
with tempfile.TemporaryDirectory() as folder:
    shutil.copyfile(a["data"], Path(folder, "rows.json"))
    listed = {"rows": {"file_name": "rows.json"}}  # Alpaca's format is its default
    Path(folder, "dataset_info.json").write_text(json.dumps(listed), encoding="utf-8")
    arguments = {
        "stage": "sft", "do_train": True, "model_name_or_path": a["model"], "template": "smollm2",
        "finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32, "lora_target": "all",
        "dataset_dir": folder, "dataset": "rows", "max_samples": a["samples"], "cutoff_len": a["length"],
        "overwrite_cache": True, "output_dir": str(Path(folder, "out")), "save_strategy": "no", "report_to": "none",
        "per_device_train_batch_size": a["batch"], "gradient_accumulation_steps": 1, "learning_rate": 2e-4,
        "max_steps": a["steps"], "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "seed": 42,
        "bf16": a["dtype"] == "bfloat16", "disable_gradient_checkpointing": True, **a["extra"],
    }  # fmt: skip
    run_exp(arguments, [Clock()])
w = a["warm_up"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
found = {"targets": sum(targets[w:]), "tokens": sum(tokens[w:]), "seconds": sum(times[w:]), "peak": peak}
found["losses"] = losses[w : a["steps"]]
print("\n" + json.dumps(found))
