"""How a model was made, in words: the same for a report and for a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuralblack.files import digest


def facts_of_making(
    made: Mapping[str, Any], split: Mapping[str, Any], history: Sequence[Mapping[str, Any]], *, cost: str
) -> dict[str, str]:
    """Say what was trained from what, with which numbers, on what, and what it cost.

    Args:
        made: the model folder's card.json.
        split: the split's manifest.
        history: the training's epochs.
        cost: in words (`registry.cost.said`).
    """
    config = made["config"]
    seen = ", ".join(f"{name} {value:g}" for name, value in made.get("network_input", {}).items())
    views = len(history) * split["parts"]["train"]["slices"]
    return {
        "network": f"{made['model']}, from weights {config['weights']}",
        "network input": seen or "its network's own",
        "seed": str(config["seed"]),
        "split": f"hash {digest(split)[:12]}",
        "chosen by": made["chosen_by"],
        "epochs": f"{len(history)}, {views:,} views of slices; {made['execution']}",
        "cost": cost,
        "made with": ", ".join(f"{name} {version}" for name, version in made["made_with"].items()),
        "configuration": ", ".join(f"{name} {value}" for name, value in config.items() if name != "augmentation"),
    }
