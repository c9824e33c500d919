"""What the user named cannot be used: files, rows, models, names, addresses."""

from __future__ import annotations

from .base import BackpropagateError


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


class OllamaNameTaken(BackpropagateError, code="INPUT_OLLAMA_NAME_TAKEN"):
    """Ollama has a model of that name already."""

    fix = "Choose another name, or replace it with --ollama-overwrite."


class OllamaModelMissing(BackpropagateError, code="INPUT_OLLAMA_MODEL_NOT_FOUND"):
    """Ollama has no model of that name."""

    fix = "`backprop ollama list` shows the names."


class AddressUnusable(BackpropagateError, code="INPUT_ADDRESS_UNUSABLE"):
    """Nothing can listen at that address: the port is taken, or the address is not of this machine."""

    fix = "Choose another --port, or 0 for any free one."


class OpenToOthers(BackpropagateError, code="INPUT_HOST_NOT_LOCAL"):
    """A model would be served to the whole network, to everybody who can reach this machine."""

    fix = "Leave --host out, or say that you mean it with --open-to-network; better with --api-key too."


class UploadRefused(BackpropagateError, code="INPUT_UPLOAD_REFUSED"):
    """A file that was sent to the web page is too large, of a kind that is no data, or its name is in use."""

    fix = "Send a .jsonl, .json, .csv, .txt, .md or .parquet file; `backprop ui --upload-limit` allows larger ones."


class NothingToEvaluate(BackpropagateError, code="INPUT_NOTHING_TO_EVALUATE"):
    """There are no rows to evaluate on: none were named, and the run held none out, or they are not as they were."""

    fix = "Give rows with --data FILE, or train with --held-out 0.05."


class TargetNotFound(BackpropagateError, code="INPUT_TARGET_NOT_FOUND"):
    """A name is no file, folder, run or model, or several runs begin with it."""

    fix = "Name a run (`backprop list-runs`), a folder such as ./output, or a model such as smollm2-135m."


class RunNotFound(BackpropagateError, code="INPUT_RUN_NOT_FOUND"):
    """What is named is there, but no run that made it is known."""

    fix = "Name a run by its id; `backprop list-runs` shows them."


class RunNotRunning(BackpropagateError, code="INPUT_RUN_NOT_RUNNING"):
    """A run was to be paused, continued or stopped, and no process is training it."""

    fix = "`backprop list-runs --status running` shows those that are; `backprop resume` goes on with one."


class NotReplayable(BackpropagateError, code="INPUT_RUN_NOT_REPLAYABLE"):
    """A run cannot be done again from its record: its data was not a file, or run.lock is missing or damaged."""

    fix = "Save the rows to a file, and train on that file."


class UnknownError(BackpropagateError, code="INPUT_ERROR_UNKNOWN"):
    """An error code that does not exist."""

    fix = "`backprop errors` lists them all."
