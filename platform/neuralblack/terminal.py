"""What people see in a terminal: tables of rows, trials and results, and a progress bar."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """Print names and values."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(name, value)
    _stdout().print(table)


@contextmanager
def progress_bar(task: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and nothing elsewhere; yields what takes (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = _stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


def _stdout() -> Console:
    return Console(highlight=False, markup=False, emoji=False)  # a path may hold [brackets] and :colons:


def _stderr() -> Console:
    return Console(stderr=True)


def print_trials(rows: list[dict[str, Any]]) -> None:
    """Print a search's table, the chosen trial first; what each tried in one column, as it may be many fields."""
    table = Table(title="trials, the chosen one first; all numbers of the validation folds", title_justify="left")
    for column in ("trial", "tried", "epochs", "best", "macro-F1", "accuracy", "loss"):
        table.add_column(column, justify="left" if column == "tried" else "right", no_wrap=column != "tried")
    for row in rows:
        tried = ", ".join(f"{name} {brief(value)}" for name, value in row["params"].items())
        numbers = ["-" if row[name] is None else f"{row[name]:.3f}" for name in ("macro_f1", "accuracy", "loss")]
        best = "-" if row["epoch"] is None else str(row["epoch"] + 1)
        what = f"{tried}: {row['error']}" if row["error"] else tried
        table.add_row(str(row["trial"]), what, str(row["epochs"]), best, *numbers)
    _stdout().print(table)


def print_runs(runs: list[dict[str, Any]], fields: list[str]) -> None:
    """Print runs side by side, and below them, a line each, the fields in which they differ: too many for columns."""
    table = Table(
        title="runs, best first; macro-F1, accuracy and loss of the best epoch on validation", title_justify="left"
    )
    texts = ("run", "state")
    for column in (*texts, "start, UTC", "epochs", "best", "F1", "accuracy", "loss"):
        table.add_column(column, justify="left" if column in texts else "right", overflow="fold")
    for run in runs:
        numbers = ["-" if run[name] is None else f"{run[name]:.3f}" for name in ("macro_f1", "accuracy", "loss")]
        epochs, best = f"{run['done']}/{run['epochs']}", "-" if run["best_epoch"] is None else str(run["best_epoch"])
        table.add_row(run["name"], run["state"], run["started"][5:16].replace("T", " "), epochs, best, *numbers)
    _stdout().print(table)
    for run in runs if fields else []:
        differs = ", ".join(f"{name} {brief(run['config'].get(name))}" for name in fields)
        _stdout().print(f"{run['name']}: {differs}", soft_wrap=True)


def print_crossval(table: dict[str, Any]) -> None:
    """Print a cross-validation's table, with the refitted models' below it."""
    titles = {"cross-validation, test folds": table}
    if "refitted" in table:
        titles["refitted on every fold but the tested one"] = table["refitted"]
    for title, one in titles.items():
        shown = Table(title=title, title_justify="left")
        for column in ("", "accuracy", "balanced", "macro-F1", "MCC", "log loss", "ECE"):
            shown.add_column(column, justify="right" if column else "left", no_wrap=not column)
        rows = {f"fold {run['fold']}, seed {run['seed']}": run for run in one["runs"]}
        rows |= {f"mean of {len(one['runs'])} runs": one["mean"], "deviation": one["sd"]}
        rows |= {"all slices": one["pooled"], "patients": one["patients"]}
        for name, numbers in rows.items():
            keys = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "ece")
            values = [numbers[key] for key in keys]
            shown.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
        _stdout().print(shown)


def print_results(title: str, result: dict[str, Any]) -> None:
    """Print a model's numbers above those of simpler means, on the same slices, and what must be checked first."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("accuracy", "record-wise", "macro-F1"):
        table.add_column(name, justify="right")
    for name, one in {"the model": result, **result["baselines"]}.items():
        values = (one["accuracy"], result["record_wise"].get(name, {}).get("accuracy"), one["macro_f1"])
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
    _stdout().print(table)
    found = {name: one["sensitivity"] for name, one in result["per_class"].items()}
    _stdout().print("found of " + ", ".join(f"{name} {'-' if v is None else f'{v:.3f}'}" for name, v in found.items()))
    for line in result["alarms"]:
        _stdout().print(line)


def print_comparison(found: dict[str, Any]) -> None:
    """Print two models' numbers with the 95% interval of their difference, and what that of macro-F1 says."""
    first, second = found["names"]
    for level in ("slices", "patients"):
        numbers = dict(found[level])
        table = Table(title=f"{numbers.pop('count')} {level}", title_justify="left")
        for column in ("", first, second, "second - first, 95% interval"):
            table.add_column(column, justify="right" if column else "left", overflow="fold")
        for name, (before, after, interval) in numbers.items():
            span = f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else "-"
            values = ("-" if value is None else f"{value:.3f}" for value in (before, after))
            table.add_row(name.replace("_", " "), *values, span)
        _stdout().print(table)
    right = ", ".join(f"{name} {count}" for name, count in found["right"].items())
    _stdout().print(f"slices that were right: {right}. The same patients are drawn for both.")
    *_, interval = found["slices"]["macro_f1"]
    if interval:
        chance = interval[0] <= 0 <= interval[1]
        better = second if interval[0] > 0 else first
        verdict = "can be chance" if chance else f"is more than chance: {better} is better"
        _stdout().print(f"By macro-F1 of slices the difference {verdict}.", end=" ")
        _stdout().print("Of the other intervals some leave 0 out by chance.")


def print_checks(judgement: Mapping[str, Any]) -> None:
    """Print what the promotion gate asked."""
    table = Table(title="promotion gate", title_justify="left")
    for column in ("check", "", "found", "expected"):
        table.add_column(column)
    for check in judgement["checks"]:
        said = "passed" if check["passed"] else "FAILED"
        table.add_row(check["name"], said, check["found"], check["expected"])
    _stdout().print(table)
    if judgement["forced"]:
        _stdout().print(f"forced: {judgement['forced']}")


def print_shadow(found: Mapping[str, Any]) -> None:
    """Print how far a challenger agrees with the champion, and where it does not."""
    low, high = found["interval"]
    title = f"{found['challenger']}: agrees on {found['agreeing']:.1%} of {found['slices']:,} slices"
    table = Table(title=f"{title} ({low:.1%} to {high:.1%})", title_justify="left", caption_justify="left")
    table.add_column("champion says", no_wrap=True)
    for name in found["table"]:
        table.add_column(name, justify="right")
    for name, row in found["table"].items():
        table.add_row(name, *(f"{count:,}" if count else "-" for count in row.values()))
    _stdout().print(table)
    refused = ", ".join(f"{who} {share:.1%}" for who, share in found["refused"].items())
    difference = "-" if found["difference"] is None else f"{found['difference']:.3f}"
    _stdout().print("Agreement's interval counts slices, and is too narrow where they are of few patients.")
    _stdout().print(f"refused: {refused}; a probability differs by {difference} on average at most; ", end="")
    _stdout().print(f"from {found['first'][:16]} to {found['last'][:16]} UTC", soft_wrap=True)
    if len(found["champions"]) > 1:
        _stdout().print(f"It answered behind {len(found['champions'])} champions: {', '.join(found['champions'])}.")
    if found["cut_off"]:
        _stdout().print(f"{found['cut_off']} lines were cut off and are not counted.")


def print_drift(found: Mapping[str, Any]) -> None:
    """Print each statistic's stability index, and what it means."""
    table = Table(title=f"drift before {found['model']['name']}", title_justify="left")
    for column in ("statistic", "slices", "stability index", "by chance up to", ""):
        table.add_column(column, justify="right" if column not in ("statistic", "") else "left")
    for name, one in found["statistics"].items():
        by_chance = "-" if one["chance"] is None else f"{one['chance']:.3f}"
        table.add_row(name, f"{one['slices']:,}", f"{one['index']:.3f}", by_chance, one["verdict"])
    _stdout().print(table)


def print_status(found: Mapping[str, Any]) -> None:
    """Print what runs where, and below it what is wrong, a line each."""
    rows = [] if found["registry"] else [("registry", "not looked at; --registry DIR, or NEURALBLACK_REGISTRY")]
    for alias, one in (found["registry"] or {}).items():
        since = f", since {one['since'][:16]} UTC by {one['by']}" if one and one["since"] else ""
        rows.append((alias, f"{one['model']}{since}" if one else "-"))
    service, counted = found["service"], found["counted"]
    rows.append((service["address"], f"answers with {service['model']}" if service["model"] else "no answer"))
    for name, one in (found["applications"] or {}).items():
        states = ", ".join(f"{count} {state.lower()}" for state, count in one["replicas"].items()) or "no replica"
        rows.append((f"application {name}", f"{one['status'].lower()}: {states}"))
    if counted:
        replicas = ", ".join(f"{count} with {model}" for model, count in counted["models"].items())
        requests = ", ".join(f"{name} {count:,}" for name, count in sorted(counted["requests"].items()))
        answers = ", ".join(f"{status} {count:,}" for status, count in sorted(counted["answers"].items()))
        failure = counted["last_failure"]
        rows += [
            ("replicas that say", replicas),
            ("at work", f"{counted['pending']} slices"),
            ("requests", requests or "none yet"),
            *([("answers of the proxy", answers)] if answers else []),
            (
                "last failure",
                f"{failure['code']} at {failure['route']}, {failure['time'][:19]} UTC" if failure else "none",
            ),
        ]
    print_rows("what runs where", rows)
    for trouble in found["troubles"]:
        _stdout().print(trouble, soft_wrap=True)


def print_audit(entries: list[dict[str, Any]]) -> None:
    """Print the moves of a registry's names, oldest first: when, by whom, what, from which model to which, and why."""
    for entry in entries:
        names = {
            passed: [check["name"] for check in entry.get("checks", ()) if check["passed"] is passed]
            for passed in (True, False)
        }
        passed = f"passed {', '.join(names[True])}" if names[True] else ""
        forced = f"forced past {', '.join(names[False]) or 'nothing'}: {entry['forced']}" if entry.get("forced") else ""
        move = f"{entry['alias']} {entry['before'] or '-'} -> {entry['after']}"
        facts = (entry["time"][:19], entry["by"], entry["action"], move, passed, forced)
        _stdout().print("  ".join(filter(None, facts)), soft_wrap=True)
    _stdout().print(f"{len(entries)} moves, times in UTC; no line was changed since.")


def brief(value: object) -> str:
    """Write a value for a table: two digits of a number with a fraction, everything else whole."""
    return f"{value:.2g}" if isinstance(value, float) else str(value)
