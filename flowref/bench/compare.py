"""Another run beside this one."""

from __future__ import annotations

from rich.table import Table

from flowref.bench import text
from flowref.bench.results import PLACE, Run, then_and_now


def other_place(run: Run, old: Run) -> str:
    """Whether two runs can be compared at all."""
    pairs = [(name, getattr(old, name), getattr(run, name)) for name in PLACE]
    differ = [f"{name} {then} then, {now} now" for name, then, now in pairs if then != now]
    lines = [f"Compared with a run of {old.date}, load {old.load[0]:.1f}."]
    lines += [f"Not the same place, so ratios say little: {'; '.join(differ)}."] * bool(differ)
    lines += ["The older run is UNVERIFIED."] * (not old.verified)
    return "\n".join(lines)


def compared(run: Run, old: Run) -> Table:
    """New ÷ old for each cell and contender that both have."""
    then = {cell.key: cell.times for cell in old.cells}
    there = {name for cell in run.cells for name in cell.times if name in then.get(cell.key, {})}
    names = [name for name in run.contenders if name in there]
    table = text.table(["kind", "pass", "size"], names)
    for cell in run.cells:
        before = then.get(cell.key, {})
        both = [name for name in names if cell.times.get(name) and before.get(name)]
        if both:
            found = {name: text.ratio(then_and_now(cell.times[name], before[name])) for name in both}
            table.add_row(cell.kind, cell.what, cell.size, *(found.get(name, "–") for name in names))
    return table
