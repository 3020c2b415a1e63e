"""What the gate has chosen: gate.json, read by the runs that count and by their page.

    {"width": 32, "layers": 2, "steps": 1500, "rates": {"vit": .006, "bert": .006, "joint": .003},
     "static_ratio": 8}

and, for the page alone, where they are known: "passes" {stream: bool}, "optimisation_limited",
"bigram", "probes" {metric: {"gains": [of each seed], "counts": bool}}, "candidates" that were tried
and how many there are, "of", "static_losses" {ratio: {stream: mean}}, "seeds", "commits".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "gate.json"
NEEDED = ("width", "layers", "steps", "rates", "static_ratio")
RATES = ("vit", "bert", "joint")
TRIED = (1.5e-3, 3e-3, 6e-3)  # rates


def read(path: Path = PATH) -> Mapping[str, Any] | None:
    """What the file holds; None where there is none.

    Raises:
        ValueError: it lacks something that the runs need.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    lacks = [key for key in NEEDED if key not in found]
    lacks += [f"rates.{who}" for who in RATES if who not in found.get("rates", {})]
    if lacks:
        raise ValueError(f"{path} lacks {', '.join(lacks)}: let the gate write it")
    return found


def changes(width: int, layers: int, steps: int) -> list[str]:
    """The changes of the config, "a.b=value", of a size of the shared encoder and a length."""
    stack = dict(width=width, layers=layers, mlp_width=4 * width)
    return [*(f"model.encoder.{k}={v}" for k, v in stack.items()), f"total_steps={steps}"]


def line(found: Mapping[str, Any] | None) -> str:
    """For the log: what the runs take from it."""
    if found is None:
        return "no gate.json: size, length, rates and weights are those of the config"
    rates = ", ".join(f"{who} {found['rates'][who]:g}" for who in RATES)
    return (
        f"from gate.json: width {found['width']}, {found['layers']} layers, {found['steps']} steps,"
        f" rates {rates}, static weights {found['static_ratio']:g} to 1"
    )
