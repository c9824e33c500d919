"""Text files, plain or compressed, decoded: as lines, or as chunks of text."""

from __future__ import annotations

import codecs
import difflib
import gzip
import importlib
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bp_core.errors import FileMissing, FileTooLarge, FileUnreadable, PackageMissing

from .context import Context

Lines = Iterator[tuple[int, str]]  # line numbers from 1, and lines with their line feeds
STDIN = "-"
_HEAD = 8192  # bytes looked at before reading
_CHUNK = 1 << 16
_UTF8 = (codecs.BOM_UTF8, "utf-8")
_MARKS = (_UTF8, (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DOWNLOAD = "Download the file again; this one is not what its name says, or was cut off."
# What a file really is, by its first bytes, and what to do about it.
_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data itself", "Fetch the data: git lfs pull"),
    (b"\x1f\x8b", "gzip-compressed", "Rename it so that it ends in .gz, after the ending of what is inside."),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "Rename it so that it ends in .zst, after the ending of what is inside."),
    (b"PAR1", "a parquet file", "Rename it so that it ends in .parquet."),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "Unpack the archive, or save the sheet as CSV (UTF-8)."),
    (b"%PDF", "a PDF", "Save its text as .txt."),
    (b"ARROW1", "an Arrow file", "Rename it so that it ends in .arrow."),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV."),
)
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)
_PAGE_FIX = "Download the file itself; on the hub and on GitHub that is the link 'raw' or 'download'."


class TextFile:
    """An open text file: UTF-8, or UTF-16 with its mark. Its lines end with a line feed, or all with a carriage return,
    because JSON strings may contain U+2028 and the like."""

    def __init__(self, stream: io.BufferedReader, path: Path, context: Context) -> None:
        self._stream, self._path, self._context = stream, path, context
        self._start = stream.peek(_HEAD)[:_HEAD]
        mark, self._encoding = next((pair for pair in _MARKS if self._start.startswith(pair[0])), (b"", "utf-8"))
        stream.read(len(mark))
        self._start = self._start.removeprefix(mark)

    @property
    def beginning(self) -> str:
        """The first characters after white space, to tell kinds of text apart; "" for an empty file."""
        return self._start.decode(self._encoding, errors="ignore").lstrip()

    def require_rows(self) -> None:
        """Raises FileUnreadable if the file is a web page."""
        if _WEB_PAGE.match(self._start):
            raise FileUnreadable("this is a web page, not a data file.", where=place(self._path), fix=_PAGE_FIX)

    def require_text(self) -> None:
        """Raises FileUnreadable if the file is of another kind by its first bytes."""
        for start, name, fix in _OTHER_FILES:
            if self._start.startswith(start):
                raise FileUnreadable(f"this file is {name}.", where=place(self._path), fix=fix)

    def lines(self) -> Lines:
        """The lines. `context.fault` gets the errors of those that cannot be decoded, or are too long."""
        ends_with_return = b"\r" in self._start[:-1] and b"\n" not in self._start
        if self._encoding == "utf-8" and not ends_with_return:
            return self._utf8_lines()
        return self._wrapped_lines("\r" if ends_with_return else "\n")

    def chunks(self) -> Iterator[str]:
        """The text in pieces. `context.fault` gets FileUnreadable where it cannot be decoded; then it ends."""
        decoder = codecs.getincrementaldecoder(self._encoding)()
        try:
            while data := self._stream.read(_CHUNK):
                yield decoder.decode(data)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            self._context.fault(FileUnreadable(self._wrong(error), where=place(self._path)))

    def _utf8_lines(self) -> Lines:
        longest = self._context.row_bytes
        number = 0
        while line := self._stream.readline(longest + 1):
            number += 1
            if len(line) > longest:
                self._skip_line(line)
                self._context.fault(too_large(f"{place(self._path)}:{number}", self._context))
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                self._context.fault(FileUnreadable(self._wrong(error), where=f"{place(self._path)}:{number}"))
            else:
                yield number, text

    def _skip_line(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_CHUNK)

    def _wrapped_lines(self, newline: str) -> Lines:
        number, longest = 0, self._context.row_bytes
        with io.TextIOWrapper(self._stream, self._encoding, newline=newline) as text:
            try:
                while line := text.readline(longest + 1):
                    number += 1
                    if len(line) > longest:
                        raise too_large(f"{place(self._path)}:{number}", self._context)
                    yield number, line.removesuffix(newline) + "\n" if line.endswith(newline) else line
            except UnicodeDecodeError as error:
                where = f"{place(self._path)}:{number + 1}"
                self._context.fault(FileUnreadable(self._wrong(error), where=where))

    def _wrong(self, error: UnicodeDecodeError) -> str:
        if self._encoding == "utf-8":
            return f"the file is not UTF-8 text ({error.reason})."
        return f"the file is not UTF-16 text, as its first bytes say ({error.reason})."


@contextmanager
def opened(path: Path, context: Context) -> Iterator[TextFile]:
    """A text file, plain, .gz or .zst, or standard input for "-".

    Raises FileMissing, FileUnreadable, FileTooLarge, PackageMissing, when it is opened or while it is read.
    """
    with _stream(path, context) as stream:
        file = TextFile(stream, path, context)
        file.require_text()
        yield file


def refuse_pointer(path: Path) -> None:
    """Raises FileUnreadable for a file that is not there itself, but a Git LFS pointer to it."""
    with path.open("rb") as file:
        start = file.read(64)
    pointer, name, fix = _OTHER_FILES[0]
    if start.startswith(pointer):
        raise FileUnreadable(f"this file is {name}.", where=place(path), fix=fix)


def place(path: Path) -> str:
    """The file's name in messages."""
    return "stdin" if str(path) == STDIN else str(path)


def too_large(where: str, context: Context) -> FileTooLarge:
    """The error for a row above the limit."""
    largest = context.config.max_row
    fix = f"If you trust the data: --max-row {4 * largest:g}"
    return FileTooLarge(f"this row is larger than --max-row {largest:g} (MiB).", where=where, fix=fix)


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
    """Turn exceptions of opening and reading a file into ours; `errors` are those of a format that it does not have."""
    broken: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error, *errors)
    try:
        yield
    except FileNotFoundError as error:
        raise missing(path) from error
    except broken as error:
        message = f"the file cannot be read ({_one_line(error)})."
        raise FileUnreadable(message, where=place(path), fix=_DOWNLOAD) from error
    except OSError as error:
        message = f"the file cannot be read ({error.strerror or _one_line(error)})."
        fix = "Check that it is a file, and its permissions."
        raise FileUnreadable(message, where=place(path), fix=fix) from error


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _stream(path: Path, context: Context) -> Iterator[io.BufferedReader]:
    if str(path) == STDIN:
        with reading(path):
            yield sys.stdin.buffer if isinstance(sys.stdin.buffer, io.BufferedReader) else _buffered(sys.stdin.buffer)
    elif path.suffix.lower() == ".zst":
        zstandard = optional("zstandard", "zst", path)
        with reading(path, zstandard.ZstdError), path.open("rb") as file:
            expanded = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            yield _buffered(_Bounded(expanded, path, context))
    elif path.suffix.lower() == ".gz":
        with reading(path), gzip.open(path) as file:
            yield _buffered(_Bounded(file, path, context))
    else:
        with reading(path), path.open("rb") as plain:
            yield plain


def _buffered(stream: Any) -> io.BufferedReader:
    return io.BufferedReader(stream, _CHUNK)


class _Bounded(io.RawIOBase):
    """A decompressed stream that raises FileTooLarge beyond the limit."""

    def __init__(self, stream: Any, path: Path, context: Context) -> None:
        self._inner, self._path, self._config = stream, path, context.config
        self._left = self._limit = context.expanded_bytes(path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._inner.readinto(buffer))
        self._left -= count
        if self._left < 0:
            raise expanded_too_far(self._limit, self._path, self._config.max_expanded, self._config.max_ratio)
        return count


def expanded_too_far(limit: int, path: Path, largest: float, ratio: float) -> FileTooLarge:
    """The error for a file that expands to more than it may."""
    by_size = limit >= int(largest * 2**30)
    which = f"--max-expanded {largest:g} (GiB)" if by_size else f"--max-ratio {ratio:g}"
    more = f"--max-expanded {4 * largest:g}" if by_size else f"--max-ratio {10 * ratio:g}"
    message = f"it expands to more than {limit} bytes, the limit by {which}."
    return FileTooLarge(message, where=str(path), fix=f"If you trust the file: {more}")


def _near(path: Path) -> str:
    names: Iterable[str] = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, list(names), 1)
    return f" Did you mean {near[0]!r}?" if near else ""
