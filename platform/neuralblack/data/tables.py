"""Parquet and Arrow files by rows: what they hold, and any part of them without the rest."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuralblack.errors import InputError

TABLES = (".parquet", ".arrow", ".feather")
BATCH = 128  # rows of Parquet unpacked at a time


def holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a column of this type holds bytes, by themselves or as the field `bytes` of a struct."""
    if pa.types.is_struct(kind):  # as Hugging Face's datasets keep images: {bytes, path}
        return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def schema_and_rows(path: Path) -> tuple[pa.Schema, int]:
    """Read what a file says of itself; raises InputError where it is no such table."""
    try:
        if path.suffix.lower() == ".parquet":
            metadata = pq.read_metadata(path)
            return metadata.schema.to_arrow_schema(), metadata.num_rows
        table = _mapped(path)
        return table.schema, table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            path,
            found=f"a table that cannot be read ({type(error).__name__})",
            expected="Parquet or Arrow IPC",
            fix="write it again",
        ) from error


def _mapped(path: Path) -> pa.Table:
    """Open an Arrow file without reading its values; Hugging Face's are streams."""
    with pa.memory_map(str(path)) as file:
        try:
            return pa.ipc.open_file(file).read_all()
        except pa.ArrowInvalid:
            file.seek(0)
            return pa.ipc.open_stream(file).read_all()


def rows_of(path: Path, names: list[str], start: int, count: int) -> Iterator[pa.RecordBatch]:
    """Cut rows out of a table. Of Parquet the row group's earlier rows are unpacked too and dropped."""
    if path.suffix.lower() != ".parquet":
        yield from _mapped(path).select(names).slice(start, count).to_batches()
        return
    with pq.ParquetFile(path) as file:
        at = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if at < start + count and at + rows > start:
                row = at
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=names):
                    first, last = max(start - row, 0), min(start + count - row, batch.num_rows)
                    if first < last:
                        yield batch.slice(first, last - first).select(names)
                    row += batch.num_rows
            at += rows
