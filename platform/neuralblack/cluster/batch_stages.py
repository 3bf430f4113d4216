"""The two stages of a bulk run, each the life of one actor: read slices, classify them. They know nothing of Ray.

Between them travels a table with one row for each shard, so that no shard is ever torn or glued to another one.
"""

import asyncio
import json
import pickle
from pathlib import Path

import pyarrow as pa

from neuralblack.data.bulk import Shard, reader_of
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.slices import Prepared
from neuralblack.errors import InputError
from neuralblack.service.decoder import Decoder

GPU_BATCH, CPU_BATCH = 64, 8  # slices per forward pass; above 8 nothing is gained on a CPU


def to_row(shard: Shard) -> dict[str, object]:
    """Say a shard in what a table holds."""
    return {"shard": json.dumps(shard.fields())}


class Reading:
    """Read and prepare shards. Files go through a limited process: one that kills its reader costs its own row."""

    def __init__(self, root: str, kind: str, digest: str, spec: Preprocessing) -> None:
        """Take what a Survey says of the input, and the model's preprocessing."""
        self._read_shard, self._decoder = reader_of(root, kind, digest), Decoder(spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take a table of one shard; return it with its slices, or the sentence of what is wrong with them."""
        shard = Shard.of(json.loads(batch["shard"][0].as_py()))
        slices = asyncio.run(self._read(shard))
        # Ray pickles what goes from actor to actor anyway; this keeps a shard one value of one row.
        return pa.table({"number": [shard.number], "slices": pa.array([pickle.dumps(slices, 5)], pa.large_binary())})

    def close(self) -> None:
        """End the process that reads; it ends by itself with this one."""
        self._decoder.close()

    async def _read(self, shard: Shard) -> list[tuple[str, Prepared | str]]:
        slices: list[tuple[str, Prepared | str]] = []
        for name, content in self._read_shard(shard):
            if isinstance(content, bytes):
                try:
                    slices.append((name, await self._decoder(content)))
                except InputError as error:
                    slices.append((name, str(error.at(name))))
            else:
                slices.append((name, str(content) if isinstance(content, InputError) else content))
        return slices


class Classifying:
    """Classify shards with one loaded model, and write a part for each."""

    def __init__(
        self,
        model: Path,
        hash_: str,
        out: Path,
        *,
        engine: str,
        batch: int,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        """Load the model, with so many threads and on a device, cpu or cuda; None: as torch finds best."""
        import torch  # here: who reads slices does without

        from neuralblack.inference.predictor import Predictor

        if threads:
            torch.set_num_threads(threads)
        self._predictor = Predictor.load(model, engine=engine, device=device)
        if self._predictor.hash != hash_:
            raise InputError(
                model,
                found=f"the model {self._predictor.hash[:12]}",
                expected=f"{hash_[:12]}, as when the run began",
                fix="leave the model as it is until the run has ended, then run the command again",
            )
        self._out, self._batch = out, batch

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take a table of one shard's slices; return its number and size."""
        from neuralblack.inference.parts import answered, unreadable, write_part

        number, slices = batch["number"][0].as_py(), pickle.loads(batch["slices"][0].as_buffer())
        model, classes = self._predictor.name, self._predictor.classes
        seen = [(at, slice_) for at, (_, slice_) in enumerate(slices) if not isinstance(slice_, str)]
        rows = {
            at: unreadable(name, slice_, model=model)
            for at, (name, slice_) in enumerate(slices)
            if isinstance(slice_, str)
        }
        for first in range(0, len(seen), self._batch):
            some = seen[first : first + self._batch]
            answers = self._predictor([slice_ for _, slice_ in some])
            rows |= {at: answered(slices[at][0], a, model=model) for (at, _), a in zip(some, answers, strict=True)}
        write_part(self._out, number, [rows[at] for at in range(len(slices))], classes=classes)
        return pa.table({"number": [number], "items": [len(slices)]})
