"""llama.cpp's own HTTP server in a process of its own. Run by server.py as `python -m bp_export.llama_cpp._server`.

The first line of stdin is what to serve, in JSON; the first of stdout says where it listens. It ends when stdin closes:
then the caller is gone or done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import xllamacpp


def parameters(asked: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = asked["path"]
    params.model_alias = {asked["name"]}
    params.hostnames, params.port = [asked["host"]], asked["port"]
    params.n_ctx, params.n_gpu_layers = asked["context"], asked["gpu_layers"]
    params.n_parallel = asked["parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.api_keys = [asked["api_key"]] if asked["api_key"] else []
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(asked["lora"], 1.0)] if asked["lora"] else []
    params.cors_origins = asked["origins"]
    params.ui, params.use_jinja, params.endpoint_slots = False, True, False
    return params


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the caller decides
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever llama.cpp prints is talk, not an answer
    try:
        server = xllamacpp.Server(parameters(json.loads(sys.stdin.buffer.readline())))
    except RuntimeError as error:
        sys.exit(f"llama-server did not start: {error}")
    print(json.dumps({"url": server.listening_address}), file=out, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
