"""What runs where: the registry's names, the service, its replicas, what waits, and what failed last.

All but the registry is asked over HTTP, so it needs no Ray where it runs.
"""

import http.client
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from neuralblack.cluster.serve_here import cause_of
from neuralblack.errors import InputError
from neuralblack.evaluation.scrape import Number, numbers_of
from neuralblack.registry.aliases import CHALLENGER, CHAMPION, MARKED, SERVE_ANEW, alias_now
from neuralblack.registry.audit import read_audit
from neuralblack.service.auth import bearer
from neuralblack.service.client import metrics_of

Seen = TypeVar("Seen")
PATIENCE_S = 10.0  # for one answer
RAY_TOKEN = Path("~/.ray/auth_token")  # where Ray looks for one by itself
WELL = ("RUNNING", "DEPLOYING")  # states of an application in which there is nothing to be done
PROXY_COUNTS = "serve_num_http_requests_total"  # Serve's own number
RAYS_OWN = (":44217", ":44227")  # metrics of Ray's autoscaler and dashboard, among a cluster's; no replica is in them


def status_of(
    *, registry: Path | None, service: str, dashboard: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """Look at everything; what cannot be seen is said, and hides nothing else.

    Args:
        registry: its folder; none given: it cannot be seen from here, and nothing is said of it.
        service: its address.
        token: the service's, where it asks for one.
        dashboard: of the Ray cluster that serves, for every replica; none given: only the one that answers is asked.
            Its token is Ray's own: RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, or that in the home folder.

    Returns:
        JSON: registry (alias -> model, since, by; None where it was not seen), service (address, and the model that
        answers), applications (name -> status, replicas by state, and the cause where it is not well; of the
        dashboard), counted (models: replicas of each, pending: slices, requests by outcome, last_failure: route, code,
        time, answers: what a cluster's proxy counted by status, its own among them; None where nobody says), and
        troubles, a sentence each.

    """
    troubles: list[str] = []

    def seen(look: Callable[[], Seen], where: object) -> Seen | None:
        try:
            return look()
        except InputError as error:
            troubles.append(str(error))
        except (ValueError, KeyError, TypeError, AttributeError):
            troubles.append(f"{where} does not answer as expected: something else may be there")
        return None

    names = seen(lambda: names_of(registry), registry) if registry else None
    model = seen(lambda: str(json.loads(_fetch(f"{service}/ready"))["model"]["name"]), service)
    applications, numbers = None, list[Number]()
    if dashboard:
        applications = seen(lambda: _applications(dashboard), dashboard)
        for node in seen(lambda: _nodes(dashboard), dashboard) or []:
            numbers += seen(lambda at=node: _numbers(at), node) or []  # type: ignore[misc]
    elif model:
        numbers = seen(lambda: _numbers(service, token), service) or []
    champion, marked = ((names or {}).get(name) for name in (CHAMPION, MARKED))
    if model and champion and model not in [each["model"] for each in (champion, marked) if each]:
        troubles.append(f"{service} answers with {model}, but the champion is {champion['model']}. Fix: {SERVE_ANEW}")
    for name, each in (applications or {}).items():
        if "cause" in each:
            troubles.append(f"application {name} is {each['status']}: {each['cause']}")
    return {
        "registry": names,
        "service": {"address": service, "model": model},
        "applications": applications,
        "counted": counted(numbers) if numbers else None,
        "troubles": troubles,
    }


def names_of(registry: Path) -> dict[str, dict[str, str] | None]:
    """Look up what each of a registry's names means, since when, and by whom.

    Raises:
        InputError: there is no such folder, or its audit is broken.

    """
    if not registry.is_dir():
        raise InputError(
            registry,
            found="no folder",
            expected="the registry",
            fix="name it: --registry DIR, or NEURALBLACK_REGISTRY",
        )
    newest = {(entry["alias"], entry["after"]): entry for entry in read_audit(registry)}
    found = dict[str, dict[str, str] | None]()
    for alias in (CHAMPION, CHALLENGER, MARKED):
        model = alias_now(registry, alias)
        entry = newest.get((alias, model or ""), {})
        found[alias] = {"model": model, "since": entry.get("time", ""), "by": entry.get("by", "")} if model else None
    return found


def counted(numbers: Sequence[Number]) -> dict[str, Any]:
    """Add up what replicas say of themselves, as `status_of` returns it."""
    models, requests, answers, pending, last = Counter[str](), Counter[str](), Counter[str](), 0, None
    for name, labels, value in numbers:
        if name == "neuralblack_model_info":
            models[labels["name"]] += int(value)
        elif name == "neuralblack_requests_total":
            requests[labels["outcome"]] += int(value)
        elif name == PROXY_COUNTS and labels["method"] == "POST":  # not what asks whether it is ready
            answers[labels["status_code"]] += int(value)
        elif name == "neuralblack_pending":
            pending += int(value)
        elif name == "neuralblack_last_failure_timestamp_seconds" and (last is None or value > last[0]):
            last = (value, labels)
    failure = last and {
        "route": last[1]["route"],
        "code": last[1]["outcome"],
        "time": datetime.fromtimestamp(last[0], UTC).isoformat(timespec="seconds"),
    }
    return {
        "models": dict(models),
        "pending": pending,
        "requests": dict(requests),
        "answers": dict(answers),
        "last_failure": failure,
    }


def _applications(dashboard: str) -> dict[str, Any]:
    found = {}
    for name, each in json.loads(_fetch(f"{dashboard}/api/serve/applications/", _ray_token()))["applications"].items():
        deployments = each["deployments"].values()
        found[name] = {
            "status": each["status"],
            "replicas": dict(Counter(replica["state"] for one in deployments for replica in one["replicas"])),
        }
        if each["status"] not in WELL:
            found[name]["cause"] = cause_of([each["message"], *(one["message"] for one in deployments)])
    return found


def _nodes(dashboard: str) -> list[str]:
    """Look up where Prometheus would scrape the nodes."""
    groups = json.loads(_fetch(f"{dashboard}/api/prometheus/sd", _ray_token()))
    targets = {str(target) for group in groups for target in group["targets"]}
    return sorted(f"http://{target}" for target in targets if not target.endswith(RAYS_OWN))


def _numbers(address: str, token: str | None = None) -> list[Number]:
    return numbers_of(metrics_of(address, token=token, timeout_s=PATIENCE_S), address)


def _ray_token() -> str | None:
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", RAY_TOKEN)).expanduser()
    return path.read_text() if path.is_file() else None


def _fetch(url: str, token: str | None = None) -> bytes:
    """Ask once; raises InputError with what came instead of an answer."""
    headers = bearer(token, where="Ray's token", fix=f"set RAY_AUTH_TOKEN, or write {RAY_TOKEN}, anew")
    fix = "start what should answer there, or give its address"
    try:
        with urlopen(Request(url, headers=headers), timeout=PATIENCE_S) as response:
            return bytes(response.read())
    except HTTPError as error:
        found, fix = f"{error.code} {error.reason}{_said(error.read())}", "look into its log, or give another address"
    except (OSError, http.client.HTTPException, ValueError) as error:
        found = f"no answer ({getattr(error, 'reason', error)})"
    raise InputError(url, found=found, expected="an answer", fix=fix)


def _said(body: bytes) -> str:
    """The sentence of an answer of the service that is an error; empty where it is none of its."""
    try:
        return f", {json.loads(body)['error']}".rstrip(".")
    except (ValueError, KeyError, TypeError):
        return ""
