"""llama.cpp's C functions, called through ctypes: load, tokenise, decode, logits.

The library is the one inside xllamacpp's extension module, which exports them on Linux and macOS; on Windows, where
that module exports nothing, it is llama-cpp-py-sync's llama.dll. Of its settings only the first fields are named here,
which have not moved since 2024; a check makes sure of it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_bool, c_char, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from pathlib import Path

import numpy as np

from .engine import library_file

_ROOM = 1024  # bytes for the settings whose layout is not known here; they are passed last, so more is no harm
_USUAL = (2048, 512)  # llama.cpp's own n_batch and n_ubatch, by which their places are known to be right
_PIECE = 64  # bytes that nearly every token fits


class _ModelSettings(Structure):
    _fields_ = (("devices", c_void_p), ("buffers", c_void_p), ("n_gpu_layers", c_int32), ("rest", c_char * _ROOM))


class _ContextSettings(Structure):
    _fields_ = (("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32), ("rest", c_char * _ROOM))


class _Batch(Structure):
    """Positions and sequence are left to llama.cpp: one sequence, each token behind the last."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),
    )


_FUNCTIONS = {
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (_ModelSettings, ()),
    "llama_context_default_params": (_ContextSettings, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, _ModelSettings)),
    "llama_init_from_model": (c_void_p, (c_void_p, _ContextSettings)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_n_batch": (c_uint32, (c_void_p,)),
    "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_decode": (c_int32, (c_void_p, _Batch)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
}


def load_library() -> ctypes.CDLL:
    """The library with its functions declared. Raises RuntimeError if its settings lie elsewhere than expected."""
    library = ctypes.CDLL(str(library_file()))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    usual = library.llama_context_default_params()
    if (usual.n_batch, usual.n_ubatch) != _USUAL:
        raise RuntimeError("this version of llama.cpp keeps its settings in another order")
    return library


class Model:
    """One loaded model with its context and vocabulary. All work is done on the CPU unless `gpu`."""

    def __init__(self, library: ctypes.CDLL, path: str, context: int, batch: int, gpu: bool, threads: int) -> None:
        self._library = library
        settings = library.llama_model_default_params()
        settings.n_gpu_layers = -1 if gpu else 0
        name = path.encode("utf-8") if sys.platform == "win32" else bytes(Path(path))
        model = library.llama_model_load_from_file(name, settings)
        if not model:
            raise RuntimeError("the model could not be loaded")
        self._vocabulary = library.llama_model_get_vocab(model)
        places = library.llama_context_default_params()
        places.n_ctx, places.n_batch, places.n_ubatch = context, batch, batch
        self._context = library.llama_init_from_model(model, places)
        if not self._context:
            raise RuntimeError("there is no memory for a context of that size")
        library.llama_set_n_threads(self._context, threads, threads)
        self.words = int(library.llama_vocab_n_tokens(self._vocabulary))
        self.length = int(library.llama_n_ctx(self._context))
        self.batch = int(library.llama_n_batch(self._context))

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        encoded = text.encode()
        room = len(encoded) + 8  # a token is a byte or more, but for those around the text
        tokens = (c_int32 * room)()
        count = self._library.llama_tokenize(
            self._vocabulary, encoded, len(encoded), tokens, room, add_special, parse_special
        )
        if count < 0:
            raise RuntimeError("the text has more tokens than bytes")
        return list(tokens[:count])

    def clear(self) -> None:
        """Forget what was decoded so far."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def decode(self, tokens: Sequence[int], *, every: bool) -> np.ndarray:
        """Go on with these tokens; the logits of `every` one or of the last, float32 [rows, words]."""
        count = len(tokens)
        wanted = (c_int8 * count)(*[int(every)] * (count - 1), 1)
        batch = _Batch(n_tokens=count, token=(c_int32 * count)(*tokens), logits=wanted)
        if code := self._library.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode ended with {code}")
        rows = count if every else 1
        logits = np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (rows, self.words))
        return logits.copy()

    def ends(self, token: int) -> bool:
        """Whether a token ends the model's turn."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for, perhaps a part of a character."""
        count = -_PIECE
        for _ in range(2):  # the second time with the room that llama.cpp says it needs
            size = -count
            buffer = ctypes.create_string_buffer(size)
            count = int(self._library.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, False))
            if count >= 0:
                return buffer.raw[:count]
        raise RuntimeError(f"token {token} has no text")
