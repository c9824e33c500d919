"""The rate of torch's matrix products here, by number format: FLOP a second, the best of several rounds, as JSON."""

import json
import time

import torch

ROWS, INNER, COLUMNS = 1024, 1536, 1024  # about the shapes of SmolLM2-135M's layers with a batch of tokens
ROUNDS = 12


def rate(dtype: torch.dtype) -> float:
    left, right = torch.randn(ROWS, INNER).to(dtype), torch.randn(INNER, COLUMNS).to(dtype)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * ROWS * INNER * COLUMNS / min(seconds)


print(json.dumps({"float32": rate(torch.float32), "bfloat16": rate(torch.bfloat16)}))
