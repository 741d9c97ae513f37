"""Every fault is one that can be told: its text is there once, it compiles, and it differs from the plain block."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flowref.cases import Case, Recipe
from flowref.faults import circumstances, edges, stateful, surface, swallowed
from flowref.faults.corpus import DIALECTS, FAULTS, Fault, build, find
from flowref.faults.plain import PlainBlock
from flowref.faults.source import edited, plain_source
from flowref.laws import registry

# Above what rounding alone makes of two correct blocks in float64 (test_variants.py).
ULPS = 2**10
IDS = [fault.id for fault in FAULTS]
each = pytest.mark.parametrize("fault", FAULTS, ids=IDS)


def test_there_are_at_least_55_and_ids_are_unique() -> None:
    assert len(set(IDS)) == len(IDS) >= 55


@each
def test_id_is_kebab_case_and_note_says_something(fault: Fault) -> None:
    assert re.fullmatch(r"[a-z0-9]+([-.][a-z0-9]+)*", fault.id) and len(fault.note) > 4


@each
def test_law_is_a_law(fault: Fault) -> None:
    assert [law.id for law in registry.find(fault.law)] == [fault.law]


@each
def test_before_text_occurs_once_and_changes(fault: Fault) -> None:
    source = plain_source()

    for before, after in fault.edits:
        assert source.count(before) == 1 and before != after


@each
def test_dialects_are_known(fault: Fault) -> None:
    assert fault.dialects and set(fault.dialects) <= set(DIALECTS)


def test_every_law_has_a_fault() -> None:
    named = {fault.law for fault in FAULTS}

    assert [law.id for law in registry.all() if law.id not in named] == []


def test_faults_that_laws_name_exist() -> None:
    assert [(law.id, name) for law in registry.all() for name in law.broken_by if name not in IDS] == []


def test_an_edit_whose_text_is_missing_or_not_unique_is_refused() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        edited([("no such text", "")])
    with pytest.raises(ValueError, match="once, but it occurs"):
        edited([("return", "")])


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="reverse-keeps-offset"):
        find("reverse-keep-offset")


def test_each_build_is_a_class_of_its_own() -> None:
    fault = FAULTS[0]

    assert build(fault) is not build(fault) and build(fault) is not PlainBlock


# Faults whose effect lies in what is drawn, in what only happens to special values, or below the float64 threshold.


def drawn(
    attribute: str, soft: bool, reflections: int, figure: Callable[[torch.Tensor], float]
) -> Callable[[Any], Any]:
    """A figure of 200 new blocks' own draws, the same seeds for every block."""

    def seen(make: Any) -> float:
        total = 0.0
        for seed in range(200):
            torch.manual_seed(seed)
            flags = {"permute_soft": soft, "learned_householder_permutation": reflections}
            block = make([(3,)], None, lambda n, m: torch.nn.Linear(n, m), **flags)
            total += figure(getattr(block, attribute).detach().squeeze().double())
        return total / 200

    return seen


def initial(kind: str, g: float) -> Callable[[Any], float]:
    """The initial scale parameter of a new block."""

    def seen(make: Any) -> float:
        flags = {"global_affine_type": kind, "global_affine_init": g}
        return float(make([(3,)], None, lambda n, m: torch.nn.Linear(n, m), **flags).global_scale.detach()[0, 0])

    return seen


def with_a_nan(make: Any) -> float:
    """How many elements of the other sample stay finite when one sample holds a NaN; −1 if the pass raises."""
    block = make([(4,)], None, lambda n, m: torch.nn.Linear(n, m))
    x = torch.ones(2, 4)
    x[0, 1] = torch.nan
    try:
        return float(block([x])[0][0][1].isfinite().sum())
    except ValueError:
        return -1.0


def of_long_sums(make: Any) -> float:
    """Log-det in float32 of 4096 equal log-scales."""
    block = make([(2, 64, 64)], None, lambda n, m: torch.nn.Conv2d(n, m, 1), dialect="documented", affine_clamping=1.0)
    torch.nn.init.zeros_(block.subnet.weight)
    torch.nn.init.constant_(block.subnet.bias, 0.1)
    return float(block([torch.ones(1, 2, 64, 64)])[1].detach()[0])


def of_strided_gradients(make: Any) -> float:
    """Gradient by x where the output is concatenated before the loss."""
    torch.manual_seed(0)
    block = make([(4, 3)], None, lambda n, m: torch.nn.Conv1d(n, m, 1))
    x = torch.ones(2, 4, 3, requires_grad=True)
    weights = torch.arange(48.0).reshape(3, 4, 4)[:, :, :2].movedim(0, 2).reshape(4, 2, 3).movedim(0, 1)
    (block([x])[0][0] * weights).sum().backward()
    assert x.grad is not None
    return float((x.grad * torch.arange(24.0).reshape(2, 4, 3)).sum())


def of_short_vectors(make: Any) -> float:
    """W[0, 0] by a reflection of length 1/100."""
    torch.manual_seed(0)
    block = make([(3,)], None, lambda n, m: torch.nn.Linear(n, m), permute_soft=True, learned_householder_permutation=1)
    with torch.no_grad():
        block.vk_householder *= 0.01 / block.vk_householder.norm()
    return float(block.mixing()[0].detach()[0, 0])


def clamped(k: float) -> Callable[[Any], float]:
    """l / k in float32."""

    def seen(make: Any) -> float:
        block = make([(4,)], None, lambda n, m: torch.nn.Linear(n, m), affine_clamping=1.0)
        return float(block.clamp(torch.tensor([k]))) / k

    return seen


def after_reverse(make: Any) -> float:
    """The output for 0 with an offset of 1, of a block that has run in reverse."""
    torch.manual_seed(0)
    block = make([(4,)], None, lambda n, m: torch.nn.Linear(n, m))
    with torch.no_grad():
        block.global_offset += 1
    block([torch.zeros(1, 4)], rev=True)
    return float(block([torch.zeros(1, 4)])[0][0].detach().sum())


def without_gradients(make: Any) -> float:
    """The output in reverse of a GIN block, under no_grad."""
    torch.manual_seed(0)
    block = make([(4,)], None, lambda n, m: torch.nn.Linear(n, m), gin_block=True)
    with torch.no_grad():
        return float(block([torch.tensor([[1.0, 2.0, 4.0, 8.0]])], rev=True)[0][0][0, 2])


def scale_after_a_change_of_the_offset(make: Any) -> float:
    block = make([(4,)], None, lambda n, m: torch.nn.Linear(n, m))
    with torch.no_grad():
        block.global_offset += 1
    return float(block.global_scale.detach().sum())


def output_dims(make: Any) -> Any:
    return make([(4, 3)], None, lambda n, m: torch.nn.Conv1d(n, m, 1)).output_dims([(4, 3)])


hard_identity = drawn("w_perm", False, 0, lambda W: float(W[0, 0]))
hard_fixed = drawn("w_perm", False, 0, lambda W: float(torch.diagonal(W).sum() == 1))
orthogonality = drawn("w_perm", True, 0, lambda W: float((W.T @ W - torch.eye(3).double()).abs().max()))
determinant = drawn("w_perm", True, 0, lambda W: float(torch.linalg.det(W)))
first_entry = drawn("w_perm", True, 0, lambda W: float(W[0, 0]))
vectors = drawn("vk_householder", True, 4, lambda v: float(v.abs().mean() + v.mean()))

SPECIAL: dict[str, Callable[[Any], Any]] = {
    "initial-scale-is-log-g": initial("SIGMOID", 2.0),
    "initial-softplus-scale-is-10-g": initial("SOFTPLUS", 0.1),
    "initial-softplus-scale-in-float32": initial("SOFTPLUS", 20.0),
    "initial-scale-ignores-g": initial("EXP", 2.0),
    "soft-is-not-orthogonal": orthogonality,
    "soft-has-either-determinant": determinant,
    "soft-has-determinant-minus-1": determinant,
    "soft-lacks-sign-correction": first_entry,
    "soft-is-near-the-identity": first_entry,
    "hard-repeats-a-channel": drawn("w_perm", False, 0, lambda W: float((W.sum(0) - 1).abs().max())),
    "hard-is-always-a-shift": hard_fixed,
    "hard-never-keeps-channel-0": hard_identity,
    "inverse-is-not-transposed": drawn("w_perm_inv", False, 0, lambda V: float(V[0, 1] + 2 * V[1, 2])),
    "reflections-start-tiny": vectors,
    "reflections-start-uniform": vectors,
    "reflections-guarded-by-1e-6": of_short_vectors,
    "nan-spreads-over-the-batch": with_a_nan,
    "nan-refused": with_a_nan,
    "logdet-sums-one-by-one": of_long_sums,
    "backward-assumes-contiguous-gradients": of_strided_gradients,
    "output-dims-drops-an-axis": output_dims,
    "tanh-loses-digits-near-0": clamped(1e-5),
    "clamp-flushes-small-coefficients": clamped(1e-6),
    "clamp-through-exp-overflows": clamped(100.0),
    "clamp-leaves-a-gap": clamped(9.0),
    "clamp-wrong-at-one-coefficient": clamped(0.7853982),
    "forward-drops-offset-after-reverse": after_reverse,
    "inference-overwrites-the-active-half": without_gradients,
    "scale-and-offset-share-their-storage": scale_after_a_change_of_the_offset,
}
# Seen only without jac, by one ulp, or where the arithmetic is exact: a unit smaller than ULPS.
SMALL = {"scale-is-one-plus-epsilon"}


def one_ulp(make: Any, tools: Any) -> torch.Tensor:
    """The output where every operation is exact."""
    recipe = Recipe(subnet="zero", affine="EXP", scale="one", offset="zero", bits=8)
    return tools.seen(make, recipe.case())["forward output"]


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.id in SPECIAL], ids=[i for i in IDS if i in SPECIAL])
def test_differs_in_what_it_draws_or_does_to_special_values(fault: Fault) -> None:
    look = SPECIAL[fault.id]
    want, got = look(PlainBlock), look(build(fault))

    assert want != got if not isinstance(want, float) else not abs(want - got) < 1e-5 * max(1.0, abs(want))


@pytest.mark.parametrize("fault", [find(name) for name in sorted(SMALL)], ids=sorted(SMALL))
def test_differs_in_the_last_bit(fault: Fault, tools: Any) -> None:
    assert not torch.equal(one_ulp(PlainBlock, tools), one_ulp(build(fault), tools))


# What is refused, kept or left behind, or needs its circumstances, shows on no usual pass: told by their laws.
SURFACE = {
    fault.id for fault in (*surface.FAULTS, *stateful.FAULTS, *circumstances.FAULTS, *swallowed.FAULTS, *edges.FAULTS)
}
OTHER = [fault for fault in FAULTS if fault.id not in {*SPECIAL, *SMALL, *SURFACE}]
COMPARED = [fault for fault in OTHER if not fault.law.startswith("dtype.")]
NARROW = [fault for fault in OTHER if fault.law.startswith("dtype.")]


@pytest.mark.parametrize("fault", COMPARED, ids=[fault.id for fault in COMPARED])
def test_differs_on_a_case_in_every_dialect(fault: Fault, decks: Any, tools: Any) -> None:
    """Values, gradients, shapes or exceptions, on some case of the deck."""
    make = build(fault)
    alike = [d for d in fault.dialects if not any(differs(make, case, tools) for case in decks(d))]

    assert alike == []


def differs(make: Any, case: Case, tools: Any) -> bool:
    """Whether anything that is seen of the block is further apart than rounding makes it."""
    apart = tools.apart(tools.plain(case), tools.seen(make, case))
    limit = lambda name: ULPS if "trip" not in name else math.inf  # noqa: E731 (conditioned by e^2α)
    return any(not d <= limit(name) for name, d in apart.items())


@pytest.mark.parametrize("fault", NARROW, ids=[fault.id for fault in NARROW])
def test_differs_in_some_precision_in_every_dialect(fault: Fault, decks: Any, tools: Any) -> None:
    """In any bit: an edit touches nothing but its fault, so rounding is the same elsewhere."""
    make = build(fault)
    alike = [d for d in fault.dialects if not any(differs_narrowly(make, case, tools) for case in decks(d))]

    assert alike == []


def differs_narrowly(make: Any, case: Case, tools: Any) -> bool:
    """Whether anything differs in float64, in a half precision, or under autocast."""
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        if any(tools.apart(tools.seen(PlainBlock, case, dtype), tools.seen(make, case, dtype)).values()):
            return True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, faulty = (tools.seen(block, case, torch.float32) for block in (PlainBlock, make))
    return any(tools.apart(plain, faulty).values())
