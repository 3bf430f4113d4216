"""Serve's YAML, resolved: the alias becomes a model's id and hash, so that all replicas have the same model."""

import logging
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from neuralblack.config import checked
from neuralblack.errors import InputError
from neuralblack.files import write_bytes
from neuralblack.registry.aliases import resolve
from neuralblack.registry.model_folder import ModelFolder
from neuralblack.registry.promotion import refuse_unlike

log = logging.getLogger(__name__)

IMPORT_PATH = "neuralblack.cluster.serve:app"
LOOPBACK = "127.0.0.1"
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
    http = config.setdefault("http_options", {})
    http["host"] = host or http.get("host") or LOOPBACK
    http["port"] = int(port if port is not None else http.get("port", 8000))
    for application in config["applications"]:
        args = application.setdefault("args", {})
        where = registry or Path(args.get("registry", "registry"))
        model = resolve(where.resolve(), str(args.get("model", "champion")))
        args.update(model=model.id, hash=model.hash, registry=str(where.resolve()))
        if args.get("shadow"):
            _resolve_shadow(args, model, where=path)
        for name in ("feedback", "shadow_records"):
            if args.get(name):
                args[name] = str(Path(args[name]).resolve())
    return config


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
    """Write a resolved configuration for `serve deploy OUT`; returns the model's id. Arguments as `resolve_config`."""
    config = resolve_config(path, registry=registry, host=host, port=port)
    check_schema(config, where=path)
    header = f"# Made from {path.name} by `neuralblack serve --resolved`. Deploy it with: serve deploy {out.name}\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, (header + yaml.safe_dump(config, sort_keys=False)).encode())
    return str(config["applications"][0]["args"]["model"])


def check_schema(config: dict[str, Any], *, where: object) -> None:
    """Let Ray's own schema and ours read the configuration; raises InputError naming the field."""
    from ray.serve.schema import (
        DeploymentSchema,
        ServeDeploySchema,
    )  # Serve reads its environment at import: not before it is set

    checked(ServeDeploySchema, config, where=where)
    for application in config["applications"]:
        checked(ServeArgs, application["args"], where=f"{where} args")
        for deployment in application.get("deployments", []):
            for unknown in sorted(set(deployment) - set(DeploymentSchema.model_fields)):  # Ray would ignore it
                raise InputError(
                    f"{where} deployment {deployment.get('name')}",
                    found=f"the option {unknown}",
                    expected="one of " + ", ".join(sorted(DeploymentSchema.model_fields)),
                    fix="correct its spelling",
                )
            checked(LiveOptions, deployment.get("user_config") or {}, where=f"{where} user_config")
        _check_order(config, application, where=where)


def _check_order(config: dict[str, Any], application: dict[str, Any], *, where: object) -> None:
    """Let the app's own limits be met before Serve's: only the app can say in its own words what is the matter."""
    args = checked(ServeArgs, application["args"], where=f"{where} args")
    last = (config.get("http_options") or {}).get("request_timeout_s")
    if last is not None and args.deadline_s >= last:
        raise InputError(
            f"{where} args deadline_s",
            found=f"{args.deadline_s:g}",
            expected=f"less than request_timeout_s, {last:g}",
            fix="change one of them",
        )
    for deployment in application.get("deployments", []):
        slots = deployment.get("max_ongoing_requests", SERVE_SLOTS)
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
