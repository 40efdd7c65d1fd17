"""Manifests: what lists the pictures to make. A file is read line by line, so it may be as long as a disk holds.

| manifest            | a line is                                                               |
|---------------------|-------------------------------------------------------------------------|
| .csv, .tsv          | a row; the first one names the columns                                  |
| .jsonl, .ndjson     | an object, or a line of an OpenAI batch                                 |
| .parquet            | a row                                                                   |
| a folder            | a picture in it or below, with the prompt in NAME.txt if that is there  |
"""

import csv
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ssd1b_jax import files, openai_batch
from ssd1b_jax.errors import Error, RequestError, RunError, first_line
from ssd1b_jax.runs import columns, openai

MAX_LINE = 256 << 20  # bytes; an OpenAI line may have pictures in base64
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".tga", ".ico")
DELIMITERS = ",;\t"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `where` names it for people, `values` are by what their columns mean, or `error` tells what is wrong.

    `image` is the picture's name as the manifest has it, None where it has none.
    """

    number: int
    where: str
    values: dict[str, Any] = field(default_factory=dict)
    image: str | None = None
    error: Error | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that can be read again and again. Manifests of equal `sha256` list the same."""

    path: Path
    lines: Callable[[], Iterator[Line]]
    sha256: str


def read(path: str | Path, *, ignored: Collection[str] = (), without: Path | None = None) -> Manifest:
    """Open a manifest; columns that are `ignored` are left out, and of a folder what lies below `without`.

    Raises RunError for a manifest that can't be used at all. What is wrong with a line is told by the line.
    """
    path = Path(path)
    if path.is_dir():
        lines = partial(_pictures, path, without)
        return Manifest(path=path, lines=lines, sha256=_digest_of_lines(lines()))
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise RunError(f"a manifest is a folder or ends in {', '.join(KINDS)}, got {str(path)!r}")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    return Manifest(path=path, lines=kind(path, ignored), sha256=sha256)


def _line(number: int, where: str, sent: Any, folder: Path, meanings=None, ignored: Collection[str] = ()) -> Line:
    """A line of what a manifest has: an object, whose names mean what `meanings` tells or else are looked up."""
    name, image = where, None
    try:
        if not isinstance(sent, dict):
            raise RequestError(f"a line must be an object with settings, got {type(sent).__name__}")
        if openai_batch.is_call(sent):
            sent = openai.settings_of(sent)
        if meanings is None:
            meanings = columns.columns(sent, ignored)
        image = next((sent.get(name) for name, meaning in meanings.items() if meaning == "image"), None)
        values = columns.read(sent, meanings, folder)
        if "id" in values:
            name = f"{where} ({values['id'][: columns.MAX_QUOTE]})"
    except Error as error:
        return Line(number=number, where=where, error=error)
    return Line(number=number, where=name, values=values, image=_name_of(image))


def _name_of(image: Any) -> str | None:
    if isinstance(image, dict):
        image = image.get("path")
    return image if isinstance(image, str) and not image.startswith("data:") else None


def _csv(path: Path, ignored: Collection[str]) -> Callable[[], Iterator[Line]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        head = file.readline(MAX_LINE)
    delimiter = max(DELIMITERS, key=head.count)
    names = next(csv.reader([head], delimiter=delimiter), [])
    if not names:
        raise RunError(f"{path} is empty: its first line must name the columns")
    try:
        meanings = columns.columns(names, ignored)
    except RequestError as error:
        raise RunError(f"{path}, line 1: {error}") from None
    return partial(_csv_lines, path, delimiter, names, meanings)


def _csv_lines(path: Path, delimiter: str, names: list[str], meanings: dict[str, str]) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        next(rows)
        while True:
            number = rows.line_num + 1
            where = f"line {number}"
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield Line(number=number, where=where, error=RequestError(f"is no row of a CSV file: {error}"))
                continue
            if row is None:
                return
            if not any(row):
                continue
            if len(row) != len(names):
                fault = f"has {len(row)} cells, and the first line has {len(names)}: quote cells that have commas"
            elif not _is_text("".join(row)):
                fault = "is not in UTF-8: save the file in that encoding"
            else:
                yield _line(number, where, dict(zip(names, row, strict=True)), path.parent, meanings)
                continue
            yield Line(number=number, where=where, error=RequestError(fault))


def _is_text(text: str) -> bool:
    """Whether there is nothing in it that was no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _jsonl(path: Path, ignored: Collection[str]) -> Callable[[], Iterator[Line]]:
    return partial(_json_lines, path, ignored)


def _json_lines(path: Path, ignored: Collection[str]) -> Iterator[Line]:
    with path.open("rb") as file:
        number = 0
        while data := file.readline(MAX_LINE):
            number += 1
            if not data.strip():
                continue
            where = f"line {number}"
            try:
                sent = files.parse_json(data.removeprefix(b"\xef\xbb\xbf"))
            except ValueError as error:
                yield Line(number=number, where=where, error=RequestError(f"is not readable JSON: {error}"))
                continue
            yield _line(number, where, sent, path.parent, ignored=ignored)


def _parquet(path: Path, ignored: Collection[str]) -> Callable[[], Iterator[Line]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise RunError("a .parquet manifest needs pyarrow: run pip install 'ssd1b_jax[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
        meanings = columns.columns(names, ignored)
    except (ArrowException, OSError, RequestError) as error:
        raise RunError(f"{path}: {first_line(error)}") from None
    return partial(_parquet_rows, path, meanings)


def _parquet_rows(path: Path, meanings: dict[str, str]) -> Iterator[Line]:
    from pyarrow import parquet

    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64, columns=[*meanings]):
            for row in batch.to_pylist():
                number += 1
                yield _line(number, f"row {number}", row, path.parent, meanings)


def _pictures(folder: Path, without: Path | None) -> Iterator[Line]:
    """The pictures of a folder in the order of their names, folder by folder."""
    number = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if without is not None:
            folders[:] = [name for name in folders if not _is_same(Path(parent, name), without)]
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(PICTURES):
                continue
            number += 1
            path = Path(parent, name)
            shown = path.relative_to(folder).as_posix()
            try:
                values = dict(image=str(path)) | _prompt(path.with_suffix(".txt"))
            except (OSError, UnicodeDecodeError) as error:
                fault = RequestError(f"its prompt {path.with_suffix('.txt')} cannot be read: {error}")
                yield Line(number=number, where=shown, error=fault)
                continue
            yield Line(number=number, where=shown, values=values, image=shown)


def _prompt(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return dict(prompt=" ".join(path.read_text(encoding="utf-8-sig").split()))


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _digest_of_lines(lines: Iterator[Line]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line.where}\0{line.values.get('prompt', line.error)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


KINDS = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
}
