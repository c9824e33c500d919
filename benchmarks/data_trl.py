"""TRL's side of data_vs_trl.py: what SFTTrainer does with a data set before it trains, its packing included."""

import hashlib
import json
import sys
import tempfile
import time

import numpy as np
from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

a = json.loads(sys.argv[1])
PLAIN = "'\n' + message['content'] + '<|im_end|>' + '\n'}}"
ANSWER = "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
MARKED = (
    "'\n'}}{% if message['role'] == 'assistant' %}" + ANSWER + "{% else %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}"
)


class Timed(SFTTrainer):
    def _prepare_dataset(self, *args, **kwargs):
        began = time.perf_counter()
        dataset = super()._prepare_dataset(*args, **kwargs)
        self.seconds = time.perf_counter() - began
        return dataset


def digests(dataset):
    """One hash an example: the packed rows, cut where their examples begin."""
    for row in dataset.with_format("numpy"):
        ends = np.cumsum(row["seq_lengths"])[:-1]
        for tokens, labels in zip(np.split(row["input_ids"], ends), np.split(row["labels"], ends), strict=True):
            trained = (labels != -100).astype(np.uint8)
            yield hashlib.sha256(tokens.astype(np.int32).tobytes() + trained.tobytes()).digest()


tokenizer = AutoTokenizer.from_pretrained(a["model"])
assert PLAIN in tokenizer.chat_template, "the template is another one; mark its assistant turns here"
tokenizer.chat_template = tokenizer.chat_template.replace(PLAIN, MARKED)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
)
with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(
        output_dir=folder,
        max_length=a["length"],
        packing=True,
        assistant_only_loss=True,
        dataset_num_proc=a["processes"],
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    began = time.perf_counter()
    rows = load_dataset("json", data_files=a["data"], split="train", cache_dir=folder)
    reading = time.perf_counter() - began
    trainer = Timed(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    packed = trainer.train_dataset
    seconds = reading + trainer.seconds
    found = sorted(digests(packed))
    facts = {
        "seconds": seconds,
        "examples": len(found),
        "packed": len(packed),
        "digest": hashlib.sha256(b"".join(found)).hexdigest(),
    }
    print(json.dumps(facts))
