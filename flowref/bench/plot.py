"""The plot of a run: ratios by size, or, where sizes grow, time over size on logarithmic axes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from flowref.bench.report import PASS
from flowref.bench.results import Cell, Figure, Run, ratio, time_of
from flowref.gate.options import Unusable

FORMS = (".png", ".svg")


def missing(file: str) -> str:
    """Why there will be no plot, "" where there will. Raises Unusable for a file of another form."""
    if Path(file).suffix not in FORMS:
        raise Unusable(f"--plot={file!r} is no picture that is drawn here: need a name in {' or '.join(FORMS)}.")
    return "" if find_spec("matplotlib") else "The plot is left out: it needs pip install flowref[bench]."


def draw(run: Run, file: str) -> str:
    """Write the picture; what to say of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    tables = [list(cells) for _, cells in groupby(run.cells, key=lambda cell: (cell.kind, cell.what))]
    figure = Canvas(layout="constrained")
    FigureCanvasAgg(figure)
    (_growth if run.cells[0].series else _ratios)(figure, tables)
    mark = "" if run.verified else "UNVERIFIED: "
    torch = f"torch {run.versions['torch']}"
    figure.suptitle(f"{mark}{run.processor}, {run.threads} threads, {torch}, {run.date[:10]}", fontsize=10)
    figure.savefig(file, dpi=150)
    return f"{file}: the plot"


def _growth(figure: Any, tables: list[list[Cell]]) -> None:
    """A row a pass, a column a series: milliseconds over numbers."""
    names = list(dict.fromkeys(cell.series for cell in tables[0]))
    figure.set_size_inches(4.4 * len(names), 3.4 * len(tables))
    grid = figure.subplots(len(tables), len(names), squeeze=False, sharex=True, sharey="row")
    for axes, cells in zip(grid, tables, strict=True):
        for at, series in zip(axes, names, strict=True):
            _series(at, [cell for cell in cells if cell.series == series])
            at.set_title(f"{cells[0].kind}, {PASS[cells[0].what]}: {series} grows", fontsize=9)
            at.set(xscale="log", yscale="log")
            at.grid(alpha=0.3)
        axes[0].set_ylabel("milliseconds")
    for at in grid[-1]:
        at.set_xlabel("numbers in x")
    _legend(figure, grid)


def _series(at: Any, cells: list[Cell]) -> None:
    """Medians and quartiles of each, and a line of slope 1 through the last point of who comes farthest."""
    points: dict[str, list[tuple[int, Figure]]] = {}
    for cell in cells:
        for name, rounds in (cell.times | cell.limits).items():
            points.setdefault(name, []).append((cell.numbers, Figure(*(1e3 * t for t in time_of(rounds)))))
    for k, (name, found) in enumerate(points.items()):
        x, y = [n for n, _ in found], [t for _, t in found]
        _points(at, x, y, f"C{k}", name, "o:" if name in cells[0].limits else "o-")
    n, end = max((found[-1] for found in points.values()), key=lambda point: (point[0], point[1].median))
    first = cells[0].numbers
    at.plot((first, n), (end.median * first / n, end.median), "--", color="0.6", lw=1, label="slope 1")


def _ratios(figure: Any, tables: list[list[Cell]]) -> None:
    """A row a kind, a column a pass: time ÷ that of the first contender, by size."""
    from matplotlib import ticker

    columns = len({cells[0].what for cells in tables})
    figure.set_size_inches(4.8 * columns, 0.6 + 3.2 * len(tables) // columns)
    grid = figure.subplots(len(tables) // columns, columns, squeeze=False, sharey="row")
    for at, cells in zip(grid.flat, tables, strict=True):
        all_of = [cell.times | cell.limits for cell in cells]
        base, *others = dict.fromkeys(name for one in all_of for name in one)
        for k, name in enumerate(others):
            there = [i for i, one in enumerate(all_of) if name in one and base in one]
            x = [i + 0.12 * (k - (len(others) - 1) / 2) for i in there]
            y = [ratio(all_of[i][name], all_of[i][base]) for i in there]
            _points(at, x, y, f"C{k + 1}", name, "_" if name in cells[0].limits else "o")
        at.axhline(1, color="C0", lw=1, label=base)
        at.set_yscale("log")
        at.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        at.yaxis.set_major_formatter("{x:g}")
        at.yaxis.set_minor_formatter(ticker.NullFormatter())
        at.set_xticks(range(len(cells)), [cell.size for cell in cells], rotation=25, ha="right", fontsize=7)
        at.set_title(f"{cells[0].kind}, {PASS[cells[0].what]}", fontsize=9)
        at.grid(alpha=0.3, axis="y")
    for at in grid[:, 0]:
        at.set_ylabel("time ÷ that of the first")
    _legend(figure, grid)


def _legend(figure: Any, grid: Any) -> None:
    """One for all, below."""
    pairs = [zip(*at.get_legend_handles_labels(), strict=True) for at in grid.flat]
    handles = {label: handle for some in pairs for handle, label in some}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=9, fontsize=8)


def _points(at: Any, x: Sequence[float], y: Sequence[Figure], color: str, name: str, look: str) -> None:
    ends = [[one.median - one.low for one in y], [one.high - one.median for one in y]]
    middle = [one.median for one in y]
    at.errorbar(x, middle, ends, color=color, label=name, fmt=look, ms=4, lw=1.2, capsize=2)
