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

    def __init_subclass__(cls, *, code: str) -> None:
        super().__init_subclass__()
        assert code not in ERRORS, f"{code} is declared twice"
        assert cls.__doc__ and cls.fix, f"{code} needs a docstring and a fix"
        cls.code, cls.exit_code = code, _EXIT_CODES[code.split("_")[0]]
        ERRORS[code] = cls

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


class FileMissing(BackpropagateError, code="INPUT_FILE_NOT_FOUND"):
    """A file or folder that was named does not exist."""

    fix = "Check the path; relative paths start at the current folder."


class FileUnreadable(BackpropagateError, code="INPUT_FILE_UNREADABLE"):
    """A file exists but cannot be read as text."""

    fix = "Save the file as UTF-8 text and check its permissions."


class FileTooLarge(BackpropagateError, code="INPUT_FILE_TOO_LARGE"):
    """A data file expands to more than it may, or one of its rows is larger than a row may be."""

    fix = "If you trust the file, raise the limit that is named above: --max-expanded, --max-ratio or --max-row."


class FileEmpty(BackpropagateError, code="INPUT_FILE_EMPTY"):
    """A data file has no rows."""

    fix = "Put at least one example in the file, one JSON object a line."


class BrokenJson(BackpropagateError, code="INPUT_JSON_BROKEN"):
    """A line is not valid JSON, or not an object."""

    fix = "Correct that line; every line must be one complete JSON object."


class UnknownFormat(BackpropagateError, code="INPUT_FORMAT_UNKNOWN"):
    """A row's keys match no known data format."""

    fix = (
        "Use one of: messages (OpenAI), conversations (ShareGPT), instruction/output (Alpaca), prompt/completion, text."
    )


class BadRow(BackpropagateError, code="INPUT_ROW_INVALID"):
    """A row has the right keys but a value of the wrong kind."""

    fix = "Correct that row."


class BadToolCall(BadRow, code="INPUT_TOOL_CALL_INVALID"):
    """The arguments of a tool call are no JSON object, so no template can write them."""

    fix = 'Write the arguments as an object, or as JSON text of one: {"city": "Oslo"}.'


class MethodMismatch(BackpropagateError, code="INPUT_METHOD_MISMATCH"):
    """A row compares or rates answers, and learning from it as from an example would teach the bad ones too."""

    fix = "Keep the good answers only, as prompt/completion or messages; --columns completion=chosen takes one column."


class NoTarget(BackpropagateError, code="INPUT_NO_TARGET"):
    """A row has nothing to learn from: no assistant turn, or an empty one."""

    fix = "Give the row an assistant turn with text; that is what the model learns to write."


class TemplateUnusable(BackpropagateError, code="INPUT_TEMPLATE_UNUSABLE"):
    """The chat template cannot be rendered, or its pieces do not add up, so the loss mask would be a guess."""

    fix = "Use a model with a chat template that renders each turn the same way wherever it stands."


class ModelNotFound(BackpropagateError, code="INPUT_MODEL_NOT_FOUND"):
    """A model is neither a preset, nor a folder with weights, nor found on the hub."""

    fix = "Name a preset (smollm2-135m), a folder with config.json and *.safetensors, or a hub id like owner/name."


class ModelGated(BackpropagateError, code="INPUT_MODEL_GATED"):
    """A model on the hub is given only to those who accepted its licence, or were let in by its owner."""

    fix = "Accept the licence on the model's page, then `hf auth login` with a token of that account, or set HF_TOKEN."


class ModelUnusable(BackpropagateError, code="INPUT_MODEL_UNUSABLE"):
    """A model folder was found but something in it is missing or not supported."""

    fix = "Download the model again, or choose another one."


class AdapterUnusable(BackpropagateError, code="INPUT_ADAPTER_UNUSABLE"):
    """A folder is not a PEFT adapter that can be used, or its files are damaged."""

    fix = "Point to a folder with adapter_config.json and adapter_model.safetensors, such as ./output/lora."


class GgufUnusable(BackpropagateError, code="INPUT_GGUF_UNUSABLE"):
    """A file is not a GGUF model that can be read."""

    fix = "Export the model again; the file may be truncated."


class OutputUnusable(BackpropagateError, code="INPUT_OUTPUT_UNUSABLE"):
    """The output path is a file, or cannot be written to."""

    fix = "Choose another --output, or change the permissions of this one."


class BadValue(BackpropagateError, code="CONFIG_VALUE_INVALID"):
    """One or more settings have values outside their range, or do not exist."""

    fix = "Correct what is named above; docs/config.md lists every setting."


class DoesNotFit(BackpropagateError, code="CONFIG_MEMORY_TOO_SMALL"):
    """A card has too little free memory for a model, in the mode and with the length that were chosen."""

    fix = "Use --mode qlora, a smaller --max-length or model; `backprop estimate-vram MODEL` computes before you try."


class UnknownQuantization(BackpropagateError, code="CONFIG_QUANTIZATION_UNKNOWN"):
    """A quantisation that we do not write."""

    fix = "Use q4_k_m, the usual one, or one that `backprop export --help` lists."


class UnknownBackend(BackpropagateError, code="CONFIG_BACKEND_UNKNOWN"):
    """A backend that is not installed, or does not exist."""

    fix = "Use --backend auto, or install the package that brings this backend."


class UnsupportedArchitecture(BackpropagateError, code="CONFIG_ARCHITECTURE_UNSUPPORTED"):
    """The model's architecture cannot be exported to GGUF."""

    fix = "Export with --format merged and convert with another tool, or train a supported base."


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


class HubTokenMissing(BackpropagateError, code="INPUT_HUB_TOKEN_MISSING"):
    """An upload needs a token of the Hugging Face hub, and there is none in HF_TOKEN or in huggingface_hub's file."""

    fix = "Make one with write access at https://huggingface.co/settings/tokens; then `hf auth login`, or set HF_TOKEN."


class HubTokenRefused(BackpropagateError, code="INPUT_HUB_TOKEN_REFUSED"):
    """The hub does not accept the token, or the token may not write to this repository."""

    fix = "See with `hf auth whoami` whose it is; it must have write access to that owner's repositories."


class HubRepositoryMissing(BackpropagateError, code="INPUT_HUB_REPOSITORY_NOT_FOUND"):
    """The hub has no such repository or owner, or hides it from this token."""

    fix = "Check the owner in --repo owner/name; `hf auth whoami` shows your name and your organisations."


class HubRepositoryPublic(BackpropagateError, code="INPUT_HUB_REPOSITORY_PUBLIC"):
    """An upload was to be private, but the repository is there already, and everybody can see it. Nothing was sent."""

    fix = "Choose another name, make that repository private on its settings page, or leave --private out."


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


class OllamaNameTaken(BackpropagateError, code="INPUT_OLLAMA_NAME_TAKEN"):
    """Ollama has a model of that name already."""

    fix = "Choose another name, or replace it with --ollama-overwrite."


class OllamaModelMissing(BackpropagateError, code="INPUT_OLLAMA_MODEL_NOT_FOUND"):
    """Ollama has no model of that name."""

    fix = "`backprop ollama list` shows the names."


class LlamaServerMissing(BackpropagateError, code="DEP_LLAMA_SERVER_MISSING"):
    """No llama-server is installed, and serving needs one."""

    fix = 'Install it: pip install "bp-export[serve]".'


class AddressUnusable(BackpropagateError, code="INPUT_ADDRESS_UNUSABLE"):
    """Nothing can listen at that address: the port is taken, or the address is not of this machine."""

    fix = "Choose another --port, or 0 for any free one."


class OpenToOthers(BackpropagateError, code="INPUT_HOST_NOT_LOCAL"):
    """A model would be served to the whole network, to everybody who can reach this machine."""

    fix = "Leave --host out, or say that you mean it with --open-to-network; better with --api-key too."


class UiAuthRequired(BackpropagateError, code="CONFIG_UI_AUTH_REQUIRED"):
    """The web page would be open to others without a password, or the password would travel unprotected."""

    fix = "Set BACKPROPAGATE_UI_AUTH to name:password, or give --auth to be asked; or leave --share out."


class UploadRefused(BackpropagateError, code="INPUT_UPLOAD_REFUSED"):
    """A file that was sent to the web page is too large, of a kind that is no data, or its name is in use."""

    fix = "Send a .jsonl, .json, .csv, .txt, .md or .parquet file; `backprop ui --upload-limit` allows larger ones."


class DeviceBusy(BackpropagateError, code="STATE_DEVICE_BUSY"):
    """Another job of the web page uses the device; two at once would be slower than one after the other."""

    fix = "Let it begin when that one ends, or stop that one."


class OutOfMemory(BackpropagateError, code="RUNTIME_GPU_OOM"):
    """The device's memory is exhausted, also with one example at a time and with all that saves memory."""

    fix = "Use a smaller --max-length or --rank, or a smaller model."


class ModelTooLarge(BackpropagateError, code="RUNTIME_FULL_FT_MODEL_TOO_LARGE"):
    """A model has too many parameters to train all of them on one machine."""

    fix = "Train an adapter (--mode lora), a smaller model, or up to 8.5 billion parameters with --full-ft-offload."


class PeerLost(BackpropagateError, code="RUNTIME_PEER_LOST"):
    """Another process that trains the same run ended, or did not answer for half an hour."""

    fix = "See what the other processes said; then start all of them again with --resume."


class PeersDiffer(BackpropagateError, code="CONFIG_PEERS_DIFFER"):
    """The processes that a launcher started for one run do not have the same data, model or version."""

    fix = "Give all of them the same command line, and all machines the same files and versions."


class Diverged(BackpropagateError, code="RUNTIME_DIVERGED"):
    """The loss or the gradient was not a finite number in more steps than may be skipped."""

    fix = "Lower --learning-rate, and check the data for extreme rows."


class NotProven(BackpropagateError, code="RUNTIME_EXPORT_NOT_PROVEN"):
    """A GGUF is not proven to be the model that was trained. An exported one is kept under a name that says so.

    `checks` are those that failed: name, measured, allowed, note.
    """

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


class GateFailed(BackpropagateError, code="RUNTIME_GATE_FAILED"):
    """An evaluation was done, and what it measured does not satisfy the conditions that were set."""

    fix = "Train longer or on better data, or set other limits in --gate."


class NothingToEvaluate(BackpropagateError, code="INPUT_NOTHING_TO_EVALUATE"):
    """There are no rows to evaluate on: none were named, and the run held none out, or they are not as they were."""

    fix = "Give rows with --data FILE, or train with --held-out 0.05."


class TargetNotFound(BackpropagateError, code="INPUT_TARGET_NOT_FOUND"):
    """A name is no file, folder, run or model, or several runs begin with it."""

    fix = "Name a run (`backprop list-runs`), a folder such as ./output, or a model such as smollm2-135m."


class Interrupted(BackpropagateError, code="RUNTIME_INTERRUPTED"):
    """The run was stopped by the user; its last checkpoint is complete."""

    fix = "Go on with `backprop resume`."


class CheckpointUnusable(BackpropagateError, code="STATE_CHECKPOINT_UNUSABLE"):
    """A checkpoint is incomplete, altered, or belongs to another run."""

    fix = "Resume from an earlier checkpoint, or start again."


class MergeRefused(BackpropagateError, code="STATE_MERGE_REFUSED"):
    """The factors of an adapter do not fit what it is to be merged with, or are not finite. The state is as before."""

    fix = "Merge adapters of one base model, trained with the same settings, whose loss stayed finite."


class NothingToResume(BackpropagateError, code="STATE_NOTHING_TO_RESUME"):
    """The run is finished, its rows were not kept, or there is none that is unfinished under the output folder."""

    fix = "Start a new run, without --resume, or name another --output."


class ResumeMismatch(BackpropagateError, code="STATE_RESUME_MISMATCH"):
    """Data, model or settings differ from those of the run to resume."""

    fix = "Use the same data, model and settings, start a new run, or go on all the same with --allow-changes."


class RunAlive(BackpropagateError, code="STATE_RUN_ALIVE"):
    """The run is being trained by another process, here or on another machine that shares the folder."""

    fix = "Wait for it to end, or stop that process; then resume."


class LedgerUnusable(BackpropagateError, code="STATE_LEDGER_UNUSABLE"):
    """The ledger of runs cannot be read or written. Training goes on without it; the run folders hold everything."""

    fix = "Make the folder writable, or set BACKPROPAGATE_HOME to another one; a newer ledger needs a newer version."


class RunNotFound(BackpropagateError, code="INPUT_RUN_NOT_FOUND"):
    """What is named is there, but no run that made it is known."""

    fix = "Name a run by its id; `backprop list-runs` shows them."


class RunNotRunning(BackpropagateError, code="INPUT_RUN_NOT_RUNNING"):
    """A run was to be paused, continued or stopped, and no process is training it."""

    fix = "`backprop list-runs --status running` shows those that are; `backprop resume` goes on with one."


class NotReplayable(BackpropagateError, code="INPUT_RUN_NOT_REPLAYABLE"):
    """A run cannot be done again from its record: its data was not a file, or run.lock is missing or damaged."""

    fix = "Save the rows to a file, and train on that file."


class ReplayMismatch(BackpropagateError, code="STATE_REPLAY_MISMATCH"):
    """Data, base model, tokenizer or chat template are not those of the run to replay."""

    fix = "Bring back what is named above, or start a new run with `backprop train`."


class UnknownError(BackpropagateError, code="INPUT_ERROR_UNKNOWN"):
    """An error code that does not exist."""

    fix = "`backprop errors` lists them all."


class UnknownTracker(BackpropagateError, code="CONFIG_TRACKER_UNKNOWN"):
    """A tracker that is not known."""

    fix = "Use --report-to auto, none, or a comma-separated list of tensorboard, wandb, mlflow, trackio."


class TrackerMissing(BackpropagateError, code="DEP_TRACKER_MISSING"):
    """A tracker was asked for by name, but its package is not installed."""

    fix = "Install the package that is named above, or leave the tracker out of --report-to."


class DiskFull(BackpropagateError, code="STATE_DISK_FULL"):
    """The disk has no room for what must be written."""

    fix = "Free some space, or choose an --output on another disk."


Interrupted.exit_code = 130
