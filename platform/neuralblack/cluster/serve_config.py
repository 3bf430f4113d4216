"""Serve's YAML, resolved: the alias becomes a model's id and hash, so that all replicas have the same model."""

import logging
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from neuralblack.config import checked
from neuralblack.data.crops import NEED_BOX
from neuralblack.errors import InputError
from neuralblack.files import make_folder, write_bytes
from neuralblack.inference.engines import ENGINES
from neuralblack.registry.aliases import resolve
from neuralblack.registry.model_folder import ModelFolder
from neuralblack.registry.promotion import refuse_unlike
from neuralblack.service.auth import VARIABLE

log = logging.getLogger(__name__)

IMPORT_PATH = "neuralblack.cluster.serve:app"
DEPLOYMENT = "Classifier"  # what it deploys
LOOPBACK = "127.0.0.1"
MAX_PENDING = "NEURALBLACK_MAX_PENDING"  # what haproxy.sh reads
SERVE_SLOTS = 5  # what max_ongoing_requests is where nobody says it


class ServeArgs(BaseModel, frozen=True, extra="forbid"):
    """The `args:` block of an application, as `neuralblack serve` has resolved it."""

    model: str = Field(pattern=r"^[a-z0-9_]+-[0-9a-f]{12}$", description="A model's id; aliases are resolved before.")
    hash: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="The hash of its manifest; a replica refuses another model."
    )
    registry: Path = Field(description="The registry's folder, an absolute path that every node reaches.")
    engine: str = Field("auto", description="A key of neuralblack.inference.engines.ENGINES.")
    decoders: int = Field(1, ge=1, le=64, description="Processes that read uploads, for each replica.")
    max_upload_mib: int = Field(20, ge=1, le=1024, description="Largest upload; more is refused while it arrives.")
    anonymous: bool = Field(
        False, description="Answer whoever asks; without it every replica needs NEURALBLACK_TOKEN in its environment."
    )
    max_pending: int = Field(
        160, ge=1, description="Requests that a replica works on or keeps waiting; more hear 429 at once."
    )
    deadline_s: float = Field(
        25, gt=0, description="From a request's arrival to its answer; a later one is 503, and not computed."
    )
    shadow: str | None = Field(
        None,
        pattern=r"^[a-z0-9_]+-[0-9a-f]{12}$",
        description="A challenger's id, which answers the same slices unheard; none given: nobody does.",
    )
    shadow_hash: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="The hash of its manifest.")
    shadow_records: Path | None = Field(
        None, description="Folder on every node for what both said, without slices; needed where there is a shadow."
    )
    feedback: Path | None = Field(
        None,
        description="Folder on every node in which readers' feedback is kept, slices included; none given: none is.",
    )
    threads: int | None = Field(
        None, ge=0, description="The network's threads; none given: as num_cpus says; 0: all cores of the machine."
    )


class LiveOptions(BaseModel, frozen=True, extra="forbid"):
    """The `user_config:` block: what may change without a new replica. Only numbers that cannot fail."""

    max_batch_size: int = Field(8, ge=1, le=1024, description="Slices in one forward pass; above 8 no gain on a CPU.")


def resolve_config(
    path: Path, *, registry: Path | None = None, host: str | None = None, port: int | None = None
) -> dict[str, Any]:
    """Read one of serve_configs/ and write down everything that a replica must not look up for itself.

    Args:
        path: the YAML.
        registry: where its model is looked up; none given: the `registry` of its `args`, seen from here.
        host: the interface to listen on; none given: the file's, and where it has none, loopback.
        port: of the HTTP server; none given: the file's, or 8000.

    Returns:
        The configuration for `serve deploy`, with model id, hash and an absolute registry in each `args`.

    Raises:
        InputError: no such file, not a Serve configuration with our application, or no whole model of that name.
    """
    config = _read(path)
    http = _block(config, "http_options", where=path)
    http["host"] = host or http.get("host") or LOOPBACK
    http["port"] = _port(port if port is not None else http.get("port", 8000), where=path)
    for application in config["applications"]:
        args = _block(application, "args", where=path)
        where = registry or _folder(args.get("registry", "registry"), where=f"{path} args registry")
        model = resolve(where.resolve(), str(args.get("model", "champion")))
        args.update(model=model.id, hash=model.hash, registry=str(where.resolve()))
        if args.get("feedback") and model.config.input in NEED_BOX:
            raise InputError(
                f"{path} args feedback",
                found=f"a folder, and the model {model.id}, which needs a box with every slice",
                expected="a model of whole slices: feedback takes no box, so this one would refuse each",
                fix="leave `feedback` out, or name another model",
            )
        if args.get("shadow"):
            _resolve_shadow(args, model, where=path)
        for name in ("feedback", "shadow_records"):
            if args.get(name):
                args[name] = str(_folder(args[name], where=f"{path} args {name}").resolve())
    return config


def _block(config: dict[str, Any], name: str, *, where: object) -> dict[str, Any]:
    """Take a block of settings; one that is not there, or has all its lines commented out, is empty."""
    if config.get(name) is None:
        config[name] = {}
    block = config[name]
    if not isinstance(block, dict):
        raise InputError(
            f"{where} {name}", found=repr(block), expected="settings, NAME: VALUE", fix="indent them below"
        )
    return block


def _port(value: object, *, where: object) -> int:
    if str(value).isdecimal() and 0 < int(str(value)) < 2**16:
        return int(str(value))
    raise InputError(
        f"{where} http_options port", found=repr(value), expected="1 to 65535", fix="leave the line out for 8000"
    )


def _folder(value: object, *, where: object) -> Path:
    if isinstance(value, str) and value:
        return Path(value)
    raise InputError(where, found=repr(value), expected="a folder", fix="name a folder, or leave the line out")


def _resolve_shadow(args: dict[str, Any], champion: ModelFolder, *, where: object) -> None:
    """Write the challenger's id and hash into `args`, or take it out where it has become the champion meanwhile."""
    challenger = resolve(Path(args["registry"]), str(args["shadow"]))
    if challenger.id == champion.id:
        log.warning("%s answers already, so nothing answers behind it: name a challenger", champion.id)
        del args["shadow"]
        return
    refuse_unlike(champion, challenger, where=f"{where} args shadow")
    if not args.get("shadow_records"):
        raise InputError(
            f"{where} args shadow_records",
            found="nothing",
            expected="a folder for what champion and challenger say",
            fix="shadow_records: DIR, or leave `shadow` out",
        )
    args.update(shadow=challenger.id, shadow_hash=challenger.hash)


def write_resolved(
    path: Path, out: Path, *, registry: Path | None = None, host: str | None = None, port: int | None = None
) -> str:
    """Write a resolved configuration for `serve deploy OUT`; returns the model's id. Arguments as `resolve_config`.

    Raises InputError where that does, where Ray's schema or ours refuses a field, and where OUT's folder is a file.
    """
    config = resolve_config(path, registry=registry, host=host, port=port)
    check_schema(config, where=path)
    _compare_with_haproxy(config)
    _say_who_reaches(config, chosen=host is not None)
    header = f"# Made from {path.name} by `neuralblack serve --resolved`. Deploy it with: serve deploy {out.name}\n"
    make_folder(out.parent)
    write_bytes(out, (header + yaml.safe_dump(config, sort_keys=False)).encode())
    return str(config["applications"][0]["args"]["model"])


def check_schema(config: dict[str, Any], *, where: object) -> None:
    """Let Ray's own schema and ours read the configuration; raises InputError naming the field."""
    # Serve reads its environment at import: not before it is set.
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        RayActorOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    serve = checked(ServeDeploySchema, config, where=where)
    _refuse_unknown(config, ServeDeploySchema, where=where)
    _refuse_unknown(config.get("http_options") or {}, HTTPOptionsSchema, where=f"{where} http_options")
    for application, parsed in zip(config["applications"], serve.applications, strict=True):
        _refuse_unknown(application, ServeApplicationSchema, where=f"{where} application {application.get('name')}")
        args = checked(ServeArgs, application["args"], where=f"{where} args")
        if args.engine not in ENGINES:
            raise InputError(
                f"{where} args engine", found=args.engine, expected="one of " + ", ".join(ENGINES), fix="auto chooses"
            )
        names = [deployment.name for deployment in parsed.deployments]
        if names != [DEPLOYMENT]:
            raise InputError(
                f"{where} deployments",
                found=", ".join(names) or "none",
                expected=f"{DEPLOYMENT} alone, with more max_ongoing_requests than max_pending",
                fix=f"start from serve_configs/local.yaml: without it Serve lets in {SERVE_SLOTS} at once",
            )
        (deployment,) = application["deployments"]
        _refuse_unknown(deployment, DeploymentSchema, where=f"{where} deployment {DEPLOYMENT}")
        for name, schema in (("ray_actor_options", RayActorOptionsSchema), ("autoscaling_config", AutoscalingConfig)):
            _refuse_unknown(deployment.get(name) or {}, schema, where=f"{where} {name}")
        checked(LiveOptions, deployment.get("user_config") or {}, where=f"{where} user_config")
        slots = parsed.deployments[0].max_ongoing_requests if "max_ongoing_requests" in deployment else SERVE_SLOTS
        _check_order(args, slots=slots, last=serve.http_options.request_timeout_s, where=where)


def _compare_with_haproxy(config: dict[str, Any]) -> None:
    """Say where HAProxy refuses at another number than the replicas, by the environment that a cluster's nodes have."""
    most = os.environ.get(MAX_PENDING)
    for application in config["applications"]:
        own = checked(ServeArgs, application["args"], where="args").max_pending
        if most and most != str(own):
            words = "max_pending is %d, but HAProxy has %s=%s: make them one number (cluster.yaml, run_options)"
            log.warning(words, own, MAX_PENDING, most)


def _say_who_reaches(config: dict[str, Any], *, chosen: bool) -> None:
    """Say where HAProxy would not reach replicas on other machines, and where whoever reaches the service may ask."""
    host = config["http_options"]["host"]
    if is_loopback(host):
        if not chosen:
            words = "http_options host %s is one machine's alone: for a cluster of several say --host 0.0.0.0"
            log.warning(words, host)
    elif any(application["args"].get("anonymous") for application in config["applications"]):
        words = "whoever reaches %s may ask, where the nodes have no %s: the configuration says anonymous"
        log.warning(words, host, VARIABLE)


def is_loopback(host: str) -> bool:
    """Tell whether only programs of the same machine can connect to what listens there."""
    return host in (LOOPBACK, "localhost")


def _refuse_unknown(block: dict[str, Any], schema: type[BaseModel], *, where: object) -> None:
    """Raise InputError for a key that Ray would ignore."""
    for unknown in sorted(set(block) - set(schema.model_fields), key=str):
        raise InputError(
            where,
            found=f"the option {unknown}",
            expected="one of " + ", ".join(sorted(schema.model_fields)),
            fix="correct its spelling",
        )


def _check_order(args: ServeArgs, *, slots: int, last: float | None, where: object) -> None:
    """Let the app's own limits be met before Serve's: only the app can say in its own words what is the matter."""
    if last is not None and args.deadline_s >= last:
        raise InputError(
            f"{where} args deadline_s",
            found=f"{args.deadline_s:g}",
            expected=f"less than request_timeout_s, {last:g}",
            fix="change one of them",
        )
    if args.max_pending >= slots:
        raise InputError(
            f"{where} args max_pending",
            found=args.max_pending,
            expected=f"less than max_ongoing_requests, {slots}",
            fix="raise max_ongoing_requests: a slot costs nothing, and a refusal needs one too",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(
            path, found="no file", expected="a Serve configuration", fix="serve_configs/local.yaml is one"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            path,
            found=f"no YAML ({' '.join(str(error).split())})",
            expected="a Serve configuration",
            fix="mend the file",
        ) from None
    config: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    applications = config.get("applications")
    ours = isinstance(applications, list) and all(
        isinstance(each, dict) and each.get("import_path") == IMPORT_PATH for each in applications
    )
    if not applications or not ours:
        raise InputError(
            path,
            found="no application of this package",
            expected=f"applications: with import_path: {IMPORT_PATH}",
            fix="start from serve_configs/local.yaml",
        )
    return config
