"""Files from strangers are data: what is read is of limited size, of its own folder, and never executed.

FileError   what every reader here raises: the file, what is wrong with it, what to do
read        the bytes of a plain file of its folder, of limited size
write       the whole file or none
parsed      JSON, of limited size and depth
arrays      the arrays of a safetensors file: float64, finite
damaged     raise FileError for a file that was changed after it was written
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors
from numpy.typing import NDArray

MAX_DEPTH = 16
WRITTEN = "Give a file that flowref wrote"
CHANGED = "It was changed after flowref wrote it: fetch its files again, or write them anew"


class FileError(ValueError):
    """A file that can't be used: ``path``, the problem, the remedy."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        super().__init__(f"{path}: {problem}. {remedy}")


def damaged(path: Path, problem: str) -> NoReturn:
    raise FileError(path, problem, CHANGED)


def write(path: Path, content: bytes) -> None:
    """Written beside, then renamed, so that a reader never meets half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".flowref-", delete=False) as file:
        file.write(content)
    try:
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError:
        os.unlink(file.name)
        raise


def read(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises FileError for none, a link out of its folder, anything but a file, more than limit."""
    if not path.exists():
        raise FileError(
            path, "there is no such file", "Look at the path; files that were written together belong together"
        )
    if path.is_dir():
        raise FileError(path, "it is a folder", "Give a file in it")
    if path.resolve().parent != path.parent.resolve() or not path.is_file():
        raise FileError(path, "it is no plain file of its folder", "Copy the file itself there instead of a link")
    size = path.stat().st_size
    if size > limit:
        raise FileError(path, f"it has {size} bytes, where at most {limit} are read", WRITTEN)
    return path.read_bytes()


def parsed(path: Path, text: bytes) -> Any:
    """The value that a JSON text stands for; numbers are finite. Raises FileError."""
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"it is no JSON ({error})", WRITTEN) from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [v for one in level if isinstance(one, (dict, list)) for v in _inside(one)]
    if level:
        raise FileError(path, f"its JSON is nested more than {MAX_DEPTH} deep", WRITTEN)
    return value


def _inside(one: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one


def _finite(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError(f"{word} is no finite number")
    return number


def arrays(path: Path, content: bytes) -> dict[str, NDArray[np.float64]]:
    """The arrays of a safetensors file by name, in the order of their data. Raises FileError."""
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise FileError(path, f"it is no safetensors file ({error})", WRITTEN) from None
    found = {}
    for name, entry in entries:
        if entry["dtype"] != "F64":
            damaged(path, f"{name} is {entry['dtype']}, need F64")
        try:
            numbers = np.frombuffer(entry["data"], "<f8").reshape(entry["shape"])
        except (ValueError, OverflowError):  # axes of 0 beside absurd ones
            damaged(path, f"{name} has the shape {entry['shape']}, which no array can have")
        if not np.isfinite(numbers).all():
            damaged(path, f"{name} holds a number that is not finite")
        found[name] = numbers.astype(np.float64)
    return found
