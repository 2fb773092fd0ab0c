"""Rows of a table beside images: ``metadata.jsonl``, ``.csv`` or ``.parquet``, as HuggingFace's ``imagefolder`` has them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.sdgan.data.dataset import DataError
from examples.sdgan.data.reading import is_file, read_bytes, read_text

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE, CAPTIONS, SPLIT, LABEL = "file_name", ("text", "caption", "captions"), "split", "label"


@dataclass(frozen=True)
class Row:
    """An image of a table.

    Args:
        where: the table and the row, for messages.
        file: name relative to the table's folder.
        captions: of this row, one or more.
        split, label: as the table has them, ``None`` without such a column.
    """

    where: str
    file: str
    captions: tuple[str, ...]
    split: str | None
    label: str | None


def table_of(folder: Path) -> Path | None:
    """The table of a folder, where it has one.

    Raises:
        DataError: it has several.
    """
    found = [folder / name for name in NAMES if is_file(folder / name)]
    if len(found) > 1:
        raise DataError(f"{folder}: has {' and '.join(path.name for path in found)}; leave one of them")
    return found[0] if found else None


def rows(path: Path) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        DataError: it cannot be read, lacks a column, or a row is no image with a caption; the message names the row.
    """
    records = {".jsonl": _of_jsonl, ".csv": _of_csv, ".parquet": _of_parquet}[path.suffix](path)
    column: str | None = None
    for where, record in records:
        if column is None:
            column = _caption_column(path, list(record))
        if any(value not in (None, "") for value in record.values()):  # spreadsheets end in empty rows
            yield _row(where, record, column)
    if column is None:
        raise DataError(f"{path}: holds no rows; expected one an image, with {FILE} and {CAPTIONS[0]}")


def _caption_column(path: Path, columns: list[str]) -> str:
    found = [name for name in CAPTIONS if name in columns]
    shown = ", ".join(map(repr, columns[:8]))
    if FILE not in columns:
        raise DataError(f"{path}: has no column {FILE!r} with the images' names; its columns are {shown}")
    if len(found) != 1:
        what = (
            f"no column of captions ({', '.join(CAPTIONS)})"
            if not found
            else f"several columns of captions, {found}"
        )
        raise DataError(f"{path}: has {what}; its columns are {shown}")
    return found[0]


def _row(where: str, record: dict[str, Any], column: str) -> Row:
    file, told = record.get(FILE), record.get(column)
    if not isinstance(file, str) or not file.strip():
        raise DataError(f"{where}: {FILE} must be the name of an image, got {file!r:.80}")
    if isinstance(told, str) and column == CAPTIONS[2] and told.lstrip().startswith("["):
        told = _list(where, told)
    captions = [] if told is None else [told] if isinstance(told, str) else told
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: {column} must be a caption or a list of captions, got {told!r:.80}")
    return Row(where, file.strip(), tuple(captions), _text(record.get(SPLIT)), _text(record.get(LABEL)))


def _list(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {text!r:.60} begins as a list in JSON, but is none ({error})") from error


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value).strip() or None


def _of_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not at letters that JSON may hold
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}); each line is an object with {FILE} and text") from error
        if not isinstance(record, dict):
            raise DataError(f"{where}: must be an object with {FILE} and text, got {record!r:.60}")
        yield where, record


def _of_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    head = text.partition("\n")[0]
    # Spreadsheets write what separates by the country they are set to.
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}: has two columns {twice!r}")
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record:
                raise DataError(
                    f"{where}: has more columns than the first line; a caption with {delimiter!r} in it must be in quotes"
                )
            yield where, {str(name).strip(): value for name, value in record.items()}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _of_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading it takes pyarrow (pip install pyarrow), or save it as metadata.csv"
        ) from error
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(read_bytes(path)))
        names = [name for name in (FILE, *CAPTIONS, SPLIT, LABEL) if name in table.column_names]
        if FILE not in names or not {*CAPTIONS} & {*names}:
            names = table.column_names  # for the message that says what is missing
            table = table.slice(0, 1).drop_columns(
                [n for n in names if pyarrow.types.is_nested(table.schema.field(n).type)]
            )
        else:
            table = table.select(names)
        records = table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error
    for number, record in enumerate(records, 1):
        yield f"{path}, row {number}", record
