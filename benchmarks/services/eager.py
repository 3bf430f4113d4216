"""FastAPI and uvicorn, eager fp32, everything inline in the handler: what most projects do."""

import torch
import uvicorn
from benchmarks.counter import Counted
from benchmarks.empty import EMPTY, EmptyEngine
from benchmarks.services.settings import Settings, answers, read
from fastapi import FastAPI, Request

from neuralblack.inference.engines import Engine, Outputs
from neuralblack.models.inputs import to_input
from neuralblack.registry.model_folder import ModelFolder, load_weights


class Eager:
    """The network as it was trained: fp32, nothing folded."""

    name, reason, calls_at_once = "eager", "as it was trained", 1

    def __init__(self, folder: ModelFolder) -> None:
        self._stages, self._network = load_weights(folder), folder.network

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Outputs:
        """Run one batch."""
        maps = self._stages[:-1](to_input(images, self._network))
        return Outputs(self._stages[-1](maps), maps.mean((2, 3)))


def main() -> None:
    """Serve."""
    settings = Settings.from_command_line()
    torch.set_num_threads(settings.threads)
    folder = settings.folder()
    plain: Engine = EmptyEngine(folder) if settings.engine == EMPTY else Eager(folder)
    engine = Counted(plain, settings.counter)
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, object]:
        slice_ = read(await request.body(), folder)
        return answers(engine(torch.from_numpy(slice_)[None]).logits, folder)[0]

    uvicorn.run(app, host="127.0.0.1", port=settings.port, log_level="warning")


if __name__ == "__main__":
    main()
