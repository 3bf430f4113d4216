"""The floor: the bare engine in a loop, its input decoded and ready, in a process of its own.

benchmarks/serve.py starts it as `python -m benchmarks.floor MODEL ENGINE THREADS` and writes a line of JSON to it for
each measurement: {"batch": 8, "seconds": 2}. It answers with one: {"rate": slices a second, "ms": median of a batch}.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import MARK

BATCHES = (1, 2, 4, 8, 16)
LARGEST = 64  # that can be asked for; more than 16 is for a GPU


class Floor:
    """The other side of that process."""

    def __init__(self, model: Path, engine: str, *, threads: int, environment: dict[str, str], log: Path) -> None:
        self._log = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.floor", str(model), engine, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment | {MARK: f"floor-{engine}"},
        )
        self.engine: dict[str, str] = self._read()

    def measure(self, *, batch: int, seconds: float) -> tuple[float, float]:
        """Slices a second, and the median milliseconds of one batch."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"batch": batch, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        said = self._read()
        return float(said["rate"]), float(said["ms"])

    def best_batch(self, *, seconds: float) -> tuple[int, dict[int, float]]:
        """Try every size of BATCHES in turn, three times: the fastest, and each one's median slices a second."""
        tries = [{batch: self.measure(batch=batch, seconds=seconds)[0] for batch in BATCHES} for _ in range(3)]
        rates = {batch: statistics.median(found[batch] for found in tries) for batch in BATCHES}
        return max(rates, key=lambda batch: rates[batch]), rates

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the floor's process ended; its words are in {self._log.name}")
        return dict(json.loads(line))


def main() -> None:
    """Answer until the pipe is closed."""
    import torch

    from neuralblack.inference.engines import build_engine
    from neuralblack.registry.model_folder import open_model

    model, name, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    folder = open_model(Path(model))
    engine = build_engine(folder, name=name)
    images = torch.randint(0, 256, (LARGEST, folder.spec.size, folder.spec.size), dtype=torch.uint8)
    for batch in BATCHES:
        engine(images[:batch])  # kernels are chosen at the first use of a shape
    print(json.dumps({"name": engine.name, "reason": engine.reason}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        batch, times = images[: wanted["batch"]], []
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < wanted["seconds"] or not times:
            engine(batch)
            times.append(time.perf_counter() - now)
        rate = len(times) * len(batch) / (time.perf_counter() - start)
        print(json.dumps({"rate": rate, "ms": 1e3 * statistics.median(times)}), flush=True)


if __name__ == "__main__":
    main()
