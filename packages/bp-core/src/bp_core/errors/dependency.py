"""A package, program or server that is needed is missing, or does not do its part."""

from __future__ import annotations

from .base import BackpropagateError


class BackendUnavailable(BackpropagateError, code="DEP_BACKEND_UNAVAILABLE"):
    """The chosen backend cannot run on this machine."""

    fix = "Use --backend cpu, or install the driver that this backend needs; `backprop info` shows what was found."


class MlxUnavailable(BackendUnavailable, code="DEP_MLX_UNAVAILABLE"):
    """The MLX backend cannot run here: it is not installed, or there is no MLX for this machine."""

    fix = (
        'MLX runs on Macs with Apple Silicon, and on Linux: pip install "backpropagate[mlx]"; else use --backend auto.'
    )


class PackageMissing(BackpropagateError, code="DEP_PACKAGE_MISSING"):
    """A Python package that this input needs is not installed; few need it, so it does not come by default."""

    fix = "Install the package that is named above."


class LlamaCppMissing(BackpropagateError, code="DEP_LLAMA_CPP_MISSING"):
    """No embedded llama.cpp is installed, and this step needs one."""

    fix = 'Install it: pip install "bp-export[llama]".'


class LlamaCppFailed(BackpropagateError, code="DEP_LLAMA_CPP_FAILED"):
    """llama.cpp stopped or refused while working on a file. It ran in a process of its own; nothing else is lost."""

    fix = "Run the command again; if it repeats, report it with the output of `backprop info`."


class HubUnreachable(BackpropagateError, code="DEP_HUB_UNREACHABLE"):
    """The model hub did not answer, or refused."""

    fix = "Check the network and HF_TOKEN, or use a local folder."


class HubConflict(BackpropagateError, code="DEP_HUB_CONFLICT"):
    """Somebody else changed the repository at the same time. Nothing of it was changed by this upload."""

    fix = "Give the same command again; files that arrived are not sent again."


class HubUploadFailed(BackpropagateError, code="DEP_HUB_UPLOAD_FAILED"):
    """The hub refused an upload, or broke off. What is visible in the repository did not change."""

    fix = "Read what the hub said, above; the same command goes on, and does not send again what arrived whole."


class OllamaUnreachable(BackpropagateError, code="DEP_OLLAMA_UNREACHABLE"):
    """No Ollama answers where one was looked for, or it did not answer in time."""

    fix = "Start it (`ollama serve`, or the Ollama app), or set OLLAMA_HOST to where it runs."


class OllamaTooOld(BackpropagateError, code="DEP_OLLAMA_TOO_OLD"):
    """The Ollama that answers is too old for this model."""

    fix = "Install the newest Ollama from https://ollama.com/download."


class OllamaRegistrationFailed(BackpropagateError, code="DEP_OLLAMA_REGISTRATION_FAILED"):
    """Ollama refused a file or a request, or broke off. Nothing was registered."""

    fix = "Read what Ollama said, above and in its own log; `ollama create NAME -f FILE.Modelfile` does it by hand."


class OllamaMismatch(BackpropagateError, code="DEP_OLLAMA_MISMATCH"):
    """A model in Ollama does not behave as in its file: another prompt, or no end. It did not get its name."""

    fix = "Install the newest Ollama, and try without OLLAMA_GO_TEMPLATE; please report it if that does not help."


class LlamaServerMissing(BackpropagateError, code="DEP_LLAMA_SERVER_MISSING"):
    """No llama-server is installed, and serving needs one."""

    fix = 'Install it: pip install "bp-export[serve]".'


class TrackerMissing(BackpropagateError, code="DEP_TRACKER_MISSING"):
    """A tracker was asked for by name, but its package is not installed."""

    fix = "Install the package that is named above, or leave the tracker out of --report-to."
