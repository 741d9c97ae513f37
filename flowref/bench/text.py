"""Figures and tables as text."""

from __future__ import annotations

from rich import box
from rich.table import Table

from flowref.bench.results import Figure


def table(left: list[str], right: list[str]) -> Table:
    """An empty one: columns of words, columns of figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def time(t: Figure) -> str:
    """The median, and below it the quartiles."""
    return f"{milliseconds(t.median)} ms\n[dim]{milliseconds(t.low)}–{milliseconds(t.high)}[/]"


def ratio(r: Figure) -> str:
    """The median, in brackets that of fastest tenths, and below it the quartiles."""
    return f"{share(r.median)} ({share(r.tenth)})\n[dim]{share(r.low)}–{share(r.high)}[/]"


def milliseconds(seconds: float) -> str:
    """Three digits."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def share(ratio: float) -> str:
    """Two digits or three."""
    return f"{ratio:.3f}" if ratio < 0.1 else f"{ratio:.2f}"
