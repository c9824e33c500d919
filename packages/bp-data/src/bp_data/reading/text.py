"""Text files, plain or compressed, as decoded lines."""

from __future__ import annotations

import difflib
import gzip
import importlib
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

from bp_core.errors import BackpropagateError, FileMissing, FileUnreadable, PackageMissing

Lines = Iterator[tuple[int, str]]  # line numbers from 1, and lines with their line feeds
Fault = Callable[[BackpropagateError], None]  # gets the error of a broken part; if it returns, reading continues
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_UTF8 = b"\xef\xbb\xbf"
STDIN = "-"


def strict(error: BackpropagateError) -> None:
    """The default Fault: raise the first error."""
    raise error


def lines(path: Path, fault: Fault = strict) -> Lines:
    """The lines of a text file, plain, .gz or .zst, or of standard input for "-"; UTF-8, or UTF-16 with its mark.

    Only a line feed ends a line, because JSON strings may contain U+2028 and the like. `fault` gets FileUnreadable for
    a line that cannot be decoded. Raises FileMissing, FileUnreadable, PackageMissing.
    """
    with _opened(path) as stream:
        start = stream.peek(3)[:3]
        if start[:2] in _UTF16:
            yield from _utf16(stream, _UTF16[start[:2]], path, fault)
            return
        if start == _UTF8:
            stream.read(3)
        yield from _utf8(stream, path, fault)


def place(path: Path) -> str:
    """The file's name in messages."""
    return "stdin" if str(path) == STDIN else str(path)


def optional(module: str, extra: str, path: Path) -> ModuleType:
    """Import an optional package that a kind of file needs. Raises PackageMissing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        fix = f'Install it: pip install "bp-data[{extra}]".'
        raise PackageMissing(f"reading this file needs {package}.", where=str(path), fix=fix) from error


def missing(path: Path) -> FileMissing:
    """The error for a missing file, with a similar name if there is one."""
    return FileMissing("there is no such file." + _near(path), where=str(path))


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn exceptions of opening and reading a file, `errors` included, into ours."""
    caught: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *errors)
    try:
        yield
    except FileNotFoundError as error:
        raise missing(path) from error
    except caught as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise FileUnreadable(f"the file cannot be read ({reason}).", where=place(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    if str(path) == STDIN:
        with reading(path):
            yield _buffered(sys.stdin.buffer)
    elif path.suffix.lower() == ".zst":
        zstandard = optional("zstandard", "zst", path)
        with reading(path, zstandard.ZstdError), path.open("rb") as file:
            yield _buffered(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    elif path.suffix.lower() == ".gz":
        with reading(path), gzip.open(path) as file:
            yield _buffered(cast(IO[bytes], file))
    else:
        with reading(path), path.open("rb") as file:
            yield file


def _buffered(stream: Any) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)


def _utf8(stream: io.BufferedReader, path: Path, fault: Fault) -> Lines:
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            fault(FileUnreadable(f"the file is not UTF-8 text ({error.reason}).", where=f"{place(path)}:{number}"))
        else:
            yield number, text


def _utf16(stream: io.BufferedReader, encoding: str, path: Path, fault: Fault) -> Lines:
    stream.read(2)
    number = 0
    try:
        with io.TextIOWrapper(stream, encoding, newline="\n") as text:
            for number, line in enumerate(text, 1):
                yield number, line
    except UnicodeDecodeError as error:
        message = f"the file is not UTF-16 text, as its first bytes say ({error.reason})."
        fault(FileUnreadable(message, where=f"{place(path)}:{number + 1}"))


def _near(path: Path) -> str:
    names: Iterable[str] = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, list(names), 1)
    return f" Did you mean {near[0]!r}?" if near else ""
