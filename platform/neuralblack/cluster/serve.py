"""The Serve application: one deployment that decodes, batches and answers, and the builder that its YAML names.

neuralblack serve serve_configs/local.yaml --registry registry
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import get_runtime_context, serve
from ray.serve._private import replica
from ray.util import get_node_ip_address

from neuralblack.cluster.one_write import answer_in_one_write
from neuralblack.cluster.ray_metrics import copy_for_ever
from neuralblack.cluster.serve_config import LOOPBACK, LiveOptions, ServeArgs
from neuralblack.cluster.serve_logs import log_beside_serve
from neuralblack.config import checked
from neuralblack.data.preprocessing import marked
from neuralblack.data.slices import Prepared
from neuralblack.errors import InputError
from neuralblack.inference.predictor import Prediction, Predictor
from neuralblack.registry.promotion import read_card
from neuralblack.service.app import build_app
from neuralblack.service.auth import readers_from, token_from
from neuralblack.service.batcher import Batcher
from neuralblack.service.decoder import Decoder
from neuralblack.service.drift import Drift
from neuralblack.service.feedback import FeedbackFolder, open_feedback
from neuralblack.service.meter import Meter
from neuralblack.service.shadow import Shadow

log = logging.getLogger(__name__)

BROKEN = 3  # failures in a row, with no success between: a GPU in a sticky error, no process to be had
HUNG = 3  # deadlines in one forward pass: all that was waited for is over. What compiles does so in the constructor


# A model that does not load will not load at the twentieth time either (Serve's own limit).
@serve.deployment(max_constructor_retry_count=2)
@serve.ingress()
class Classifier:
    """One loaded model behind its own HTTP app: decode, batch and answer in the same replica."""

    def __init__(self, args: ServeArgs) -> None:
        stay_on_loopback()
        answer_in_one_write()
        log_beside_serve()
        self.args = args
        self.token = token_from(os.environ, anonymous=args.anonymous)  # inherited from `ray start`; before any work
        self.readers = readers_from(os.environ)
        torch.set_num_threads(threads_of(args, get_runtime_context().get_assigned_resources().get("CPU", 1)))
        self.predictor = load_predictor(args)
        self.feedback = feedback_of(args, self.predictor)
        self.decoder = Decoder(self.predictor.spec, workers=args.decoders)
        self.decoder.start()
        self.batcher: Batcher[Prepared, Prediction] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the app. Serve calls this in the replica's event loop, behind the constructor."""
        meter = Meter()
        copy_for_ever(meter.registry)
        self.batcher = Batcher(
            self.predictor,
            max_size=LiveOptions().max_batch_size,
            threads=self.predictor.calls_at_once,
            observe=meter.batch,
        )
        return build_app(
            self.decoder,
            self.batcher,
            ready=lambda: self.trouble() is None,  # loaded and warm since the constructor, or there is no replica
            model=facts(self.predictor),
            card=read_card(self.args.registry, self.args.model),
            explain=explainer(self.predictor),
            mark=partial(marked, where="box") if self.predictor.needs_box else None,
            listeners=listeners(self.args, self.predictor, meter),
            token=self.token,
            readers=self.readers,
            feedback=self.feedback,
            max_bytes=self.args.max_upload_mib * 2**20,
            max_pending=self.args.max_pending,
            deadline_s=self.args.deadline_s,
            meter=meter,
            id_header=False,
        )

    def trouble(self) -> str | None:
        """Say why no slice can be answered any more; None: nothing is known against it.

        Past this point nothing is let in that could succeed, so only a new replica helps.
        """
        for what, failed in (("forward passes", self.predictor.failed), ("decoder starts", self.decoder.failed)):
            if failed >= BROKEN:
                return f"the last {failed} {what} failed"
        if self.batcher and (running_s := self.batcher.running_s) > HUNG * self.args.deadline_s:
            return f"a forward pass has not ended for {running_s:.0f} s"
        return None

    def check_health(self) -> None:
        """Raise where this replica is of no use any more; Serve asks, and replaces it after three such answers."""
        if trouble := self.trouble():
            raise RuntimeError(trouble)

    def reconfigure(self, options: dict[str, Any]) -> None:
        """Take `user_config`; Serve calls this live, without a restart; an error would cost the replica."""
        assert self.batcher is not None, "Serve builds the app before it reconfigures"
        self.batcher.max_size = checked(LiveOptions, options, where="user_config").max_batch_size


def app(args: dict[str, Any]) -> serve.Application:
    """Build the application from the `args:` block of its YAML; raises InputError where that is not resolved."""
    where = "the application's args"
    if "hash" not in args:
        raise InputError(
            where,
            found=f"the model {args.get('model')} without its hash",
            expected="a resolved configuration, so that all replicas have the same model",
            fix="neuralblack serve CONFIG --resolved OUT.yaml, then serve deploy OUT.yaml",
        )
    resolved = checked(ServeArgs, args, where=where)
    paths = {"registry": resolved.registry, "feedback": resolved.feedback, "shadow_records": resolved.shadow_records}
    for name, path in paths.items():
        if path is not None and not path.is_absolute():
            raise InputError(f"{where} {name}", found=path, expected="an absolute path", fix="as every node reaches it")
    deployment: Any = Classifier  # which is what the decorators have made of it
    return deployment.bind(resolved)


def threads_of(args: ServeArgs, cpus: float) -> int:
    """Count the network's threads in a replica to which Ray has given `cpus`, which may be a fraction."""
    if args.threads == 0:
        return os.cpu_count() or 1
    return args.threads or max(1, int(cpus))


def load_predictor(args: ServeArgs) -> Predictor:
    """Load and warm the model that `args` name; raises InputError naming the file that is missing or differs."""
    predictor = _load(args, args.model, args.hash)
    for count in (1, 2, LiveOptions().max_batch_size):  # kernels are chosen at the first use of a shape
        side = predictor.spec.size
        predictor.probabilities(np.zeros((count, side, side), np.uint8), np.array([[0, 0, side, side]] * count))
    log.info("model %s is loaded and warm", predictor.name)
    return predictor


def feedback_of(args: ServeArgs, predictor: Predictor) -> FeedbackFolder | None:
    """Open the folder for readers' feedback where `args` name one; raises InputError where it cannot be used."""
    if args.feedback is None:
        return None
    return open_feedback(
        args.feedback,
        os.environ,
        classes=predictor.classes,
        model=predictor.hash,
        preprocessing=predictor.spec,
    )


def _load(args: ServeArgs, model: str, expected: str) -> Predictor:
    predictor = Predictor.load(args.registry / "models" / model, engine=args.engine)
    if predictor.hash != expected:
        raise InputError(
            args.registry / "models" / model,
            found=f"the model of hash {predictor.hash[:12]}",
            expected=expected[:12],
            fix="promote its run again; files were exchanged",
        )
    return predictor


def listeners(args: ServeArgs, predictor: Predictor, meter: Meter) -> list[Drift | Shadow]:
    """Make what hears each slice: drift, of a model that knows what to expect, and a challenger, where there is one."""
    reference = predictor.folder.calibration.get("drift")
    drift = [Drift(reference, meter)] if reference else []
    return [*drift, *([shadow_of(args, meter)] if args.shadow else [])]


def shadow_of(args: ServeArgs, meter: Meter) -> Shadow:
    """Let the challenger that `args` name answer behind this replica's model, into a file of this replica's own."""
    assert args.shadow and args.shadow_hash and args.shadow_records, "resolve_config gives all three or none"
    model, digits = args.shadow, args.shadow_hash
    name = f"{get_runtime_context().get_actor_id()}.jsonl"
    return Shadow(
        lambda: _load(args, model, digits),
        args.shadow_records / model / name,
        champion=args.model,
        busy=lambda: meter.pending() > 0,
        count=meter.shadow,
    )


def explainer(predictor: Predictor) -> Callable[[Prepared, str], Awaitable[NDArray[np.uint8]]]:
    """Draw heat maps one at a time in a thread of their own, so that batches go on beside them."""
    thread = ThreadPoolExecutor(1, "heat-map")

    async def explain(question: Prepared, label: str) -> NDArray[np.uint8]:
        asked = (question.pixels, label, question.box)
        return await asyncio.get_running_loop().run_in_executor(thread, predictor.explain, *asked)

    return explain


def stay_on_loopback() -> None:
    """Keep a replica of a one-machine Ray off the other interfaces.

    Ray 2.60 opens every replica's gRPC server on all of them, whatever http_options.host says, and that server
    unpickles what it is sent. It starts behind the constructor, so the constructor can still tell it where.
    """
    if get_node_ip_address() != LOOPBACK:
        return  # other nodes must reach it; the cluster's firewall is the wall then
    add_port = replica.add_port_to_grpc_server

    def add_loopback_port(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", LOOPBACK))

    replica.add_port_to_grpc_server = add_loopback_port


def facts(predictor: Predictor) -> dict[str, object]:
    """Describe a model for its page and its clients."""
    return {
        "name": predictor.name,
        "hash": predictor.hash,
        "classes": list(predictor.classes),
        "preprocessing": predictor.spec.version,
        "size": predictor.spec.size,
        "engine": predictor.engine,
    }
