"""The child process that runs llama.cpp's HTTP server; server.py starts it as `python -m bp_export.llama_cpp._server`.

The first line of stdin has the settings in JSON, the first line of stdout the server's URL. The process ends when stdin
closes, which it does when the caller ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import xllamacpp


def parameters(settings: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.hostnames, params.port = [settings["host"]], settings["port"]
    params.n_ctx, params.n_gpu_layers = settings["context"], settings["gpu_layers"]
    params.n_parallel = settings["parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.api_keys = [settings["api_key"]] if settings["api_key"] else []
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(settings["lora"], 1.0)] if settings["lora"] else []
    params.cors_origins = settings["origins"]
    params.ui, params.use_jinja, params.endpoint_slots = False, True, False
    return params


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the caller decides
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is log, not an answer
    try:
        server = xllamacpp.Server(parameters(json.loads(sys.stdin.buffer.readline())))
    except RuntimeError as error:
        sys.exit(f"llama-server did not start: {error}")
    print(json.dumps({"url": server.listening_address}), file=out, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
