"""A parquet file as a table: its cells row by row, and where the pictures lie that it holds.

Deliberate choice: pictures are not read here. Whether a cell has one, and how many, is told by the paths that lie
beside them and by the counts in the file's footer, and only where these do not say, by the pictures themselves. What
they are is read when they are shown, by their addresses (packed.py).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mrg_grpo.data import records
from mrg_grpo.data.packed import address, parquet_file
from mrg_grpo.data.table_files import Packed, Row, TableFile
from mrg_grpo.errors import UserError

LARGEST = 2**30
"""Bytes of pictures in one row group, all of which one of them costs to read."""


def opened(path: Path, root: Path) -> TableFile:
    """UserError for what is no parquet file, and, when its rows are read, for what is damaged or lies outside the root
    and holds pictures."""
    columns = _read(path, lambda file: list(file.schema_arrow.names))

    def rows(wanted: Sequence[str], images: str) -> Iterator[Row]:
        first = 0
        for number in range(_read(path, lambda file: file.num_row_groups)):
            group = partial(_row_group, number=number, first=first, path=path, root=root, wanted=wanted, images=images)
            cells = _read(path, group)
            for row, values in enumerate(zip(*(cells[name] for name in wanted), strict=True), start=first):
                yield Row(f"{path} row {row}", row, dict(zip(wanted, values, strict=True)))
            first += len(cells[images])

    return TableFile(path, columns, rows)


def _read(path: Path, look: Callable[[Any], Any]) -> Any:
    """What `look` finds in an opened parquet file; UserError where it is none, or damaged."""
    try:
        with parquet_file(str(path)) as file:
            return look(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read as parquet ({error}); fetch it again") from error


def _row_group(
    file: Any, number: int, first: int, path: Path, root: Path, wanted: Sequence[str], images: str
) -> dict[str, list[Any]]:
    """The cells of a row group by column. first: its first row."""
    names = file.schema_arrow.names
    texts = [name for name in wanted if name != images or not _holds_pictures(file, images)]
    table = file.read_row_group(number, columns=texts, use_threads=False)
    cells = {name: table.column(name).to_pylist() for name in texts}
    if images not in cells:
        shown = os.path.relpath(path, root)
        if records.leaves(shown):
            raise UserError(f"{path} holds pictures and lies outside data.root {root}; set data.root to its folder")
        _require_small(file, number, images, path)
        place, pictures = names.index(images), _pictures(file, number, images)
        cells[images] = [
            [
                Packed(address(shown, row, image, place)) if there else name
                for image, (there, name) in enumerate(entries)
                if there or name  # an entry with neither is no picture, as a blank cell is none
            ]
            for row, entries in enumerate(pictures, start=first)
        ]
    return cells


def _holds_pictures(file: Any, column: str) -> bool:
    """Whether a column is of bytes, of {bytes, path} as the Image feature of the hub has them, or of lists of such."""
    from pyarrow import types

    kind = file.schema_arrow.field(column).type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        inner = [kind.field(i).type for i in range(kind.num_fields) if kind.field(i).name == "bytes"]
        return any(types.is_binary(one) or types.is_large_binary(one) for one in inner)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _chunks(file: Any, number: int, column: str) -> list[Any]:
    """The parts that a column has in the file, with their counts: one for each end of a nested type."""
    group = file.metadata.row_group(number)
    parts = [group.column(i) for i in range(group.num_columns)]
    dotted = column in file.schema_arrow.names and "." in column
    return [
        part
        for part in parts
        if part.path_in_schema == column or (not dotted and part.path_in_schema.startswith(f"{column}."))
    ]


def _require_small(file: Any, number: int, column: str, path: Path) -> None:
    size = sum(part.total_uncompressed_size for part in _chunks(file, number, column))
    if size > LARGEST:
        raise UserError(
            f"{path}: row group {number} holds {size / 2**30:.1f} GiB of pictures, all of which one of them costs to "
            "read; write the file anew with row_group_size = 100"
        )


def _pictures(file: Any, number: int, column: str) -> Iterator[Sequence[tuple[bool, str | None]]]:
    """Of each row, its entries: whether there are bytes, and the path beside them."""
    parts = _chunks(file, number, column)
    content = next((part for part in parts if part.path_in_schema.endswith(".bytes")), parts[0])
    counts, rows = content.statistics, file.metadata.row_group(number).num_rows
    there = content.num_values - counts.null_count if counts is not None and counts.has_null_count else None
    if content.path_in_schema == column and there == rows:  # bytes in every row, neither in a list nor with a path
        yield from ([(True, None)] for _ in range(rows))
        return
    beside = content.path_in_schema.removesuffix(".bytes") + ".path"
    if there is not None and any(part.path_in_schema == beside for part in parts):
        cells = [_entries(cell) for cell in _column(file, number, beside, column).to_pylist()]
        if there == sum(entry is not None for cell in cells for entry in cell):
            yield from ([(True, entry["path"]) for entry in cell] for cell in cells)
            return
    for value in _column(file, number, column, column):
        yield [_there(entry) for entry in _entries(value.as_py())]


def _column(file: Any, number: int, part: str, column: str) -> Any:
    return file.read_row_group(number, columns=[part], use_threads=False).column(column)


def _entries(cell: Any) -> list[Any]:
    return cell if isinstance(cell, list) else [] if cell is None else [cell]


def _there(entry: Any) -> tuple[bool, str | None]:
    if isinstance(entry, dict):
        return isinstance(entry.get("bytes"), bytes), entry.get("path")
    return entry is not None, None
