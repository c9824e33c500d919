"""What a user may set for an export, for serving a file and for an upload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bp_core.settings import Clash, OptionName, Range, check
from bp_core.units import bytes_of

from .ollama_names import NAME_FIX, is_name

ExportFormat = Literal["lora", "merged", "gguf", "gguf-lora"]
Quantization = Literal[
    "f16",
    "bf16",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q4_k_m",
    "q4_k_s",
    "q4_0",
    "iq4_xs",
    "q3_k_m",
    "iq3_m",
    "auto",
]
Program = Literal["ollama", "lmstudio", "llama-cpp", "vllm", "jan"]
NUM_CTX = 8192
ANSWERS = 8  # each takes seconds on a processor


@dataclass(frozen=True)
class ExportConfig:
    """What a user may set for an export."""

    format: Annotated[
        ExportFormat,
        "lora: the adapter alone; merged: a Hugging Face folder; gguf: one file to run; gguf-lora: the adapter alone, "
        "for llama.cpp and LM Studio.",
    ] = "gguf"
    quantization: Annotated[
        Quantization,
        "Number format inside the GGUF. auto: the smallest that keeps what was learned, found by trying.",
    ] = "q4_k_m"
    max_size: Annotated[str | None, "What auto may write at most, such as 5GB or 700MB. Default: any size."] = None
    importance: Annotated[
        bool,
        "Below 8 bits, keep most exact what the trained model uses most on your rows: an importance matrix, written "
        "beside the file.",
    ] = True
    output: Annotated[str | None, "File or folder to write. Default: beside the adapter."] = None
    overwrite: Annotated[bool, "Replace what an earlier export wrote there."] = False
    base: Annotated[
        str | None,
        "Merge into this model: where the adapter's own base cannot be found, or was quantised. Default: the base that "
        "was trained on.",
    ] = None
    accept_unproven: Annotated[
        bool, "Hand over a GGUF whose proof fails, too. What failed stays on record, beside the file and in its card."
    ] = False
    answers: Annotated[
        int,
        "Held-out rows with tools or thoughts that the proof of a gguf asks through llama-server: whether calls and "
        "thoughts come back as such. 0: none.",
        Range(0),
    ] = ANSWERS
    program: Annotated[
        Program | None,
        "Put it where this program looks for models, and say how it is started there: ollama registers it; lmstudio "
        "and jan get it in their folders; vllm runs a folder, so the format is merged. Default: it stays where it is.",
        OptionName("for"),
    ] = None
    ollama: Annotated[
        bool,
        "Register the GGUF with Ollama, and see that it behaves there, also beside another program of --for. "
        "--for ollama and --ollama-name ask for it by themselves.",
    ] = False
    ollama_name: Annotated[str | None, "What Ollama shall call it. Default: the file's name."] = None
    ollama_overwrite: Annotated[bool, "Replace a model of that name in Ollama."] = False
    system: Annotated[
        str | None, "System message for when a conversation has none, in Ollama and the Modelfile. Default: none."
    ] = None
    num_ctx: Annotated[
        int | None,
        f"Context in tokens, in Ollama and the Modelfile; more needs more memory. Default: the model's, to {NUM_CTX}.",
        Range(1),
    ] = None

    def __post_init__(self) -> None:
        if isinstance(self.quantization, str):  # llama.cpp writes Q4_K_M
            object.__setattr__(self, "quantization", self.quantization.lower())
        if self.program == "vllm" and self.format == "gguf":
            object.__setattr__(self, "format", "merged")
        sizes = [_NO_SIZE, _SIZE_UNASKED, _NOTHING_TO_WEIGH]
        check(self, [*_NOT_GGUF, _NOT_THERE, _NO_NAME, _NOTHING_TO_PROVE, _NOTHING_TO_ASK, _MERGELESS, *sizes])
        if self.program == "ollama" or self.ollama_name is not None:
            object.__setattr__(self, "ollama", True)  # the one setting that registers


@dataclass(frozen=True)
class ServeConfig:
    """What a user may set for serving a model over HTTP."""

    host: Annotated[str, "Where to listen. Any other address than this machine's own needs --open-to-network."] = (
        "127.0.0.1"
    )
    port: Annotated[int, "The port; 0 takes any free one.", Range(0, (1 << 16) - 1)] = 8080
    name: Annotated[str | None, "The model's name in requests. Default: the file's."] = None
    num_ctx: Annotated[
        int | None, f"Context of a conversation in tokens. Default: the model's, to {NUM_CTX}.", Range(1)
    ] = None
    lora: Annotated[str | None, "A GGUF adapter that changes the model while it runs. Default: none."] = None
    parallel: Annotated[int, "Conversations at the same time; each has its own context.", Range(1, 256)] = 1
    api_key: Annotated[str | None, "A key that every request must bring; hide it in the variable. Default: none."] = (
        None
    )
    open_to_network: Annotated[bool, "Yes, let others use the model, whoever can reach this machine."] = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PushConfig:
    """What a user may set for an upload to the Hugging Face hub."""

    private: Annotated[bool, "Only you and your organisation may see it. A repository that is public is refused."] = (
        False
    )
    gguf: Annotated[bool, "Upload the GGUF files that were exported of it, too."] = False
    samples: Annotated[bool, "Show answers before and after, with their prompts from the data, in the card."] = True
    base: Annotated[str | None, "The base's hub id, if it was trained from a folder. Default: as the run says."] = None

    def __post_init__(self) -> None:
        check(self)


# What only a GGUF can have.
_NOT_GGUF: list[Clash] = [
    Clash(
        (name, "format"),
        lambda wanted, format: bool(wanted) and format != "gguf",
        f"{name} is set, but only the format gguf has use for it",
    )
    for name in ("ollama", "ollama_name", "ollama_overwrite", "system", "num_ctx")
]
_NOT_THERE = Clash(
    ("program", "format"),
    lambda program, format: program is not None and format != ("merged" if program == "vllm" else "gguf"),
    "the program of --for does not run that format: vllm runs merged, the others gguf",
)
_NOTHING_TO_PROVE = Clash(
    ("accept_unproven", "format"),
    lambda accept, format: accept and not format.startswith("gguf"),
    "accept_unproven is set, but only GGUF files are proven",
)
_NOTHING_TO_ASK = Clash(
    ("answers", "format"),
    lambda answers, format: answers != ANSWERS and format != "gguf",
    "answers is set, but only the format gguf is asked any",
)
_MERGELESS = Clash(
    ("base", "format"),
    lambda base, format: base is not None and format == "lora",
    "base is set, but the format lora merges nothing",
)
_NO_NAME = Clash(
    ("ollama_name",),
    lambda name: name is not None and not is_name(name),
    f"ollama_name is not a valid model name in Ollama. {NAME_FIX.rstrip('.')}",
)
_NO_SIZE = Clash(
    ("max_size",),
    lambda size: size is not None and bytes_of(size) is None,
    "max_size is no size such as 5GB or 700MB",
)
_SIZE_UNASKED = Clash(
    ("max_size", "quantization"),
    lambda size, quantization: size is not None and quantization != "auto",
    "max_size is set, but only the quantization auto chooses by size",
)
EXACT = ("f16", "bf16", "q8_0")  # formats of 8 bits and more, written from the weights themselves
_NOTHING_TO_WEIGH = Clash(
    ("importance", "format", "quantization"),
    lambda importance, format, quantization: not importance and (format != "gguf" or quantization in EXACT),
    "importance is off, but only a gguf below 8 bits has use for it",
)
