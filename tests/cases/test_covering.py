from itertools import combinations, product

from flowref.cases.covering import covering_array

FACTORS = {"a": (1, 2, 3), "b": (False, True), "c": ("x", "y"), "d": ((), (1,), (2, 3), (4,))}


def holds_all(rows, strength, names, contradicts=lambda one, other: False):
    for some in combinations(names, strength):
        for values in product(*([(name, value) for value in FACTORS[name]] for name in some)):
            clash = any(contradicts(u, v) for u, v in product(values, values))
            assert clash != any(all(row[name] == value for name, value in values) for row in rows), values


def test_every_pair_is_in_some_row():
    rows = covering_array(FACTORS, [(2, tuple(FACTORS))])

    holds_all(rows, 2, FACTORS)
    assert len(rows) <= 14  # 12 = 3 · 4 at least


def test_groups_have_their_own_strength():
    rows = covering_array(FACTORS, [(3, ("a", "b", "c")), (1, ("d",))])

    holds_all(rows, 3, ("a", "b", "c"))
    holds_all(rows, 1, ("d",))
    assert len(rows) == 12


def test_values_that_contradict_are_in_no_row():
    never = {("a", 2), ("c", "y")}
    contradicts = lambda one, other: {one, other} == never  # noqa: E731
    rows = covering_array(FACTORS, [(2, tuple(FACTORS))], contradicts)

    holds_all(rows, 2, FACTORS, contradicts)
