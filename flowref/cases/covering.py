"""Covering arrays: few rows that hold every pair, or triple, of chosen values.

Our own greedy search rather than a package's, so that the rows, and with them the cases, never change with a version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Value = tuple[str, Any]  # a factor and one of its values


def covering_array(
    factors: Mapping[str, Sequence[Any]],
    wanted: Sequence[tuple[int, Sequence[str]]],
    contradicts: Callable[[Value, Value], bool] = lambda one, other: False,
) -> list[dict[str, Any]]:
    """Rows (factor -> value) that together hold every combination of ``strength`` values of the named factors.

    ``wanted``: (strength, names) groups. A combination with two values that contradict one another is left out; the
    first value of each factor must contradict none but first-come values of others.
    """
    pairs = {
        frozenset((one, other))
        for a, b in combinations(factors, 2)
        for one, other in product(_values(factors, a), _values(factors, b))
        if contradicts(one, other)
    }
    clash = lambda value, row: any(frozenset((value, other)) in pairs for other in row)  # noqa: E731
    # dict as ordered set: the order of combinations decides the rows.
    missing: dict[tuple[Value, ...], None] = {}
    for strength, names in wanted:
        for chosen in combinations(names, strength):
            for combination in product(*(_values(factors, name) for name in chosen)):
                if not any(clash(value, combination) for value in combination):
                    missing[combination] = None
    used: dict[Value, int] = defaultdict(int)
    rows = []
    while missing:
        row = list(next(iter(missing)))
        for name in sorted(set(factors) - {name for name, _ in row}, key=lambda name: (-len(factors[name]), name)):
            gain = lambda value, row=row: sum(  # noqa: E731
                value in some and all(v in row or v == value for v in some) for some in missing
            )
            fitting = [value for value in _values(factors, name) if not clash(value, row)]
            row.append(max(fitting, key=lambda value: (gain(value), -used[value])))
        for held in [some for some in missing if set(some) <= set(row)]:
            del missing[held]
        for value in row:
            used[value] += 1
        rows.append(dict(row))
    return rows


def _values(factors: Mapping[str, Sequence[Any]], name: str) -> list[Value]:
    return [(name, value) for value in factors[name]]
