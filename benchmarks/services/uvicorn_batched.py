"""FastAPI and uvicorn with our engine and our batcher; files are read in a thread of the same process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import torch
import uvicorn
from benchmarks.services.settings import MAX_BATCH, Settings, answers, read
from fastapi import FastAPI, Request
from numpy.typing import NDArray

from neuralblack.service.batcher import Batcher


def main() -> None:
    """Serve."""
    settings = Settings.from_command_line()
    folder, engine = settings.folder(), settings.build_engine()

    def classify(slices: list[NDArray[np.uint8]]) -> list[dict[str, object]]:
        return answers(engine(torch.from_numpy(np.stack(slices))).logits, folder)

    @asynccontextmanager
    async def batching(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(classify, max_size=MAX_BATCH, threads=engine.calls_at_once)
        yield

    app = FastAPI(lifespan=batching)

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, object]:
        slice_ = await asyncio.to_thread(read, await request.body(), folder)
        answer: dict[str, object] = await app.state.batcher(slice_)
        return answer

    uvicorn.run(app, host="127.0.0.1", port=settings.port, log_level="warning")


if __name__ == "__main__":
    main()
