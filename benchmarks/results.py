"""How the benchmarks write numbers down."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def spread(values: np.ndarray) -> str:
    """Returns "median (smallest to largest)"."""
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def save(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result and the load of the machine as JSON, if a path is given."""
    machine = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]}
    if path:
        text = json.dumps(machine | result, indent=2) + "\n"
        path.write_text(text, encoding="utf-8")
