"""Promotion: a run's model is copied into the registry under its hash and becomes the champion."""

import logging
import shutil
from pathlib import Path

from neuralblack.errors import InputError
from neuralblack.files import check_manifest, lock, new_folder
from neuralblack.registry.aliases import CHAMPION, LOCK, point_alias
from neuralblack.registry.model_folder import ModelFolder, model_path, open_model

log = logging.getLogger(__name__)


def promote(run: Path, registry: Path, *, alias: str = CHAMPION) -> ModelFolder:
    """Copy a run's model into the registry and point the alias at it.

    A model that is there already is not copied again, unless its copy is damaged: then this mends it. A corrupt or
    incomplete run is refused by the file's name, and the alias stays where it was. Two at once wait for each other.
    """
    source = open_model(model_path(run))
    target = registry / "models" / source.id
    registry.mkdir(parents=True, exist_ok=True)
    with lock(registry / LOCK):
        if _is_copy(target, source):
            log.info("%s is in the registry already", source.id)
        else:
            if target.exists():
                log.warning("%s in the registry is damaged; it is copied again", source.id)
            _copy(source, target)
        model = open_model(target)
        point_alias(registry, alias, source.id)
    return model


def _is_copy(target: Path, source: ModelFolder) -> bool:
    """Tell whether a folder holds this model, whole."""
    try:
        return check_manifest(target) == source.hash
    except (ValueError, OSError) as error:  # an InputError, or what a broken disk or a broken name raises
        if target.exists():
            log.warning("%s", error)
        return False


def _copy(source: ModelFolder, target: Path) -> None:
    with new_folder(target) as folder:
        shutil.copytree(source.path, folder, dirs_exist_ok=True)
        if check_manifest(folder) != source.hash:
            raise InputError(
                source.path, found="files that changed while they were copied", expected=source.id, fix="try again"
            )
