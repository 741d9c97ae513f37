"""What a law is, and the list of them.

A law is one short function in the module of its family, under the decorator `law`. Everything about it stands there:
id (module and function name), statement (first line of its docstring), bound, what it sees and is blind to
(the docstring's fields), formula, regimes that it must have met, the faults that break it, where it applies.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any

FAMILIES = (
    "shape",
    "reference",
    "inverse",
    "logdet",
    "gin",
    "affine",
    "clamp",
    "permutation",
    "coupling",
    "gradient",
    "batch",
    "condition",
    "layout",
    "purity",
    "state",
    "random",
    "error",
    "device",
    "compile",
    "dtype",
)
BOTH = ("forward", "reverse")
ONCE = ("both",)  # a law about both directions at once, or about none
HALVES = ("bfloat16", "float16")
# Cases on which a half precision decides: short numbers, few channels, nothing that amplifies.
HALF = {
    "bits": 8,
    "C": (2, 3, 4),
    "reflections": 0,
    "subnet": ("zero", "constant"),
    "g": (0.25, 4.0),
    "scale": ("drawn", "one"),
    "max_CN": 24,
    "max_B": 5,
}
# One axis at a time past what a tile or a grid holds: samples, pixels, channels; two at once past what a tile of a
# product with W holds; and all of x past 2^19 numbers, where a block may begin to take some samples after the others.
LARGE: tuple[Mapping[str, Any], ...] = (
    {"B": 1030, "C": 3, "S": (2,), "soft": True, "affine": "EXP", "conditions": (2,)},
    {"B": 65_540, "C": 2, "subnet": "constant"},
    {"B": 1, "C": 2, "S": (4100,), "reverse_permutation": True, "subnet": "network"},
    {"B": 2, "C": 3, "S": (65, 67), "soft": True, "gin": True},
    {"B": 1, "C": 2, "S": (257, 257), "affine": "EXP", "subnet": "constant"},
    {"B": 1, "C": 1030, "affine": "SIGMOID", "subnet": "constant"},
    {"B": 2, "C": 515, "S": (3,), "gin": True, "reverse_permutation": True, "subnet": "constant"},
    {"B": 1, "C": 390, "S": (2,), "soft": True, "reflections": 2, "subnet": "constant"},
    {"B": 2, "C": 67, "S": (7, 19), "soft": True, "subnet": "network"},
    {"B": 67, "C": 131, "soft": True, "subnet": "network"},
    {"B": 131, "C": 5, "S": (811,), "soft": True, "reflections": 2, "subnet": "constant"},
)
# 2^17 numbers and more, so that threads are worth their while, cut by samples, or by channels or pixels where those are
# few. No number of samples is a multiple of 3, so that equal shares leave some over.
MANY: tuple[Mapping[str, Any], ...] = (
    {"B": 1031, "C": 131, "affine": "EXP", "subnet": "constant"},
    {"B": 2051, "C": 67, "soft": True, "subnet": "constant"},
    {"B": 1, "C": 5, "S": (163, 163), "gin": True, "reverse_permutation": True, "subnet": "constant"},
    {"B": 2, "C": 35, "S": (1877,), "soft": True, "subnet": "constant"},
    {"B": 47, "C": 3, "S": (31, 31), "affine": "SIGMOID", "soft": True, "reflections": 2, "subnet": "constant"},
)
EDGES = ("batch-0", "channels-1", "reflections-hard", "alpha-0")
FIELDS = ("Bound", "Sees", "Blind to", "Spec", "Since")


def _common(fixed: Any, allowed: Any) -> Any:
    """Of the values that a law allows, those that are allowed; the latter where there is none."""
    if not isinstance(allowed, tuple):
        return allowed
    given = fixed if isinstance(fixed, tuple) else (fixed,)
    return tuple(value for value in given if value in allowed) or allowed


@dataclass(frozen=True)
class Law:
    """One claim about the block, checked on one case by ``body(run)``, which raises LawBroken or returns."""

    id: str
    formula: str
    statement: str
    text: Mapping[str, str]  # FIELDS -> what the docstring says
    body: Callable[[Any], None] = field(repr=False)
    broken_by: tuple[str, ...]
    regimes: tuple[str, ...] = ()
    fix: Mapping[str, Any] = field(default_factory=dict)  # field of Recipe -> value, or tuple of values
    directions: tuple[str, ...] = BOTH
    precisions: tuple[str, ...] | None = None  # these alone; None: every one asked for, a half one only if `half`
    half: bool = False  # is judged in half precisions too, on cases of HALF
    needs: frozenset[str] = frozenset()  # words of not_claimed that excuse the target
    devices: tuple[str, ...] = ("cpu", "cuda")  # where it has a meaning; cuda:1 where there are two
    edges: tuple[str, ...] = ()  # edges that it meets too, each in a pass of its own
    only_edges: bool = False
    gatekeeper: str | None = None  # the edge that it guards
    own: tuple[Mapping[str, Any], ...] = ()  # its rows, in place of the stream's and of a search
    rows: int | None = None  # at most so many explicit rows, and searched cases; 1: all in one case, no search
    parts: int = 0  # judged only where it is asked for by its id, in so many items; the case's seed says which

    def fixed(self, precision: str) -> Mapping[str, Any]:
        """``fix`` for a run in this precision. In a half one, of what it leaves open only what HALF allows.

        Where the two have no value in common, HALF's stand: on others no half precision can decide.
        """
        if precision not in HALVES or self.precisions is not None:
            return self.fix
        narrow = {name: _common(self.fix[name], HALF[name]) for name in self.fix.keys() & HALF.keys()}
        return {**self.fix, **HALF, **narrow}

    def is_judged_in(self, precision: str, asked: Sequence[str]) -> bool:
        """Whether a run that asks for these precisions judges the law in this one."""
        if self.precisions is not None:
            return precision in self.precisions and (precision in asked or precision in HALVES)
        return precision in asked and (self.half or precision not in HALVES)

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """The kinds of cases that it is held on: those of no edge (None), unless it has its edges alone."""
        return self.edges if self.only_edges else (None, *self.edges)

    @property
    def family(self) -> str:
        return self.id.split(".")[0]

    @property
    def name(self) -> str:
        return self.id.split(".")[1]

    def __str__(self) -> str:
        return self.name

    @property
    def source(self) -> tuple[str, int]:
        """File and line where the law stands."""
        return inspect.getsourcefile(self.body) or "?", inspect.getsourcelines(self.body)[1]


_LAWS: dict[str, Law] = {}


def law(formula: str, *, broken_by: str | tuple[str, ...], **options: Any) -> Callable[[Callable[[Any], None]], Law]:
    """Register the function below as a law. Refuses, at import, a law without its text or with a known id."""

    def register(body: Callable[[Any], None]) -> Law:
        id = f"{body.__module__.rsplit('.', 1)[1]}.{body.__name__.replace('_', '-')}"
        statement, text = _parse(id, inspect.getdoc(body) or "")
        if id in _LAWS:
            raise ValueError(f"law {id} is there already: give the second another name")
        faults = (broken_by,) if isinstance(broken_by, str) else broken_by
        if not id.startswith("layout."):  # one family's own, so that a block that misreads a layout is one finding
            options["fix"] = {"layout": "contiguous", **options.get("fix", {})}
        if "needs" in options:
            options["needs"] = frozenset(options["needs"])
        one = _LAWS[id] = Law(id, formula, statement, text, body, faults, **options)
        return one

    return register


def _parse(id: str, doc: str) -> tuple[str, dict[str, str]]:
    """Statement and fields of a law's docstring."""
    statement, _, rest = doc.partition("\n")
    text = {
        name: " ".join(found.group(1).split())
        for name in FIELDS
        if (found := re.search(rf"^{name}: (.*?)(?=^(?:{'|'.join(FIELDS)}): |\Z)", rest, re.S | re.M))
    }
    # "Spec: 2. Since: 0.1." stand on one line
    for name in ("Spec", "Since"):
        if found := re.search(rf"\b{name}: ([^\n]*?)\.(?: |$)", rest, re.M):
            text[name] = found.group(1)
    missing = [name for name in FIELDS if not text.get(name)]
    if not statement or missing:
        raise ValueError(f"law {id} lacks {', '.join(missing) or 'a docstring'}: each law carries {', '.join(FIELDS)}")
    return statement.rstrip("."), text


def all() -> tuple[Law, ...]:
    """Every law, by family, in the order in which they stand."""
    for name in FAMILIES:
        import_module(f"flowref.laws.{name}")
    order = {name: i for i, name in enumerate(FAMILIES)}
    return tuple(sorted(_LAWS.values(), key=lambda one: order[one.family]))


def families() -> tuple[str, ...]:
    return FAMILIES


def asked(names: Sequence[str] = ()) -> tuple[Law, ...]:
    """The laws of these ids and families, each once; without any, all. A law in parts only by its own id. KeyError."""
    if not names:
        return tuple(one for one in all() if not one.parts)
    found = [one for name in names for one in find(name) if not one.parts or name == one.id]
    return tuple({one.id: one for one in found}.values())


def family(name: str) -> tuple[Law, ...]:
    """The laws of one family."""
    return find(name)


def find(text: str) -> tuple[Law, ...]:
    """The law of this id, or the laws of this family. KeyError with the nearest spelling."""
    laws = all()
    found = tuple(one for one in laws if text in (one.id, one.family))
    if not found:
        known = [one.id for one in laws] + list(FAMILIES)
        near = get_close_matches(text, known, n=1, cutoff=0.6)
        raise KeyError(
            f"no law {text!r}." + (f" Did you mean {near[0]}?" if near else "") + " `flowref laws` lists all."
        )
    return found
