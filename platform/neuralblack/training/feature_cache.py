"""What the frozen stages say of each training view, computed once and shared by every trial of a search on this node.

A view is a function of (seed, image, epoch), so frozen stages of equal weights say the same of it in every trial; of a
validation slice, which is no view, in every epoch as well. Two boundaries are kept: the pooled maps in front of the
head, while the head alone learns, and the input of the last stage before it, while those two learn. Deeper ones are not
worth their bytes (1.23 times, FACTS).

Nothing is approximate: what is kept has the bits that the trial would have computed itself, or is not kept. Frozen
stages see batches of one size (`training/frozen.py`), which is part of the key; and before any of it slices are
computed once more at other places of a batch, beside others. Where that differs, for this network, boundary, number
format and machine, nothing is shared.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuralblack.data.node_cache import folder_on_this_node, make_room
from neuralblack.files import digest, write_json
from neuralblack.models.execution import Execution, sent
from neuralblack.training.activations import ActivationFile
from neuralblack.training.device_rows import DeviceRows, device_rows
from neuralblack.training.frozen import FrozenStages, Views, backend_of, weights_hash
from neuralblack.training.unfreezing import depth_at, split_at

log = logging.getLogger(__name__)

SLICES = -1  # instead of an epoch: the slices themselves, not views of them
HEAD, HEAD_AND_LAST = 1, 2  # stages that learn: the depths at which something is kept


@dataclass(frozen=True)
class Sharing:
    """Where trials on this node share activations, and how much room they may take."""

    folder: Path
    max_bytes: int
    schedules: tuple[Mapping[int, int], ...] = ()  # of all trials: at which depth somebody will be in which epoch

    @classmethod
    def on_this_node(cls, *, gib: float, schedules: Sequence[Mapping[int, int]]) -> "Sharing | None":
        """Share in this user's own folder under the temporary one, or where NEURALBLACK_CACHE says; None for 0 GiB.

        Raises:
            InputError: the folder is somebody else's, who could put anything there.
        """
        if not gib:
            return None
        return cls(folder_on_this_node("activations"), int(gib * 2**30), tuple(schedules))


@dataclass(frozen=True)
class _Boundary:
    """Activations of one depth: the folder of their files, and what a row is like."""

    folder: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class FeatureCache(FrozenStages):
    """The same, computed once for all trials on this node.

    While the head alone learns these are pooled maps, (B, C, 1, 1): every head begins with that mean, and the mean of
    one number is that number.
    """

    def __init__(
        self,
        sharing: Sharing,
        *,
        facts: Mapping[str, Any],
        stages: int,
        slices: int,
        count: int,
        execution: Execution,
        size: int,
        worker: int = 0,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            sharing: the folder, its limit, the trials' schedules.
            facts: everything but the weights that activations depend on: dataset, preprocessing, views, network.
            stages: of the network.
            slices: of the dataset, whose numbers are the rows.
            count: rows that a file holds in the end, at most.
            execution: device and number format.
            size: of the batches that frozen stages see.
            worker: of those that train together; each fills rows of its own.

        """
        super().__init__(execution, size=size)
        self._sharing, self._worker = sharing, worker
        self._facts = {**facts, "backend": backend_of(execution), "batch": size}
        self._stages, self._slices, self._count = stages, slices, count
        self._frozen: nn.Sequential | None = None
        self._boundaries: dict[int, _Boundary] = {}
        self._files: dict[tuple[int, int], ActivationFile | None] = {}
        self._computed = self._found = 0  # rows, since `shared` was asked

    def __call__(self, frozen: nn.Sequential, rows: Tensor, epoch: int, views: Views) -> Tensor:
        """Read what is there, and compute and keep what is not; `epoch` is SLICES where `views` gives slices."""
        if frozen is not self._frozen:
            self._begin(frozen, rows, views)
        depth, numbers = self._stages - len(frozen), rows.numpy()
        file = self._file(depth, epoch) if depth in self._boundaries else None
        counted = len(rows) if epoch != SLICES else 0
        if file is None:
            self._computed += counted
            return super().__call__(frozen, rows, epoch, views)
        on_device = self._on_device(depth, file)
        kept = on_device.read(rows) if on_device else None
        kept = file.read(numbers) if kept is None else kept
        if kept is None:
            with file.filling(self._worker):
                kept = file.read(numbers)
                if kept is None:
                    self._computed += counted
                    found = self._compute(frozen, rows, epoch, views)
                    if not file.write(numbers, found):
                        file.close()
                        self._files[depth, epoch] = None
                    if on_device:
                        on_device.write(rows, found)
                    return found
        self._found += counted
        found = sent(kept, self.execution.device)
        if on_device and kept.device != self.execution.device:
            on_device.write(rows, found)
        return found

    def shared(self) -> float:  # noqa: D102
        share = self._found / max(1, self._found + self._computed)
        self._computed = self._found = 0
        return share

    def close(self) -> None:  # noqa: D102
        for file in self._files.values():
            if file:
                file.close()
        self._files = {}

    def _compute(self, frozen: nn.Sequential, rows: Tensor, epoch: int, views: Views) -> Tensor:
        """Compute what is kept; on the way to the pooled maps also the boundary below, where other trials want it."""
        if self._stages - len(frozen) != HEAD:
            return self.through(frozen, views(rows))
        earlier, last = split_at(frozen, len(frozen) - 1)
        wanted = any(
            HEAD_AND_LAST in each.values() if epoch == SLICES else depth_at(each, epoch) == HEAD_AND_LAST
            for each in self._sharing.schedules
        )
        below = self._file(HEAD_AND_LAST, epoch) if wanted else None
        kept = below.read(rows.numpy()) if below else None
        if kept is None:
            kept = self.through(earlier, views(rows))
            if below and not below.write(rows.numpy(), kept):
                below.close()
                self._files[HEAD_AND_LAST, epoch] = None
        return self._pooled(self.through(last, sent(kept, self.execution.device)))

    def _pooled(self, maps: Tensor) -> Tensor:
        with torch.no_grad(), self.execution.autocast():
            return nn.functional.adaptive_avg_pool2d(maps, 1)

    def _begin(self, frozen: nn.Sequential, rows: Tensor, views: Views) -> None:
        """Take other stages: see that a slice's company in a batch changes nothing, and name their folders."""
        self.close()
        self._frozen, self._boundaries = frozen, {}
        depth = self._stages - len(frozen)
        if depth not in (HEAD, HEAD_AND_LAST):
            return
        inputs = views(rows)
        wanted = {depth: frozen}
        if depth == HEAD:
            wanted[HEAD_AND_LAST] = split_at(frozen, len(frozen) - 1)[0]
        for each, stages in wanted.items():
            maps = self.through(stages, inputs)
            difference = self.company_difference(stages, inputs, maps)
            if difference:
                log.info(
                    "sharing is off: what %d stages say of a slice depends on the others in its batch, by %.1e (%s)",
                    len(stages),
                    difference,
                    self.execution.reason,
                )
                self._boundaries = {}
                return
            row = self._pooled(maps[:1])[0] if each == HEAD else maps[0]
            self._boundaries[each] = _Boundary(self._folder(stages, depth=each), tuple(row.shape), row.dtype)

    def _folder(self, stages: nn.Sequential, *, depth: int) -> Path:
        """Make the folder of these stages' activations; its name is the hash of all that they depend on."""
        facts = {**self._facts, "weights": weights_hash(stages), "depth": depth}
        folder = self._sharing.folder / digest(facts)[:24]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "facts.json").exists():
            write_json(folder / "facts.json", facts)
        return folder

    def _file(self, depth: int, epoch: int) -> ActivationFile | None:
        """Open the file of an epoch and close those of earlier ones; None where there is no room for it."""
        if (depth, epoch) not in self._files:
            for key in [key for key in self._files if SLICES != key[1] < epoch]:
                file = self._files.pop(key)
                if file:
                    file.close()
            self._files[depth, epoch] = self._opened(self._boundaries[depth], epoch)
        return self._files[depth, epoch]

    def _on_device(self, depth: int, file: ActivationFile) -> DeviceRows | None:
        boundary, device = self._boundaries[depth], self.execution.device
        return device_rows(file.path, rows=self._slices, shape=boundary.shape, dtype=boundary.dtype, device=device)

    def _opened(self, boundary: _Boundary, epoch: int) -> ActivationFile | None:
        name = "slices" if epoch == SLICES else f"epoch {epoch + 1}"
        path = boundary.folder / ("slices.bin" if epoch == SLICES else f"{epoch:04d}.bin")
        need = self._count * boundary.dtype.itemsize * int(torch.Size(boundary.shape).numel())
        folder, max_bytes = self._sharing.folder, self._sharing.max_bytes
        if not path.exists() and not make_room(folder, need, max_bytes=max_bytes):
            log.info("%s: not shared: %s has no room for %d MiB more", name, folder, need >> 20)
            return None
        return ActivationFile(path, rows=self._slices, shape=boundary.shape, dtype=boundary.dtype)
