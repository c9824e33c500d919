"""From a path, a pattern or a folder to the data files that are meant."""

from __future__ import annotations

import glob
import itertools
from pathlib import Path

from bp_core.errors import FileEmpty, FileUnreadable

from .arrow import data_files
from .context import Context, Remark
from .splits import part_to_read, split_named, tell_others
from .text import STDIN, missing

JSON = {".json", ".jsonl", ".ndjson"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PROSE = {".txt", ".md"}
PARQUET = ".parquet"
ARROW = {".arrow", ".feather"}
_ROWS = {*JSON, *DELIMITERS, PARQUET, *ARROW}
_COMPRESSED = {".gz", ".zst"}
FIX = "Save the data as .jsonl (one JSON object a line), .json, .csv, .tsv, .parquet, .txt or .md."
_WORKBOOK_FIX = "Save the sheet as CSV (UTF-8) in the spreadsheet program, and name that file."
_WORKBOOKS = {".xlsx", ".xls", ".xlsm", ".ods", ".numbers"}
# Files that lie beside data and describe them.
_BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"}
_BESIDE_STEMS = {"readme", "license", "licence", "changelog", "citation", "notice", "datasheet", "contributing"}
_BESIDE_SUFFIXES = {".py", ".sh", ".yaml", ".yml", ".lock", ".cff"}


def files_of(path: Path, context: Context) -> list[Path]:
    """The data files that a path, a folder or a pattern such as data/*.jsonl stands for.

    Of a folder with train, validation and test files only those for training, or for evaluating. Raises FileMissing,
    FileUnreadable.
    """
    if str(path) == STDIN or path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path, context)
    if is_pattern(path):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for each in found for file in ([each] if each.is_file() else _in_folder(each, context))]
        if found and not files:
            raise FileEmpty("the folders that it stands for have no data files.", where=str(path))
        if files:
            return _of_one_part(files, _before_pattern(path), context)
    raise missing(path)


def is_pattern(path: Path) -> bool:
    """Whether the path has signs that stand for several names, and is no file or folder itself."""
    return glob.has_magic(str(path)) and not path.exists()


def _before_pattern(path: Path) -> Path:
    """The folder in which the pattern begins."""
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    return Path(*fixed)


def suffix_of(path: Path) -> str:
    """The suffix of the contents: .jsonl for rows.jsonl.gz."""
    name = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    suffix = name.suffix.lower()
    return suffix + path.suffix.lower() if suffix == PARQUET and name != path else suffix


def unreadable_type(path: Path) -> FileUnreadable:
    """The error for a file of a type that is not read."""
    suffix = suffix_of(path)
    kind = suffix or "without an ending"
    fix = _WORKBOOK_FIX if suffix in _WORKBOOKS else FIX
    return FileUnreadable(f"files of type {kind} are not read.", where=str(path), fix=fix)


def _in_folder(folder: Path, context: Context) -> list[Path]:
    """The data files in a folder, subfolders included, hidden files not. Raises FileUnreadable for other files."""
    saved = data_files(folder)
    if saved is not None:
        return saved
    every = sorted(file for file in folder.rglob("*") if file.is_file())
    files = [file for file in every if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    beside = [file for file in files if _describes(file)]
    data = [file for file in files if file not in beside]
    _require_data(folder, data)
    has_rows = any(suffix_of(file) not in PROSE for file in data)
    if beside and (has_rows or not data):
        context.tell(Remark("left-out-file", str(folder), f"not read, for they describe data: {_some(folder, beside)}"))
    elif beside:  # a folder of texts, in which a README is one too
        data = sorted([*data, *(file for file in beside if suffix_of(file) in PROSE)])
    return _of_one_part(_saved_parts(data), folder, context)


def _saved_parts(files: list[Path]) -> list[Path]:
    """The files without those in a saved data set that are only a cache of it."""
    folders = {file.parent for file in files if suffix_of(file) in ARROW}
    kept = {folder: data_files(folder) for folder in folders}
    return [file for file in files if kept.get(file.parent) is None or file in (kept[file.parent] or ())]


def _describes(file: Path) -> bool:
    name = file.name.lower()
    stem = name.partition(".")[0]
    return name in _BESIDE or stem in _BESIDE_STEMS or file.suffix.lower() in _BESIDE_SUFFIXES


def _require_data(folder: Path, files: list[Path]) -> None:
    """Raises FileUnreadable for files that are not data, or for texts among rows."""
    unknown = [file for file in files if suffix_of(file) not in _ROWS | PROSE]
    if unknown:
        workbook = any(suffix_of(file) in _WORKBOOKS for file in unknown)
        fix = _WORKBOOK_FIX if workbook else f"Move it out of the folder, or name one file. {FIX}"
        message = f"the folder holds files that are not data: {_some(folder, unknown)}."
        raise FileUnreadable(message, where=str(folder), fix=fix)
    prose = [file for file in files if suffix_of(file) in PROSE]
    if prose and len(prose) < len(files):
        message = f"the folder holds rows, and also texts that may only describe them: {_some(folder, prose)}."
        raise FileUnreadable(message, where=str(folder), fix="Move the one or the other out, or name one file.")


def _of_one_part(files: list[Path], folder: Path, context: Context) -> list[Path]:
    """The files for training, or for evaluating, by their names. Raises FileUnreadable if none are for training."""
    kept = part_to_read({file: _split_of(file, folder) for file in files}, context.evaluating)
    others = [file for file in files if file not in kept]
    if others and not kept:
        message = f"the folder has files to evaluate on, but none to train on: {_some(folder, others)}."
        raise FileUnreadable(message, where=str(folder), fix="Name the file to train on.")
    tell_others([str(file) for file in others], str(folder), context)
    return kept


def _split_of(file: Path, folder: Path) -> str | None:
    parts = file.relative_to(folder).parts if file.is_relative_to(folder) else (file.name,)
    stem = parts[-1].removesuffix(file.suffix)
    splits = [split_named(part) for part in (stem, *parts[:-1])]
    return next((split for split in splits if split), None)


def _some(folder: Path, files: list[Path]) -> str:
    names = [str(file.relative_to(folder) if file.is_relative_to(folder) else file) for file in files]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
