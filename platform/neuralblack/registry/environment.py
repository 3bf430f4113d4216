"""What a run was computed with: versions and the package's commit. No names of machines, users or folders."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import neuralblack

PACKAGES = ("torch", "torchvision", "ray", "numpy", "pillow", "h5py", "scikit-learn", "pyarrow", "timm", "openvino")


def environment() -> dict[str, Any]:
    """List versions of what computes, and the git commit that this package is a checkout of, if it is one."""
    return {
        "neuralblack": neuralblack.__version__,
        "commit": commit_of(Path(neuralblack.__file__).parent),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def commit_of(folder: Path) -> str | None:
    """Name the commit that a folder of a git checkout stands at, with "-dirty" where it was changed; else None."""
    if not any((parent / ".git").exists() for parent in folder.parents):
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or a checkout that it refuses to look at: the versions must do


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
