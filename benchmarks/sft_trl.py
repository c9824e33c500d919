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

a = json.loads(sys.argv[1])
rows = json.loads(Path(a["data"]).read_text(encoding="utf-8"))[: a["samples"]]
method = a["method"]


def turns(row):
    """An Alpaca row as TRL's prompt and completion; rows of the other methods have both already."""
    if method != "sft":
        return row
    asked = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
    answer = [{"role": "assistant", "content": row["output"]}]
    return {"prompt": [{"role": "user", "content": asked}], "completion": answer}


def learned(inputs):
    """How many tokens of a batch are learned: those of all its answers."""
    if "completion_mask" in inputs:
        return int((inputs["completion_mask"] != 0).sum())
    names = ("labels", "chosen_labels", "rejected_labels")
    return sum(int((inputs[name] != -100).sum()) for name in names if name in inputs)


def computed(inputs):
    """How many tokens of a batch are computed, without padding. Packed rows have no mask."""
    masks = [inputs[name] for name in inputs if name.endswith("attention_mask") and not name.startswith("KL_")]
    return sum(int((mask != 0).sum()) for mask in masks) or inputs["input_ids"].numel()


tokenizer = AutoTokenizer.from_pretrained(a["model"])
model = AutoModelForCausalLM.from_pretrained(a["model"], dtype=torch.float32)
times, targets, tokens = [], [], []
if method == "orpo":
    from trl.experimental.orpo import ORPOConfig as Config
    from trl.experimental.orpo import ORPOTrainer as Trainer
elif method == "kto":
    from trl import KTOConfig as Config
    from trl import KTOTrainer as Trainer
else:
    from trl import SFTConfig as Config
    from trl import SFTTrainer as Trainer


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        times.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        times[-1] = time.perf_counter() - times[-1]


class Counting(Trainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        targets.append(learned(inputs))
        tokens.append(computed(inputs))
        return super().compute_loss(model, inputs, *args, **kwargs)


with tempfile.TemporaryDirectory() as folder:
    config = Config(
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
        dataloader_num_workers=0,
        seed=42,
        **({"completion_only_loss": True} if method == "sft" else {}),
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
            "tokens": sum(tokens[w:]),
            "seconds": sum(times[w:]),
            "losses": losses[w:],
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )
)
