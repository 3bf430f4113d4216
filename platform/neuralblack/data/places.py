"""Where shards lie: a folder, S3, or another file system that pyarrow knows."""

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from neuralblack.errors import InputError, PassingError
from neuralblack.files import is_address, make_folder, no_space_is_said, passing_lock, replacing

BLOCK = 1 << 22  # bytes that are copied at a time
LOCK = ".writing.lock"  # in a folder, while somebody writes there
# Of a killed writer: what was to become a file of shards, the path of `writing`, and what was to become that.
UNFINISHED = re.compile(r"\.(([0-9]{5,}|index|names)\.arrow|shards\.json|file|\.file\.[0-9a-f]{8})\.[0-9a-f]{8}")


@dataclass
class Place:
    """A folder, `s3://BUCKET/PREFIX` or another address that pyarrow.fs knows.

    S3 takes its credentials, region and endpoint from the usual AWS_ variables.
    """

    address: str
    _fs: Any = field(init=False, repr=False)
    _root: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the file system; raises InputError for an address of no kind."""
        if not is_address(self.address):
            self._fs, self._root = pyarrow.fs.LocalFileSystem(), str(Path(self.address).absolute())
            return
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        try:
            if endpoint and self.address.startswith("s3://"):  # pyarrow would ask Amazon for the bucket's region
                region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
                self._fs = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, region=region)
                self._root = self.address.removeprefix("s3://").rstrip("/")
                return
            self._fs, self._root = pyarrow.fs.FileSystem.from_uri(self.address)
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(self.address, error) from None

    def __str__(self) -> str:
        return self.address

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one."""
        return None if is_address(self.address) else Path(self._root)

    def read(self, name: str) -> bytes | None:
        """Read a file; None where there is none."""
        try:
            return b"".join(self._blocks(name))
        except FileNotFoundError:
            return None

    def digest(self, name: str) -> str | None:
        """Hash a file, SHA-256 in hex digits; None where there is none."""
        found = hashlib.sha256()
        try:
            for block in self._blocks(name):
                found.update(block)
        except FileNotFoundError:
            return None
        return found.hexdigest()

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file here, over what is at `path`; a full disk here is an OSError."""
        with path.open("r+b") as file:
            try:
                for block in self._blocks(name):
                    file.write(block)
            except FileNotFoundError as error:
                raise self._wrong(f"{self}/{name}", error) from None
            file.truncate()

    def put(self, name: str, path: Path) -> None:
        """Copy a file there; readers see all of it or nothing."""
        try:
            if self.folder:
                self.folder.mkdir(parents=True, exist_ok=True)
                with no_space_is_said(self.folder / name), replacing(self.folder / name) as target:
                    shutil.copyfile(path, target)
                return
            with path.open("rb") as source, self._fs.open_output_stream(f"{self._root}/{name}") as file:
                while block := source.read(BLOCK):
                    file.write(block)
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(f"{self}/{name}", error) from None

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Have a path for files that are `put` here, one after another; it is gone afterwards.

        In a folder it lies beside them, others who write there wait, and what a killed writer left is removed. Else it
        lies in the folder for temporary files, and nobody waits.

        Raises:
            InputError: the folder cannot be written to, or a disk is full.

        """
        if self.folder is None:
            elsewhere = "free some space, or export TMPDIR=FOLDER on another disk"
            temporary = Path(tempfile.gettempdir())
            with no_space_is_said(temporary, fix=elsewhere), tempfile.TemporaryDirectory() as place:
                yield Path(place) / "file"
            return
        with ExitStack() as held:
            held.enter_context(no_space_is_said(self.folder))
            make_folder(self.folder)
            try:
                held.enter_context(passing_lock(self.folder / LOCK))
            except OSError as error:
                raise self._wrong(str(self), error) from None
            for left in self.folder.iterdir():
                if UNFINISHED.fullmatch(left.name) and left.is_file():
                    left.unlink()
            path = self.folder / f".file.{uuid.uuid4().hex[:8]}"
            held.callback(path.unlink, missing_ok=True)
            yield path

    def _blocks(self, name: str) -> Iterator[bytes]:
        """Read a file block by block; raises FileNotFoundError where there is none."""
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as source:
                while block := source.read(BLOCK):
                    yield block
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def _wrong(self, where: str, error: Exception) -> InputError:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return PassingError(
            where, found=said, expected="a file that can be reached", fix="check the address and the credentials"
        )
