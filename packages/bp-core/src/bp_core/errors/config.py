"""Settings that are wrong, clash, or cannot be had on this machine."""

from __future__ import annotations

from .base import BackpropagateError


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


class UiAuthRequired(BackpropagateError, code="CONFIG_UI_AUTH_REQUIRED"):
    """The web page would be open to others without a password, or the password would travel unprotected."""

    fix = "Set BACKPROPAGATE_UI_AUTH to name:password, or give --auth to be asked; or leave --share out."


class PeersDiffer(BackpropagateError, code="CONFIG_PEERS_DIFFER"):
    """The processes that a launcher started for one run do not have the same data, model or version."""

    fix = "Give all of them the same command line, and all machines the same files and versions."


class UnknownTracker(BackpropagateError, code="CONFIG_TRACKER_UNKNOWN"):
    """A tracker that is not known."""

    fix = "Use --report-to auto, none, or a comma-separated list of tensorboard, wandb, mlflow, trackio."
