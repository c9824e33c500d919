"""Every error a user can meet: class = code = fix, declared once.

The first word of a code says who must act: INPUT and CONFIG the user (exit 1), DEP, RUNTIME and STATE
the machine or a dependency (exit 2). What was finished before and stands makes it exit 3. docs/errors.md is generated
from this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from .redact import redact

ERRORS: dict[str, type[BackpropagateError]] = {}
PARTLY_DONE = 3
_EXIT_CODES = {"INPUT": 1, "CONFIG": 1, "DEP": 2, "RUNTIME": 2, "STATE": 2}


class BackpropagateError(Exception):
    """Base of all our errors. `message` says what happened, `where` is `file` or `file:line`, `fix` the next step."""

    code: ClassVar[str] = ""
    fix: str = ""
    exit_code: ClassVar[int] = 2
    run: str | None = None  # the id of the run in which it was raised
    kept: str | None = None  # what was finished before it, and stands: the exit code is then PARTLY_DONE
    result: Mapping[str, Any] = MappingProxyType({})  # what the command found out all the same, for --json

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        assert cls.code not in ERRORS, f"{cls.code} is declared twice"
        assert cls.__doc__ and cls.fix, f"{cls.code} needs a docstring and a fix"
        cls.exit_code = _EXIT_CODES[cls.code.split("_")[0]]
        ERRORS[cls.code] = cls

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(redact(message))
        self.message = redact(message)
        self.where = redact(where) if where else where
        self.fix = fix or type(self).fix

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def as_dict(self) -> dict[str, Any]:
        told = {"code": self.code, "message": self.message, "where": self.where, "fix": self.fix}
        return told | {name: value for name in ("run", "kept") if (value := getattr(self, name))}


class FileMissing(BackpropagateError):
    """A file or folder that was named does not exist."""

    code = "INPUT_FILE_NOT_FOUND"
    fix = "Check the path; relative paths start at the current folder."


class FileUnreadable(BackpropagateError):
    """A file exists but cannot be read as text."""

    code = "INPUT_FILE_UNREADABLE"
    fix = "Save the file as UTF-8 text and check its permissions."


class FileTooLarge(BackpropagateError):
    """A data file expands to more than it may, or one of its rows is larger than a row may be."""

    code = "INPUT_FILE_TOO_LARGE"
    fix = "If you trust the file, raise the limit that is named above: --max-expanded, --max-ratio or --max-row."


class FileEmpty(BackpropagateError):
    """A data file has no rows."""

    code = "INPUT_FILE_EMPTY"
    fix = "Put at least one example in the file, one JSON object a line."


class BrokenJson(BackpropagateError):
    """A line is not valid JSON, or not an object."""

    code = "INPUT_JSON_BROKEN"
    fix = "Correct that line; every line must be one complete JSON object."


class UnknownFormat(BackpropagateError):
    """A row's keys match no known data format."""

    code = "INPUT_FORMAT_UNKNOWN"
    fix = (
        "Use one of: messages (OpenAI), conversations (ShareGPT), instruction/output (Alpaca), prompt/completion, text."
    )


class BadRow(BackpropagateError):
    """A row has the right keys but a value of the wrong kind."""

    code = "INPUT_ROW_INVALID"
    fix = "Correct that row."


class MethodMismatch(BackpropagateError):
    """A row compares or rates answers, and learning from it as from an example would teach the bad ones too."""

    code = "INPUT_METHOD_MISMATCH"
    fix = "Keep the good answers only, as prompt/completion or messages; --columns completion=chosen takes one column."


class NoTarget(BackpropagateError):
    """A row has nothing to learn from: no assistant turn, or an empty one."""

    code = "INPUT_NO_TARGET"
    fix = "Give the row an assistant turn with text; that is what the model learns to write."


class TemplateUnusable(BackpropagateError):
    """The chat template cannot be rendered, or its pieces do not add up, so the loss mask would be a guess."""

    code = "INPUT_TEMPLATE_UNUSABLE"
    fix = "Use a model with a chat template that renders each turn the same way wherever it stands."


class ModelNotFound(BackpropagateError):
    """A model is neither a preset, nor a folder with weights, nor found on the hub."""

    code = "INPUT_MODEL_NOT_FOUND"
    fix = "Name a preset (smollm2-135m), a folder with config.json and *.safetensors, or a hub id like owner/name."


class ModelUnusable(BackpropagateError):
    """A model folder was found but something in it is missing or not supported."""

    code = "INPUT_MODEL_UNUSABLE"
    fix = "Download the model again, or choose another one."


class AdapterUnusable(BackpropagateError):
    """A folder is not a PEFT adapter that can be used, or its files are damaged."""

    code = "INPUT_ADAPTER_UNUSABLE"
    fix = "Point to a folder with adapter_config.json and adapter_model.safetensors, such as ./output/lora."


class GgufUnusable(BackpropagateError):
    """A file is not a GGUF model that can be read."""

    code = "INPUT_GGUF_UNUSABLE"
    fix = "Export the model again; the file may be truncated."


class OutputUnusable(BackpropagateError):
    """The output path is a file, or cannot be written to."""

    code = "INPUT_OUTPUT_UNUSABLE"
    fix = "Choose another --output, or change the permissions of this one."


class BadValue(BackpropagateError):
    """One or more settings have values outside their range, or do not exist."""

    code = "CONFIG_VALUE_INVALID"
    fix = "Correct what is named above; docs/config.md and `backprop train --help` list every setting."


class UnknownQuantization(BackpropagateError):
    """A quantisation that we do not write."""

    code = "CONFIG_QUANTIZATION_UNKNOWN"
    fix = "Use one of: f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m."


class UnknownBackend(BackpropagateError):
    """A backend for which no rail is installed."""

    code = "CONFIG_BACKEND_UNKNOWN"
    fix = "Use --backend auto, or install the package that brings this backend."


class UnsupportedArchitecture(BackpropagateError):
    """The model's architecture cannot be exported to GGUF."""

    code = "CONFIG_ARCHITECTURE_UNSUPPORTED"
    fix = "Export with --format merged and convert with another tool, or train a supported base."


class BackendUnavailable(BackpropagateError):
    """The chosen backend cannot run on this machine."""

    code = "DEP_BACKEND_UNAVAILABLE"
    fix = "Use --backend cpu, or install the driver that this backend needs; `backprop info` shows what was found."


class MlxUnavailable(BackendUnavailable):
    """The MLX backend cannot run here: it is not installed, or there is no MLX for this machine."""

    code = "DEP_MLX_UNAVAILABLE"
    fix = (
        'MLX runs on Macs with Apple Silicon, and on Linux: pip install "backpropagate[mlx]"; else use --backend auto.'
    )


class PackageMissing(BackpropagateError):
    """A Python package that this input needs is not installed; few need it, so it does not come by default."""

    code = "DEP_PACKAGE_MISSING"
    fix = "Install the package that is named above."


class LlamaCppMissing(BackpropagateError):
    """No embedded llama.cpp is installed, and this step needs one."""

    code = "DEP_LLAMA_CPP_MISSING"
    fix = 'Install it: pip install "bp-export[llama]".'


class LlamaCppFailed(BackpropagateError):
    """llama.cpp stopped or refused while working on a file. It ran in a process of its own; nothing else is lost."""

    code = "DEP_LLAMA_CPP_FAILED"
    fix = "Run the command again; if it repeats, report it with the output of `backprop info`."


class HubUnreachable(BackpropagateError):
    """The model hub did not answer, or refused."""

    code = "DEP_HUB_UNREACHABLE"
    fix = "Check the network and HF_TOKEN, or use a local folder or the preset smollm2-135m."


class HubTokenMissing(BackpropagateError):
    """An upload needs a token of the Hugging Face hub, and there is none in HF_TOKEN or in huggingface_hub's file."""

    code = "INPUT_HUB_TOKEN_MISSING"
    fix = "Make one with write access at https://huggingface.co/settings/tokens; then `hf auth login`, or set HF_TOKEN."


class HubTokenRefused(BackpropagateError):
    """The hub does not accept the token, or the token may not write to this repository."""

    code = "INPUT_HUB_TOKEN_REFUSED"
    fix = "See with `hf auth whoami` whose it is; it must have write access to that owner's repositories."


class HubRepositoryMissing(BackpropagateError):
    """The hub has no such repository or owner, or hides it from this token."""

    code = "INPUT_HUB_REPOSITORY_NOT_FOUND"
    fix = "Check the owner in --repo owner/name; `hf auth whoami` shows your name and your organisations."


class HubRepositoryPublic(BackpropagateError):
    """An upload was to be private, but the repository is there already, and everybody can see it. Nothing was sent."""

    code = "INPUT_HUB_REPOSITORY_PUBLIC"
    fix = "Choose another name, make that repository private on its settings page, or leave --private out."


class HubConflict(BackpropagateError):
    """Somebody else changed the repository at the same time. Nothing of it was changed by this upload."""

    code = "DEP_HUB_CONFLICT"
    fix = "Give the same command again; files that arrived are not sent again."


class HubUploadFailed(BackpropagateError):
    """The hub refused an upload, or broke off. What is visible in the repository did not change."""

    code = "DEP_HUB_UPLOAD_FAILED"
    fix = "Read what the hub said, above; the same command goes on, and does not send again what arrived whole."


class OllamaUnreachable(BackpropagateError):
    """No Ollama answers where one was looked for, or it did not answer in time."""

    code = "DEP_OLLAMA_UNREACHABLE"
    fix = "Start it (`ollama serve`, or the Ollama app), or set OLLAMA_HOST to where it runs."


class OllamaTooOld(BackpropagateError):
    """The Ollama that answers is too old for this model."""

    code = "DEP_OLLAMA_TOO_OLD"
    fix = "Install the newest Ollama from https://ollama.com/download."


class OllamaRegistrationFailed(BackpropagateError):
    """Ollama refused a file or a request, or broke off. Nothing was registered."""

    code = "DEP_OLLAMA_REGISTRATION_FAILED"
    fix = "Read what Ollama said, above and in its own log; `ollama create NAME -f FILE.Modelfile` does it by hand."


class OllamaMismatch(BackpropagateError):
    """A model in Ollama does not behave as in its file: another prompt, or no end. It did not get its name."""

    code = "DEP_OLLAMA_MISMATCH"
    fix = "Install the newest Ollama, and try without OLLAMA_GO_TEMPLATE; please report it if that does not help."


class OllamaNameTaken(BackpropagateError):
    """Ollama has a model of that name already."""

    code = "INPUT_OLLAMA_NAME_TAKEN"
    fix = "Choose another name, or replace it with --ollama-overwrite."


class OllamaModelMissing(BackpropagateError):
    """Ollama has no model of that name."""

    code = "INPUT_OLLAMA_MODEL_NOT_FOUND"
    fix = "`backprop ollama list` shows the names."


class LlamaServerMissing(BackpropagateError):
    """No llama-server is installed, and serving needs one."""

    code = "DEP_LLAMA_SERVER_MISSING"
    fix = 'Install it: pip install "bp-export[serve]".'


class AddressUnusable(BackpropagateError):
    """Nothing can listen at that address: the port is taken, or the address is not of this machine."""

    code = "INPUT_ADDRESS_UNUSABLE"
    fix = "Choose another --port, or 0 for any free one."


class OpenToOthers(BackpropagateError):
    """A model would be served to the whole network, to everybody who can reach this machine."""

    code = "INPUT_HOST_NOT_LOCAL"
    fix = "Leave --host out, or say that you mean it with --open-to-network; better with --api-key too."


class OutOfMemory(BackpropagateError):
    """The device's memory is exhausted, also with one example at a time and with all that saves memory."""

    code = "RUNTIME_GPU_OOM"
    fix = "Use a smaller --max-length or --rank, or a smaller model."


class ModelTooLarge(BackpropagateError):
    """A model has too many parameters to train all of them on one machine."""

    code = "RUNTIME_FULL_FT_MODEL_TOO_LARGE"
    fix = "Train an adapter (--mode lora), a smaller model, or up to 8.5 billion parameters with --full-ft-offload."


class PeerLost(BackpropagateError):
    """Another process that trains the same run ended, or did not answer for half an hour."""

    code = "RUNTIME_PEER_LOST"
    fix = "See what the other processes said; then start all of them again with --resume."


class PeersDiffer(BackpropagateError):
    """The processes that a launcher started for one run do not have the same data, model or version."""

    code = "CONFIG_PEERS_DIFFER"
    fix = "Give all of them the same command line, and all machines the same files and versions."


class Diverged(BackpropagateError):
    """The loss or the gradient was not a finite number in more steps than may be skipped."""

    code = "RUNTIME_DIVERGED"
    fix = "Lower --learning-rate, and check the data for extreme rows."


class NotProven(BackpropagateError):
    """A GGUF is not proven to be the model that was trained. An exported one is kept under a name that says so.

    `checks` are those that failed: name, measured, allowed, note.
    """

    code = "RUNTIME_EXPORT_NOT_PROVEN"
    fix = (
        "Export again with --accept-unproven to use the file all the same. To report it, send the parity file and the "
        "output of `backprop info`; look through its notes first, they may quote your data."
    )

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        checks: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message, where=where, fix=fix)
        self.checks = list(checks)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"checks": self.checks}


class GateFailed(BackpropagateError):
    """An evaluation was done, and what it measured does not satisfy the conditions that were set."""

    code = "RUNTIME_GATE_FAILED"
    fix = "Train longer or on better data, or set other limits in --gate."


class NothingToEvaluate(BackpropagateError):
    """There are no rows to evaluate on: none were named, and the run held none out, or they are not as they were."""

    code = "INPUT_NOTHING_TO_EVALUATE"
    fix = "Give rows with --data FILE, or train with --held-out 0.05."


class TargetNotFound(BackpropagateError):
    """A name is no file, folder, run or model, or several runs begin with it."""

    code = "INPUT_TARGET_NOT_FOUND"
    fix = "Name a run (`backprop list-runs`), a folder such as ./output, or a model such as smollm2-135m."


class Interrupted(BackpropagateError):
    """The run was stopped by the user; its last checkpoint is complete."""

    code = "RUNTIME_INTERRUPTED"
    fix = "Go on with `backprop resume`."


class CheckpointUnusable(BackpropagateError):
    """A checkpoint is incomplete, altered, or belongs to another run."""

    code = "STATE_CHECKPOINT_UNUSABLE"
    fix = "Resume from an earlier checkpoint, or start again."


class MergeRefused(BackpropagateError):
    """The factors of an adapter do not fit what it is to be merged with, or are not finite. The state is as before."""

    code = "STATE_MERGE_REFUSED"
    fix = "Merge adapters of one base model, trained with the same settings, whose loss stayed finite."


class NothingToResume(BackpropagateError):
    """The run is finished, its rows were not kept, or there is none that is unfinished under the output folder."""

    code = "STATE_NOTHING_TO_RESUME"
    fix = "Start a new run, without --resume, or name another --output."


class ResumeMismatch(BackpropagateError):
    """Data, model or settings differ from those of the run to resume."""

    code = "STATE_RESUME_MISMATCH"
    fix = "Use the same data, model and settings, start a new run, or go on all the same with --allow-changes."


class RunAlive(BackpropagateError):
    """The run is being trained by another process, here or on another machine that shares the folder."""

    code = "STATE_RUN_ALIVE"
    fix = "Wait for it to end, or stop that process; then resume."


class LedgerUnusable(BackpropagateError):
    """The ledger of runs cannot be read or written. Training goes on without it; the run folders hold everything."""

    code = "STATE_LEDGER_UNUSABLE"
    fix = "Make the folder writable, or set BACKPROPAGATE_HOME to another one; a newer ledger needs a newer version."


class RunNotFound(BackpropagateError):
    """What is named is there, but no run that made it is known."""

    code = "INPUT_RUN_NOT_FOUND"
    fix = "Name a run by its id; `backprop list-runs` shows them."


class NotReplayable(BackpropagateError):
    """A run cannot be done again from its record: its data was not a file, or run.lock is missing or damaged."""

    code = "INPUT_RUN_NOT_REPLAYABLE"
    fix = "Save the rows to a file, and train on that file."


class ReplayMismatch(BackpropagateError):
    """Data, base model, tokenizer or chat template are not those of the run to replay."""

    code = "STATE_REPLAY_MISMATCH"
    fix = "Bring back what is named above, or start a new run with `backprop train`."


class UnknownError(BackpropagateError):
    """An error code that does not exist."""

    code = "INPUT_ERROR_UNKNOWN"
    fix = "`backprop errors` lists them all."


class UnknownTracker(BackpropagateError):
    """A tracker that is not known."""

    code = "CONFIG_TRACKER_UNKNOWN"
    fix = "Use --report-to auto, none, or a comma-separated list of tensorboard, wandb, mlflow, trackio."


class TrackerMissing(BackpropagateError):
    """A tracker was asked for by name, but its package is not installed."""

    code = "DEP_TRACKER_MISSING"
    fix = "Install the package that is named above, or leave the tracker out of --report-to."


class DiskFull(BackpropagateError):
    """The disk has no room for what must be written."""

    code = "STATE_DISK_FULL"
    fix = "Free some space, or choose an --output on another disk."


Interrupted.exit_code = 130
