"""What `flowref golden` does: each command calls its room and says what came of it. Answers an exit code."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from flowref.cases.files import FileError
from flowref.gate.options import DIALECTS, Unusable, one_of
from flowref.golden import own
from flowref.golden.generate import Show, check_folder, compute, ids_of, write
from flowref.golden.listing import LISTING
from flowref.golden.reading import FOLDER, Golden
from flowref.golden.verify import BROKEN, HELD, Say, against_rules, against_target
from flowref.targets import TargetError, resolve

EVERY = 5.0  # seconds between lines, where no bar is shown
SAFE = 2.0**-23


def generate(out: str, spec: str | None, replace: bool, workers: str, console: Console) -> int:
    """Write golden/v1, or the vectors of the specifications in a file, to a folder."""
    listing = own.specs_of(Path(spec)) if spec else [listed for dialect in LISTING.values() for listed in dialect]
    check_folder(Path(out))
    processes = (os.cpu_count() or 1) if workers == "auto" else int(workers)
    with _shown(console, len(listing)) as show:
        try:
            vectors = compute(listing, processes, show)
        except ValueError as error:
            raise Unusable(str(error)) from None
    if not spec and (margin := min(v.margin for v in vectors)) < SAFE:
        raise AssertionError(
            f"a bound lies within {margin:.3g} of a step of its rounding: change a seed of the listing"
        )
    lost = ids_of(Path(out)) - {v.id for v in vectors}
    written, same = write(vectors, Path(out), replace)
    _say(console)(f"{out}: {len(vectors)} vectors; {written} files written, {same} were there with the same bytes.")
    if lost:
        _say(console)(f"Dropped, as --replace says: {', '.join(sorted(lost))}.")
    return HELD


def verify(target: str, dialect: str | None, skip: list[str], folder: str | None, device: str, console: Console) -> int:
    """Judge a target by the vectors of a folder."""
    try:
        found = resolve(target, one_of("--dialect", dialect, DIALECTS) if dialect else None)
        return against_target(
            Golden.open(_folder(folder)), found, skip, one_of("--device", device, ("cpu", "cuda")), _say(console)
        )
    except (TargetError, FileError) as error:
        raise Unusable(str(error)) from None


def _folder(folder: str | None) -> Path:
    path = Path(folder) if folder else FOLDER
    if not path.is_dir():
        raise Unusable(
            f"--dir={str(path)!r} is no folder: need one that flowref golden wrote. Leave it out for our own."
        )
    return path


def check_files(folder: str | None, sample: int, console: Console) -> int:
    """Check the files of a folder of vectors."""
    say = _say(console)
    try:
        return against_rules(Golden.open(_folder(folder)), sample, say)
    except FileError as error:
        say(f"BROKEN {error}")
        return BROKEN


def add(case: str, to: str, console: Console) -> int:
    """Turn a stored case into a vector of a folder."""
    try:
        vector, new = own.add(Path(case), Path(to))
    except FileError as error:
        raise Unusable(str(error)) from None
    _say(console)(f"{to}: {vector.id} {'added' if new else 'is there already'} ({', '.join(vector.entry['flags'])}).")
    return HELD


def _say(console: Console) -> Say:
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _shown(console: Console, total: int) -> Iterator[Show]:
    """A bar on a terminal, else a line every few seconds."""
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda done: progress.update(task, completed=done)
        return
    start, told = time.monotonic(), [0.0]

    def line(done: int) -> None:
        elapsed = time.monotonic() - start
        if elapsed >= told[0] or done == total:
            told[0] = elapsed + EVERY
            _say(console)(f"{elapsed:5.0f} s  {done} of {total} vectors")

    yield line
