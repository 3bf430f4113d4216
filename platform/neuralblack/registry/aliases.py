"""Names that move: `champion` is a file that holds a model's id, replaced in one step under a lock."""

from pathlib import Path

from neuralblack.data.crops import NEED_BOX
from neuralblack.errors import InputError
from neuralblack.files import write_bytes
from neuralblack.registry.model_folder import ModelFolder, is_model_id, open_model

CHAMPION = "champion"
CHALLENGER = "challenger"  # answers behind the champion, unheard
MARKED = "roi"  # the best model that must be shown a marked tumour; it stands beside the champion, and is never it
LOCK = ".lock"  # in the registry; held by whoever changes it
# What takes a move to a service, which looks names up once, when it is started or deployed.
SERVE_ANEW = "start it again; on a cluster neuralblack serve CONFIG --resolved OUT.yaml, then serve deploy OUT.yaml"
MADE_BY = {  # what makes a name mean something
    CHALLENGER: "neuralblack challenger RUN --registry DIR",
    MARKED: "neuralblack promote RUN --registry DIR, of a run with --set input=roi",
}


def point_alias(registry: Path, alias: str, model_id: str) -> None:
    """Write an alias; the caller holds the registry's lock and has looked at the model."""
    (registry / "aliases").mkdir(exist_ok=True)
    write_bytes(registry / "aliases" / alias, f"{model_id}\n".encode())


def alias_for(model: ModelFolder) -> str:
    """Say which name a promotion of this model moves: a model that needs a mark is compared with its like alone."""
    return MARKED if model.config.input in NEED_BOX else CHAMPION


def alias_now(registry: Path, alias: str) -> str | None:
    """Read which model an alias means now; None where there is none. Raises InputError where a file is in the way."""
    try:
        return (registry / "aliases" / alias).read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise InputError(
            registry, found="a file, or a place below one", expected="a registry's folder", fix="--registry DIR"
        ) from None


def read_alias(registry: Path, alias: str) -> str:
    """Read which model an alias means now; raises InputError where there is none."""
    found = alias_now(registry, alias)
    if found is None:
        fix = MADE_BY.get(alias, "neuralblack promote RUN --registry DIR")
        raise InputError(registry, found=f"no {alias}", expected="a registry with one", fix=fix)
    return found


def resolve(registry: Path, name: str) -> ModelFolder:
    """Find a model by its id or an alias; the folder is checked, and must be the model that its id says."""
    model_id = name if is_model_id(name) else read_alias(registry, name)
    folder = open_model(registry / "models" / model_id)
    if folder.id != model_id:
        raise InputError(
            folder.path,
            found=f"the model {folder.id}",
            expected=model_id,
            fix="promote its run again; files were exchanged",
        )
    return folder


def is_name(path: Path) -> bool:
    """Tell whether a model of the registry is meant: an alias or an id. A path that exists is that path."""
    name = str(path)
    return (name in (CHAMPION, CHALLENGER, MARKED) or is_model_id(name)) and not path.exists()


def named_model(path: Path | None, registry: Path) -> Path:
    """Let people name a model of the registry where a path is meant: what `is_name` knows; None is the champion.

    Raises InputError where the registry has no such model.
    """
    if path is None:
        return resolve(registry, CHAMPION).path
    return resolve(registry, str(path)).path if is_name(path) else path
