"""Tables written by other means than the readers under test: the csv module, json, and pyarrow."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""The Image feature of the Hugging Face hub as it lies in a parquet file."""
PICTURES = {
    "image": IMAGE, "images": pa.list_(IMAGE), "bytes": pa.binary(), "list of bytes": pa.list_(pa.binary()),
}  # fmt: skip


def write(
    path: Path, rows: list[dict], group: int = 7, kind: pa.DataType | None = None, column: str = "images"
) -> Path:
    """The rows as a file of the kind that its name ends in. kind: of the parquet column of images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        schema = pa.Table.from_pylist(rows).schema
        if kind is not None:
            schema = schema.set(schema.get_field_index(column), pa.field(column, kind))
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def picture(kind: str, contents: list[bytes]) -> object:
    """A cell of one of PICTURES."""
    if kind == "image":
        return {"bytes": contents[0], "path": "a.png"}
    if kind == "images":
        return [{"bytes": content, "path": None} for content in contents]
    return contents if kind == "list of bytes" else contents[0]
