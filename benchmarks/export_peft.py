"""PEFT's side of export_vs_llama_cpp.py: the merged model as a Hugging Face folder."""

import json
import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

a = json.loads(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(a["base"], dtype="auto", low_cpu_mem_usage=True)
PeftModel.from_pretrained(model, a["adapter"]).merge_and_unload().save_pretrained(a["out"])
AutoTokenizer.from_pretrained(a["base"]).save_pretrained(a["out"])
