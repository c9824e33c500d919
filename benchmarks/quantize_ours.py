"""Quantises a file for quantization_table.py: SOURCE TARGET QUANTIZATION [MATRIX]; prints its time and peak memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from peak_memory import peak

from bp_export import quantize
from bp_export.quantization.importance import read_importance

source, target, quantization, *matrix = sys.argv[1:]
columns = read_importance(Path(matrix[0])).columns if matrix else None
wall, processor = time.perf_counter(), time.process_time()
quantize(Path(source), Path(target), quantization, importance=columns)
seconds, processor = time.perf_counter() - wall, time.process_time() - processor
print(json.dumps({"seconds": round(seconds, 2), "processor": round(processor, 2), "peak_mib": peak() >> 20}))
