"""The house rules: what the README, the settings and the tools say is so."""

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from pydantic import BaseModel
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "platform" / "neuralblack"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def committed() -> list[Path]:
    """Every file that is or would be committed; git's list, so that nobody's virtual environment is read."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def commands() -> list[list[str]]:
    """Every command line of the README's code blocks, its words; continued lines are one, comments are cut."""
    blocks = "\n".join(re.findall(r"(?ms)^```(?:bash|sh)\n(.*?)^```", README)).replace("\\\n", " ")
    return [line.split("#")[0].split() for line in blocks.splitlines() if line.split("#")[0].strip()]


def verbs() -> dict[str, Any]:
    """The command line's verbs, by name, each with its `params`."""
    group: Any = typer.main.get_command(importlib.import_module("neuralblack.cli").app)
    return dict(group.commands)


# The package


def test_platform_folder_is_a_source_root_and_never_a_package():
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert Path(platform.__file__).parent == Path(sysconfig.get_path("stdlib"))
    assert platform.system()


def test_every_folder_of_the_package_goes_into_the_wheel():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["neuralblack"]
    for path in committed():
        if PACKAGE not in path.parents:
            continue
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py: no wheel would hold it"
        else:
            inside = path.relative_to(PACKAGE).as_posix()
            assert any(fnmatch(inside, pattern) for pattern in patterns), f"{inside} is no package-data"


def test_job_takes_the_whole_package_along_and_nothing_big(tmp_path):
    env = yaml.safe_load((ROOT / "jobs" / "env.yaml").read_text())
    options = {"include_gitignore": True, "excludes": env["excludes"]}

    (module,) = env["py_modules"]
    create_package(str(ROOT / module), tmp_path / "package.zip", include_parent_dir=True, **options)
    create_package(str(ROOT), tmp_path / "folder.zip", **options)

    package = set(zipfile.ZipFile(tmp_path / "package.zip").namelist())
    folder = set(zipfile.ZipFile(tmp_path / "folder.zip").namelist())
    assert {path.relative_to(PACKAGE.parent).as_posix() for path in committed() if PACKAGE in path.parents} <= package
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "jobs").glob("*.py")} <= folder
    assert not [name for name in folder | package if re.match(r"(\.git|\.venv|build|dist|demo)/|.*__pycache__", name)]
    assert (tmp_path / "folder.zip").stat().st_size < 10 * 2**20


def test_what_the_readmes_commands_write_from_scans_goes_with_no_job_and_into_no_commit():
    """Ray leaves out of a job's folder what git ignores."""
    written = ["data", "runs", "reports", "elsewhere", "images", "feedback", "shadow", "drift", "registry"]
    shown = (ROOT / "README.md").read_text()

    paths = [f"{name}/1.png" for name in written]
    asked = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False)

    assert all(re.search(rf"neuralblack .*\b{name}\b", shown) for name in written)
    assert asked.stdout.split() == paths


def test_torch_and_torchvision_import_on_a_machine_without_a_gpu():
    code = (
        "import neuralblack.models.torchvision_cpu, torch, torchvision.models as models;"
        "print(models.resnet50(weights=None)(torch.zeros(1, 3, 64, 64)).shape[1])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "1000", done.stderr


def test_every_number_a_run_can_change_is_described():
    config = importlib.import_module("neuralblack.config")
    models = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    models = [kind for kind in models if kind.__module__ == config.__name__]

    assert models
    for kind in models:
        assert kind.model_config["extra"] == "forbid"
        for name, field in kind.model_fields.items():
            assert len(field.description or "") > 10, f"{kind.__name__}.{name} says nothing of itself"


# What is installed


def test_tested_versions_fit_the_declared_dependencies():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    extras = PROJECT["project"]["optional-dependencies"]

    for text in [*PROJECT["project"]["dependencies"], *extras["timm"], *extras["dev"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[wanted.name.lower()]), text
    assert not [line for line in lines if "+" in line or "@" in line or line.startswith("-")]


@pytest.mark.parametrize(
    ("asked", "installs"),
    [({}, False), ({"CI": "false"}, False), ({"CI": "true"}, True), ({"SYSTEM": "1"}, True)],
    ids=["unasked", "CI=false", "CI=true", "SYSTEM=1"],
)
def test_system_packages_are_installed_only_when_asked_for(tmp_path, asked, installs):
    for tool in ("bash", "id", "mktemp", "tail", "rm", "true"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    for name, body in (("apt-get", f'echo "$@" >> {tmp_path}/asked'), ("sudo", 'shift\nexec "$@"')):
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (tmp_path / name).chmod(0o755)

    script = ["bash", str(ROOT / "tests" / "system_packages.sh")]
    done = subprocess.run(script, env={"PATH": str(tmp_path)} | asked, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").exists() == installs
    if installs:
        assert "install -y --no-install-recommends chromium" in (tmp_path / "asked").read_text()


def test_continuous_integration_runs_what_a_developer_runs():
    run = ROOT / ".ci" / "run"

    assert os.access(run, os.X_OK)
    assert run.read_text().rstrip().endswith("exec make test")


# The README


def test_readme_names_every_verb_and_no_other():
    named = {words[1] for words in commands() if words[0] == "neuralblack"}

    assert named == set(verbs())


def test_options_in_the_readme_exist():
    for words in commands():
        if words[0] != "neuralblack":
            continue
        known = {option for parameter in verbs()[words[1]].params for option in parameter.opts}
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            assert option in known, f"{' '.join(words)}: {option}"


def test_what_the_readme_installs_without_make_runs_its_own_steps():
    (installed,) = re.findall(r"pip install -c constraints\.txt '\.\[([\w,]+)\]'", README)
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", README)
    needed = {name for block in blocks for name in re.findall(r"# extra (\w+)", block)}

    assert needed == {"openvino"}
    assert needed <= set(installed.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_scripts_in_the_readme_exist():
    scripts = {word for words in commands() for word in words if word.endswith((".py", ".yaml"))}

    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file() or script.isupper() or script == "OUT.yaml", script


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"`make ([a-z-]+)", README)) | {words[1] for words in commands() if words[0] == "make"}

    assert {"demo", "test", "cluster"} <= named <= targets


def test_links_in_the_readme_lead_somewhere():
    found = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", README)
    relative = [link for pair in found for link in pair if link and not link.startswith(("http", "#"))]

    assert relative
    for link in relative:
        assert (ROOT / link.split("#")[0]).exists(), link


def test_paths_in_the_readme_exist():
    spans = re.findall(r"`([a-z_.][\w.-]*(?:/[\w.-]*)*)`", re.sub(r"(?ms)^```.*?^```", "", README))
    paths = [span for span in spans if "/" in span or span.endswith((".py", ".yaml", ".toml", ".md"))]

    assert paths
    for path in paths:
        assert (ROOT / path).exists() or (PACKAGE / path).exists(), path


def test_tree_in_the_readme_is_the_tree():
    (block,) = re.findall(r"(?ms)^```text\n(platform/neuralblack/.*?)^```", README)
    paths, above = [], [ROOT]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth + 1 :] = [above[depth] / line.split()[0]]
        paths.append(above[depth + 1])

    assert [str(path) for path in paths if not path.exists()] == []
    assert {path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= set(paths)


def test_what_is_committed_names_no_machine():
    private = re.compile(
        r"/(?:work|opt|root|Users)/[\w.]"  # folders of one machine
        r"|/home/(?!ray/)\w"  # ray is the user of Ray's images
        r"|\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?:\.\d{1,3})?\b(?![-.\w])"
        r"|https?://[\w.-]+\.(?:internal|local|lan|corp)\b"
        r"|(?:--|PIP_)(?:extra-)?index[-_]url"
    )
    found = []
    for path in committed():
        if path == Path(__file__) or path.suffix in {".png", ".jpg", ".mat", ".tif", ".tiff"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if private.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")

    assert found == []
