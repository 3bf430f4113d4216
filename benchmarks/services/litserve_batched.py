"""LitServe with our engine, batching as its guide shows; the body is the file itself, as for the others."""

from typing import Annotated, Any

import litserve
import numpy as np
import torch
from benchmarks.services.settings import MAX_BATCH, Settings, answers, read
from fastapi import Depends, Request
from numpy.typing import NDArray

BATCH_TIMEOUT_S = 0.005


async def raw_body(request: Request) -> bytes:
    """Take the body as it is: LitServe itself reads only JSON and forms."""
    return await request.body()


class Classifier(litserve.LitAPI):
    """Decoding and the network, both in LitServe's worker process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/predict")
        self._settings = settings

    def setup(self, device: str) -> None:
        """Load, once in the worker."""
        self._folder, self._run = self._settings.folder(), self._settings.build_engine()

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]) -> NDArray[np.uint8]:
        """Read one upload."""
        return read(request, self._folder)

    def batch(self, inputs: list[NDArray[np.uint8]]) -> torch.Tensor:
        """Stack slices to (B, S, S)."""
        return torch.from_numpy(np.stack(inputs))

    def predict(self, x: torch.Tensor) -> list[dict[str, object]]:
        """Run one batch."""
        return answers(self._run(x).logits, self._folder)

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        """One answer each."""
        return output

    def encode_response(self, output: dict[str, object]) -> Any:
        """JSON comes from FastAPI."""
        return output


def main() -> None:
    """Serve."""
    settings = Settings.from_command_line()
    server = litserve.LitServer(Classifier(settings), accelerator="cpu", timeout=120, track_requests=False)
    server.run(host="127.0.0.1", port=settings.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
