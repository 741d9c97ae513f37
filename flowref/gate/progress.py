"""Shows that a run is alive: a bar on a terminal, else a line now and then, for logs."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flowref.gate.evidence import Evidence

EVERY = 5.0  # seconds between lines


def now(evidence: Evidence) -> str:
    """What is being judged."""
    if not evidence.started:
        return "starting: importing torch, collecting laws"
    done = {record["id"] for record in evidence.records}
    judging = [item for item in evidence.started if item not in done]
    return (judging or list(evidence.started))[-1].rpartition("::")[2].removeprefix("test_")


def kept(evidence: Evidence) -> str:
    """Where finished parts of a long law are kept, if one is judged."""
    file = (evidence.header or {}).get("kept")
    return f"Parts that held are kept in {file}; after an interruption the same command judges the others." * bool(file)


class Lines:
    """One line every few seconds, and one as soon as the first law is judged."""

    def __init__(self, console: Console) -> None:
        self.console, self.next, self.told, self.judged = console, 0.0, False, 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, evidence: Evidence, elapsed: float) -> None:
        if not self.told and kept(evidence):
            self.told = True
            self.console.print(kept(evidence), markup=False, highlight=False, soft_wrap=True)
        first = len(evidence.records) > 0 == self.judged
        if first or elapsed >= self.next:
            self.judged = len(evidence.records)
            self.next = elapsed + EVERY
            text = f"{elapsed:5.0f} s  {len(evidence.records)} of {len(evidence.plan) or '?'} judged  {now(evidence)}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A bar with what is being judged beside it."""

    def __init__(self, console: Console) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.task, self.told = self.progress.add_task("", total=None), False

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, evidence: Evidence, elapsed: float) -> None:
        if not self.told and kept(evidence):
            self.told = True
            self.progress.console.print(kept(evidence), markup=False, highlight=False, soft_wrap=True)
        total = len(evidence.plan) or None
        self.progress.update(self.task, total=total, completed=len(evidence.records), description=now(evidence))


def shown_on(console: Console) -> Lines | Bar:
    """A bar on a terminal, else lines."""
    return Bar(console) if console.is_terminal else Lines(console)
