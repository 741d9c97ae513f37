"""Holds the block of block.py to the goldens, with numpy and safetensors alone: python check.py [golden/v1]."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from block import run
from safetensors.numpy import load_file

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "golden" / "v1")
manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
if manifest["format"] != "flowref-golden-1":
    sys.exit(f"{folder} has the format {manifest['format']}; this program reads flowref-golden-1.")
files = {name: load_file(folder / name) for name in manifest["files"]}


def subnet(vector, state):
    """The vector's subnet as a function; None for a kind that is not written here."""
    if vector["subnet"] == "given":
        return lambda v: state["subnet.a"]
    if vector["subnet"] == "linear":
        weight, bias = state["subnet.weight"], state["subnet.bias"]
        column = (-1,) + (1,) * (len(vector["spec"]["dims"]) - 1)
        return lambda v: np.einsum("oi,bi...->bo...", weight, v) + bias.reshape(column)
    return None


right, wrong, skipped = Counter(), Counter(), Counter()
for vector in manifest["vectors"]:
    start = vector["id"] + "/"
    arrays = {k.removeprefix(start): v for k, v in files[vector["file"]].items() if k.startswith(start)}
    for which, dtype in enumerate((np.float32, np.float64)):
        given = {name: value.astype(dtype) for name, value in arrays.items()}
        state = {name.removeprefix("state."): v for name, v in given.items() if name.startswith("state.")}
        c = [given[f"c{i}"] for i in range(len(vector["spec"]["dims_c"]))]
        answer = subnet(vector, state)
        if answer is None:
            skipped.update(vector["flags"])
            continue
        for direction in ("forward", "reverse"):
            got = run(vector["spec"], state, answer, given["x"], c, direction == "reverse")
            for name, value in zip(("out", "logdet"), got, strict=True):
                want, error = (arrays[f"{direction}.{name}{end}"] for end in ("", ".error"))
                fine = bool((abs(value.astype(np.float64) - want) <= error[which]).all())
                (right if fine else wrong).update(vector["flags"])
                if not fine:
                    print(f"{vector['id']} {direction}.{name} in {dtype.__name__}: off by more than is allowed")
for flag in sorted(right | wrong):
    print(f"{flag:24} {right[flag]:6} right {wrong[flag]:6} wrong {skipped[flag]:6} skipped")
sys.exit(1 if wrong or not right else 0)
