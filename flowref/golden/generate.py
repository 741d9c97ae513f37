"""Vectors into a folder: computed in processes, written whole, and never over what somebody else wrote.

compute   the vectors of a list, in its order, however many processes there are
write     the files of vectors; refuses to change what is there unless it is asked to
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from flowref.cases import files
from flowref.gate.options import Unusable
from flowref.golden.format import FILES, MANIFEST, SCHEMA_FILE, Vector, files_of, fill
from flowref.golden.listing import Listed

NAMES = (*sorted(FILES.values()), SCHEMA_FILE, MANIFEST)
Show = Callable[[int], None]  # how many are done


def one(listed: Listed) -> Vector:
    """The vector that is listed."""
    return fill(listed.case(), steps=listed.steps, recipe=listed.json())


def compute(listing: Sequence[Listed], processes: int, show: Show) -> list[Vector]:
    """The vectors in order. Raises ValueError, with the recipe, for one that can't be a vector."""
    found = []
    with _mapping(min(processes, len(listing))) as mapped:
        results = mapped(listing)
        for listed in listing:
            try:
                found.append(next(results))
            except ValueError as error:
                raise ValueError(f"{listed.recipe!r} can't be a vector: {error}") from None
            show(len(found))
    return found


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[[Sequence[Listed]], Iterator[Vector]]]:
    if processes <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield lambda listing: map(one, listing)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        yield lambda listing: pool.map(one, listing, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def check_folder(folder: Path) -> None:
    """Raises Unusable where files of the set's names are there and no such set was written there before."""
    if folder.exists() and not folder.is_dir():
        raise Unusable(f"--out={str(folder)!r} is a file: need a folder, which is made if need be. Give another name.")
    there = [name for name in NAMES if (folder / name).exists()]
    if there and not _is_ours(folder):
        raise Unusable(
            f"{folder / there[0]} is there, and not as part of a set of vectors. Give an empty folder, or a new one."
        )


def _is_ours(folder: Path) -> bool:
    try:
        head = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(head, dict) and str(head.get("format")).startswith("flowref-golden-")


def ids_of(folder: Path) -> set[str]:
    """Of the vectors that a set says it has."""
    try:
        return {str(entry["id"]) for entry in json.loads((folder / MANIFEST).read_bytes())["vectors"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def write(vectors: Sequence[Vector], folder: Path, replace: bool) -> tuple[int, int]:
    """How many files were written, and how many were there with these very bytes. Raises Unusable, all or nothing."""
    check_folder(folder)
    content = files_of(vectors)
    there = {name for name in NAMES if (folder / name).exists()}
    same = {name for name in there & set(content) if (folder / name).read_bytes() == content[name]}
    if (differ := sorted(there - same)) and not replace:
        lost = sorted(ids_of(folder) - {v.id for v in vectors})
        also = f", and drops {len(lost)} vectors that are there, such as {lost[0]}" if lost else ""
        text = f"{folder / differ[0]} differs from what would be written. Nothing was: --replace does it"
        raise Unusable(f"{text}{also}.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in content:
        if name not in same:
            files.write(folder / name, content[name])
    for name in there - set(content):  # of a dialect that has no vectors now
        (folder / name).unlink()
    return len(content) - len(same), len(same)
