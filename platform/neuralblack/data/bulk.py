"""What a bulk run reads: a folder of files, tables with a column of file bytes, a prepared dataset, or its shards.

It is cut into shards that are the same every time, so that an interrupted run knows what it has done already.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from neuralblack.data.crops import box_at
from neuralblack.data.dataset import SLICES, Dataset, is_dataset, open_dataset
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.readers import READERS, file_bytes, reader_for
from neuralblack.data.shards import MANIFEST as SHARDS
from neuralblack.data.shards import ShardedImages, scattered
from neuralblack.data.slices import Prepared
from neuralblack.data.tables import TABLES, holds_bytes, rows_of, schema_and_rows
from neuralblack.data.walk import check_name, files_below
from neuralblack.errors import InputError
from neuralblack.files import digest, is_address

COLUMNS = ("bytes", "image", "jpeg")  # looked for in this order where no column is named
SHARD = 128  # items at most: 8 MiB of pixels at 256 x 256, a few seconds of a CPU's work
OF_SHARDS = 1024  # of a dataset's shards, whose files each reader checks whole before it takes its part of them
PARTS = 32  # a small input is cut into about so many shards, so that no worker ends long before the others
SMALLEST = 16

Item = tuple[str, bytes | Prepared | InputError]  # id; a file's bytes, a prepared slice, or why there is neither


@dataclass(frozen=True)
class Shard:
    """Some neighbouring items: `count` files, or `count` rows of one file from row `start` on."""

    number: int
    files: tuple[str, ...]  # relative to the input's root
    start: int
    count: int
    column: str = ""
    prefix: str = ""  # of a row number that serves as id

    def fields(self) -> dict[str, object]:
        """Say it in JSON's types; `Shard.of` takes them back."""
        return asdict(self)

    @classmethod
    def of(cls, fields: dict[str, object]) -> "Shard":
        """Take what `fields` gave, also by way of JSON."""
        return cls(**{**fields, "files": tuple(fields["files"])})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Survey:
    """An input at one moment: `files` with the number of items in each; `digest` tells whether it is still the same."""

    root: str  # a folder, or the address of shards
    kind: str
    files: list[tuple[str, int]]
    digest: str
    column: str = ""
    left_out: int = 0  # files of a folder that are of no known kind

    @property
    def items(self) -> int:
        """How many slices there are, readable or not."""
        return sum(count for _, count in self.files)

    def shards(self) -> list[Shard]:
        """Cut the input; the same survey gives the same shards."""
        size = min(OF_SHARDS if self.kind == "shards" else SHARD, max(SMALLEST, -(-self.items // PARTS)))
        if self.kind == "files":
            names = [name for name, _ in self.files]
            parts = [names[at : at + size] for at in range(0, len(names), size)]
            return [Shard(number, tuple(part), 0, len(part)) for number, part in enumerate(parts)]
        ranges = [(name, at, min(size, rows - at)) for name, rows in self.files for at in range(0, rows, size)]
        return [
            Shard(number, (name,), at, count, self.column, f"{name}#" if len(self.files) > 1 else "")
            for number, (name, at, count) in enumerate(ranges)
        ]


def survey(path: str | Path, spec: Preprocessing, *, column: str | None = None) -> Survey:
    """Look at an input without reading its slices (a prepared dataset is checked whole, each of its shards when read).

    Args:
        path: a folder of files, a folder of Parquet or Arrow files, one of those, a prepared dataset, or shards of one,
            such as s3://BUCKET/PREFIX.
        spec: the model's; a prepared dataset must have been made by it.
        column: of a table: where the files' bytes are; none given: the first of COLUMNS.

    Raises:
        InputError: nothing there, several kinds in one folder, no such column, pixels prepared in another way.

    """
    if is_address(path):
        return _survey_prepared(str(path), spec)
    path = Path(path)
    if (path.name == SHARDS and path.is_file()) or (path.name == SLICES and is_dataset(path.parent)):
        path = path.parent
    if (path / SHARDS).is_file() or is_dataset(path):
        return _survey_prepared(str(path), spec)
    if path.is_file() and path.suffix.lower() in TABLES:
        return _survey_tables(path.parent, [path.name], column)
    if not path.is_dir():
        found = "a file of another kind" if path.exists() else "nothing"
        raise InputError(
            path, found=found, expected="a folder of slices, or a table: " + ", ".join(TABLES), fix="check the path"
        )
    names = sorted(file.relative_to(path) for file in files_below(path))
    tables = [str(name) for name in names if name.suffix.lower() in TABLES]
    slices = [str(name) for name in names if name.suffix.lower() not in TABLES and reader_for(path / name)]
    for name in (*slices, *tables):
        check_name(name)
    if slices and tables:
        raise InputError(
            path,
            found=f"{len(slices)} image files beside {len(tables)} tables",
            expected="one kind",
            fix="give the folder of either",
        )
    if tables:
        return _survey_tables(path, tables, column)
    if not slices:
        known = ", ".join((*READERS, *TABLES))
        raise InputError(path, found="no file of a known kind", expected=f"files named {known}", fix="check the path")
    files = [(name, 1) for name in slices]
    return Survey(str(path), "files", files, _digest(path, slices), left_out=len(names) - len(slices))


def reader_of(root: str, kind: str, digest: str) -> Callable[[Shard], Iterator[Item]]:
    """Open an input of a Survey: what reads a shard's items in order, one that cannot be read as its own InputError.

    Raises:
        InputError: a file is gone that was there when the input was looked at, or shards are of another dataset.

    """
    if kind != "shards":
        return partial(READ[kind], root)
    dataset = open_dataset(root)
    if dataset.hash != digest:
        raise InputError(
            root,
            found=f"the dataset {dataset.hash[:12]}",
            expected=f"{digest[:12]}, as when the run began",
            fix="leave the shards as they are while they are read; other ones into another folder for results",
        )
    return partial(_read_shards, dataset)


def _digest(root: Path, names: list[str]) -> str:
    """Identify files by name, size and time of change: reading them all would be the run itself."""
    return digest([[name, (facts := (root / name).stat()).st_size, facts.st_mtime_ns] for name in names])


def _read_files(root: str, shard: Shard) -> Iterator[Item]:
    for name in shard.files:
        path = Path(root, name)
        try:
            yield name, file_bytes(path, where=name)
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                # Listed a moment ago: a node without the folder must not write everything down as unreadable.
                raise InputError(
                    path,
                    found="nothing",
                    expected="the file that was listed",
                    fix="keep the input as it is while it is read, and see that every node reaches it",
                ) from error
            yield name, error


def _survey_tables(root: Path, names: list[str], column: str | None) -> Survey:
    chosen, files = column, []
    for name in names:
        schema, rows = schema_and_rows(root / name)
        chosen = chosen or next((known for known in COLUMNS if known in schema.names), None)
        if chosen is None or chosen not in schema.names or not holds_bytes(schema.field(chosen).type):
            wrong = chosen in schema.names if chosen else False
            raise InputError(
                root / name,
                found=f"{chosen} of type {schema.field(chosen).type}" if wrong else ", ".join(schema.names),
                expected=f"a column {chosen or ' or '.join(COLUMNS)} of binary values, each the bytes of a file",
                fix="--column NAME",
            )
        files.append((name, rows))
    if not sum(rows for _, rows in files):
        raise InputError(root, found="no rows", expected="at least one slice", fix="check the path")
    return Survey(str(root), "table", files, _digest(root, names), column=chosen or "")


def _read_table(root: str, shard: Shard) -> Iterator[Item]:
    path, row = Path(root, shard.files[0]), shard.start
    names = [name for name in (shard.column, "id") if name in schema_and_rows(path)[0].names]
    for batch in rows_of(path, names, shard.start, shard.count):
        values = batch.column(0)
        values = values.field("bytes") if pa.types.is_struct(values.type) else values
        ids = batch.column(1) if len(names) > 1 else None
        for at in range(batch.num_rows):
            own = None if ids is None else ids[at].as_py()
            name = f"{shard.prefix}{row}" if own is None else str(own)
            data = values[at].as_py()
            yield name, data if data is not None else _no_bytes(name)
            row += 1


def _no_bytes(name: str) -> InputError:
    return InputError(name, found="no bytes", expected="a file's bytes", fix="fill the row or leave it out")


def _survey_prepared(path: str, spec: Preprocessing) -> Survey:
    dataset = open_dataset(path)
    if dataset.spec != spec:
        raise InputError(
            path,
            found=f"slices prepared by {dataset.spec.model_dump()}",
            expected=f"{spec.model_dump()}, as the model was trained on",
            fix="give the original files instead",
        )
    if isinstance(dataset.images, ShardedImages):
        return Survey(path, "shards", dataset.images.files, dataset.hash, column="image")
    return Survey(path, "prepared", [(SLICES, len(dataset))], dataset.hash, column="image")


def _read_prepared(root: str, shard: Shard) -> Iterator[Item]:
    for batch in rows_of(Path(root, SLICES), ["image", "id", "box"], shard.start, shard.count):
        for pixels, name, box in zip(*batch.columns, strict=True):
            values, outlined = np.frombuffer(pixels.as_buffer(), np.uint8), box.as_py()
            side = int(len(values) ** 0.5)
            yield name.as_py(), Prepared(values.reshape(side, side), box=tuple(outlined) if outlined else None)


def _read_shards(dataset: Dataset, shard: Shard) -> Iterator[Item]:
    """Read slices as they lie in the shards, which is not the dataset's order: so a file is fetched for few readers."""
    assert isinstance(dataset.images, ShardedImages), "of shards"
    first = dataset.images.first_place(shard.files[0]) + shard.start
    rows = scattered(len(dataset))[first : first + shard.count]
    for row, pixels in zip(rows, dataset.images[rows], strict=True):
        yield dataset.ids[row], Prepared(pixels, box=box_at(dataset.boxes[row]))


READ: dict[str, Callable[[str, Shard], Iterator[Item]]] = {
    "files": _read_files,
    "table": _read_table,
    "prepared": _read_prepared,
}
