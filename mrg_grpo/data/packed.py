"""Pictures whose bytes lie in a column of a parquet file, as data sets lie on the Hugging Face hub.

An address is the path of the file and the place in it, all counted from 0:
`data/train-00000-of-00002.parquet#row=15,image=0,column=2`. It goes wherever a path goes, and `images.open_image` opens
both.

Deliberate choices:
1. Parquet is read by row group, and a picture costs the group that it is in. The groups used last are kept, KEPT bytes
   of them in a process, so pictures in the order of the file cost each group once.
2. The column is named by its number: what a column may be called has no limit, what an address may hold has.
3. pyarrow is imported where a parquet file is read, and nowhere else.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mrg_grpo.errors import UserError, one_line
from mrg_grpo.files import open_file

KEPT = 2**28
"""Bytes of row groups that a process keeps; one group is kept whatever its size."""
ADDRESS = re.compile(r"(.+)#row=([0-9]{1,12}),image=([0-9]{1,6}),column=([0-9]{1,5})", re.DOTALL)


def address(file: str, row: int, image: int, column: int) -> str:
    """The address of a picture. image: its place where a cell holds a list."""
    return f"{file}#row={row},image={image},column={column}"


def is_packed(name: str) -> bool:
    """Whether an image name is an address, and not the path of a file of its own."""
    return ADDRESS.fullmatch(name) is not None


def split_address(name: str) -> tuple[str, str]:
    """The file that a picture lies in, and the rest of its address; "" where the file is the picture."""
    found = ADDRESS.fullmatch(name)
    return (found.group(1), name[found.end(1) :]) if found else (name, "")


def place(name: str) -> tuple[str, int, int, int]:
    """File, row, image and column of an address."""
    found = ADDRESS.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no address of a picture in a parquet file")
    file, *numbers = found.groups()
    row, image, column = map(int, numbers)
    return file, row, image, column


def read(name: str) -> bytes:
    """The bytes of the picture at an address. Raises OSError for a file or a place in it that cannot be read, and
    UserError where pyarrow is not installed."""
    file, row, image, column = place(name)
    value = _GROUPS.value(file, row, column)
    items = value if isinstance(value, list) else [value]
    item = items[image] if image < len(items) else None
    content = item.get("bytes") if isinstance(item, dict) else item
    if not isinstance(content, bytes):
        raise OSError("there is no picture at this place of the file")
    return content


@contextmanager
def parquet_file(path: str) -> Iterator[Any]:
    """Within: the file as pyarrow opens it. OSError for what is no file or no parquet, whatever pyarrow says; UserError
    where pyarrow is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path}: to read parquet needs pyarrow; pip install 'mrg_grpo[tables]'") from error
    with open_file(path) as file:
        try:
            yield parquet.ParquetFile(file)
        except (OSError, MemoryError, UserError):
            raise
        except Exception as error:  # on damaged bytes a decoder raises whatever its parser trips over
            raise OSError(one_line(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Group:
    """One column of one row group."""

    file: tuple[str, int, int]  # path, time of change and size: a file that is written anew is another
    column: int
    first: int  # row of the file
    values: Any  # pyarrow's ChunkedArray

    def holds(self, file: tuple[str, int, int], row: int, column: int) -> bool:
        return self.file == file and self.column == column and self.first <= row < self.first + len(self.values)


class _Groups:
    """The row groups used last. Threads share it: one of them reads while the others wait, and decode after."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[int, _Group] = OrderedDict()  # by identity, the latest used last

    def value(self, file: str, row: int, column: int) -> Any:
        """A cell in Python's types; OSError."""
        stat = os.stat(file)
        key = (file, stat.st_mtime_ns, stat.st_size)
        with self.lock:
            group = next((one for one in self.kept.values() if one.holds(key, row, column)), None)
            if group is None:
                group = _read_group(key, row, column)
                self.kept[id(group)] = group
            self.kept.move_to_end(id(group))
            while len(self.kept) > 1 and sum(one.values.nbytes for one in self.kept.values()) > KEPT:
                self.kept.popitem(last=False)
            return group.values[row - group.first].as_py()


def _read_group(key: tuple[str, int, int], row: int, column: int) -> _Group:
    with parquet_file(key[0]) as file:
        names, first = file.schema_arrow.names, 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            if row < first + count and column < len(names):
                table = file.read_row_group(number, columns=[names[column]], use_threads=False)
                return _Group(key, column, first, table.column(names[column]))
            first += count
    raise OSError(f"the file has no row {row} or no column {column}")


_GROUPS = _Groups()
