"""Ray Serve as it comes: a FastAPI ingress and a model deployment, `@serve.batch`, default environment."""

import logging
import os
import signal
import tempfile
import threading
from typing import Any

os.environ |= {
    "RAY_AUTH_MODE": "disabled",  # loopback; unset, Ray 2.60 writes a token into the home folder
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Linux replaces 127.0.0.1 by the machine's address
    "RAY_USAGE_STATS_ENABLED": "0",
}

import ray
import torch
from benchmarks.services.settings import MAX_BATCH, Settings, answers, read
from fastapi import FastAPI, Request
from ray import serve
from starlette.responses import JSONResponse

api = FastAPI()
ONGOING = 256  # of both deployments; the default 5 would never fill a batch of 8


@serve.deployment(max_ongoing_requests=ONGOING)
class Model:
    """The network; batches as Serve forms them, with its default wait."""

    def __init__(self, settings: Settings) -> None:
        self._folder, self._engine = settings.folder(), settings.build_engine()

    @serve.batch(max_batch_size=MAX_BATCH)
    async def __call__(self, slices: list[Any]) -> list[dict[str, object]]:
        """Run one batch."""
        import numpy as np

        return answers(self._engine(torch.from_numpy(np.stack(slices))).logits, self._folder)


@serve.deployment(max_ongoing_requests=ONGOING)
@serve.ingress(api)
class Ingress:
    """HTTP and decoding."""

    def __init__(self, model: Any, settings: Settings) -> None:
        self._model, self._folder = model, settings.folder()

    @api.post("/predict")
    async def predict(self, request: Request) -> JSONResponse:
        """Classify one slice."""
        slice_ = read(await request.body(), self._folder)
        return JSONResponse(await self._model.remote(slice_))


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.from_command_line()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=8,  # enough for both deployments; threads are set by hand
            namespace="serve",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 2**20,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": settings.port})
        serve.run(Ingress.bind(Model.bind(settings), settings))
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        stop.wait()
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
