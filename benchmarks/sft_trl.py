"""TRL's side of sft_vs_trl.py; runs in TRL's own environment."""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

a = json.loads(sys.argv[1])
rows = json.loads(Path(a["data"]).read_text(encoding="utf-8"))[: a["samples"]]


def turns(row):
    asked = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
    answer = [{"role": "assistant", "content": row["output"]}]
    return {"prompt": [{"role": "user", "content": asked}], "completion": answer}


tokenizer = AutoTokenizer.from_pretrained(a["model"])
model = AutoModelForCausalLM.from_pretrained(a["model"], dtype=torch.float32)
times, targets = [], []


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        times.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        times[-1] = time.perf_counter() - times[-1]


class Counting(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        targets.append(int((inputs["labels"] != -100).sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)


with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(
        output_dir=folder,
        max_steps=a["steps"],
        per_device_train_batch_size=a["batch"],
        learning_rate=2e-4,
        bf16=a["dtype"] == "bfloat16",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        gradient_checkpointing=False,
        completion_only_loss=True,
        dataloader_num_workers=0,
        seed=42,
        **{"max_length": a["length"], **a["extra"]},
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Counting(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([turns(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[Clock()],
    )
    trainer.train()
w = a["warm_up"]
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(
    json.dumps(
        {
            "targets": sum(targets[w:]),
            "seconds": sum(times[w:]),
            "losses": losses[w:],
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )
)
