"""A class with the documented constructor as a target: built, loaded and run as its documentation says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowref.cases import Case, Recipe
from flowref.fast import AllInOneBlock
from flowref.reference import ReferenceBlock
from flowref.spec import Dialect
from flowref.targets import Module, TargetError, TargetMisbehaved, resolve

PUBLIC = ("flowref.targets.freia:AllInOneBlock", "flowref.targets.anomalib:AllInOneBlock")
KINDS = {
    "hard": {},
    "soft": {"soft": True},
    "soft-reflections": {"soft": True, "reflections": 3},
    "hard-reflections": {"reflections": 2},
}


def public(name: str, dialect: Dialect | None = None) -> Any:
    pytest.importorskip("FrEIA")
    pytest.importorskip("scipy")
    return resolve(name, dialect)


def loaded(target: Any, case: Case, dtype: torch.dtype) -> nn.Module:
    block = target.build(case.spec, case.subnet_constructor, dtype, "cpu")
    target.load(block, case.state)
    return block


def stored(kind: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    """A block without a pass, that stores its permutation as ``kind`` says."""

    class Stored(nn.Module):
        def __init__(self, dims_in: Any, dims_c: Any, subnet_constructor: Any, **flags: Any) -> None:
            super().__init__()
            C = dims_in[0][0]
            self.global_scale = nn.Parameter(torch.zeros(1, C))
            self.global_offset = nn.Parameter(torch.zeros(1, C))
            self.register_buffer("w_perm", kind(torch.arange(C)))
            self.register_buffer("w_perm_inv", kind(torch.arange(C)))
            self.subnet = subnet_constructor(C - C // 2, 2 * (C // 2))

    return Stored


class Answering(nn.Module):
    """A block that answers what it is told to."""

    def __init__(self, answer: object = None, **flags: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Any, c: Any = None, rev: bool = False, jac: bool = True) -> object:
        return self.answer


@pytest.mark.parametrize("rev", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PUBLIC)
def test_public_blocks_answer_as_the_reference_at_every_rank_in_both_directions(
    name: str, kind: str, rank: int, rev: bool
) -> None:
    """With the case's state loaded; in float64, to a few ulps of the largest element, or of 1 for a log-det.

    Seen on one machine: 3.81 for the output, 1.24 for the log-det; the rest is left to other orders of summation.
    """
    case = Recipe(B=3, C=5, S=(2, 3, 2)[:rank], conditions=(2,) * (rank % 2), seed=rank, **KINDS[kind]).case()
    target, judge = public(name), Module(ReferenceBlock)
    x, c = case.inputs(torch.float64, "cpu")

    with torch.no_grad():
        y, logdet = target.run(loaded(target, case, torch.float64), x, c, rev)
        want_y, want_logdet = judge.run(loaded(judge, case, torch.float64), x, c, rev)

    ulp = torch.finfo(torch.float64).eps
    assert (y.dtype, y.shape, logdet.shape) == (torch.float64, x.shape, (3,))
    assert (y - want_y).abs().max() <= 8 * ulp * want_y.abs().max()
    assert (logdet - want_logdet).abs().max() <= 4 * ulp * (want_logdet.abs().max() + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [*PUBLIC, "flowref.fast:AllInOneBlock"])
def test_a_loaded_block_holds_the_values_of_the_case(make: str, kind: str, dtype: torch.dtype) -> None:
    case = Recipe(C=6, S=(2,), **KINDS[kind]).case()
    target = public(make) if make in PUBLIC else resolve(make)

    state = target.state(loaded(target, case, dtype))

    assert set(state) == set(case.state)
    assert all(torch.equal(state[name].double(), value.to(dtype).double()) for name, value in case.state.items())


def test_a_permutation_is_loaded_as_an_index_where_the_block_stores_one() -> None:
    """y = W v is v[:, w_perm]."""
    case = Recipe(C=7).case()
    target = Module(stored(lambda index: index), name="mine")

    state = target.state(loaded(target, case, torch.float64))

    W, v = case.state["w_perm"], case.x
    assert torch.equal(v[:, state["w_perm"]], v @ W.T)
    assert torch.equal(v[:, state["w_perm_inv"]], v @ W)
    assert state["w_perm"].dtype == torch.int64


def test_a_rotation_has_no_index() -> None:
    case, target = Recipe(C=7, soft=True).case(), Module(stored(lambda index: index), name="mine")
    with pytest.raises(TargetMisbehaved, match="w_perm as an index vector: need a matrix"):
        loaded(target, case, torch.float64)


def test_a_state_of_another_shape_is_named() -> None:
    case, target = Recipe(C=4).case(), Module(stored(lambda index: torch.eye(5)), name="mine")
    with pytest.raises(TargetMisbehaved, match=r"holds w_perm in the shape \(5, 5\): need \(4, 4\)"):
        loaded(target, case, torch.float64)


def test_missing_and_further_names_of_the_state_are_named() -> None:
    case, target = Recipe(C=4, reflections=1).case(), Module(stored(lambda index: torch.eye(4)), name="mine")
    with pytest.raises(TargetMisbehaved, match="has no vk_householder, w_0 and has w_perm, w_perm_inv"):
        loaded(target, case, torch.float64)


def test_a_constructor_that_makes_no_module_is_named() -> None:
    target = Module(lambda dims_in, dims_c, subnet_constructor, **flags: None, name="mine")
    with pytest.raises(TargetMisbehaved, match="the constructor returned None: need a torch.nn.Module"):
        target.build(Recipe().case().spec, nn.Linear, torch.float32, "cpu")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "returned None"),
        (torch.zeros(2, 4), r"returned a tensor of shape \(2, 4\)"),
        ((torch.zeros(2, 4), torch.zeros(2)), r"a tensor of shape \(2, 4\) as its outputs"),
        (((torch.zeros(2, 4), torch.zeros(2, 4)), torch.zeros(2)), "a tuple of 2"),
        (((), torch.zeros(2)), "a tuple of 0 as its outputs"),
        (([torch.zeros(2, 4)], 0.0), "a value of type float as its log-det"),
        (((torch.zeros(2, 4),), None), "None as its log-det"),
        (((torch.zeros(2, 4),),), "a tuple of 1"),
    ],
)
def test_an_answer_of_another_form_is_named(answer: object, said: str) -> None:
    with pytest.raises(TargetMisbehaved, match=rf"{said}.*: need \(\(y,\), logdet\)"):
        Module(Answering, name="mine").run(Answering(answer), torch.zeros(2, 4), (), rev=False)


def test_outputs_may_come_in_a_list() -> None:
    y, logdet = torch.ones(2, 4), torch.zeros(2)
    assert Module(Answering).run(Answering([[y], logdet]), y, (), rev=False) == (y, logdet)


def test_without_jac_the_log_det_may_be_left_out() -> None:
    y = torch.ones(2, 4)
    assert Module(Answering).run(Answering(((y,), None)), y, (), rev=False, jac=False) == (y, None)


def test_the_dialect_goes_to_a_constructor_that_takes_one() -> None:
    spec = Recipe(dialect=Dialect.DOCUMENTED).case().spec
    given = Module(AllInOneBlock).build(spec, nn.Linear, torch.float32, "cpu")
    assert given.dialect is Dialect.DOCUMENTED


class HandingOn(AllInOneBlock):
    def __init__(self, *args: Any, **flags: Any) -> None:
        super().__init__(*args, **flags)


class TakingSome(HandingOn):
    def __init__(self, dims_in: Any, dims_c: Any = (), **flags: Any) -> None:
        super().__init__(dims_in, dims_c, **flags)


@pytest.mark.parametrize("make", [HandingOn, TakingSome])
def test_the_dialect_goes_through_a_constructor_that_hands_its_flags_on(make: type[AllInOneBlock]) -> None:
    spec = Recipe(dialect=Dialect.DOCUMENTED).case().spec
    assert Module(make).build(spec, nn.Linear, torch.float32, "cpu").dialect is Dialect.DOCUMENTED


def test_a_constructor_without_a_documented_argument_is_refused_with_its_name() -> None:
    def make(dims_in: Any, dims_c: Any, subnet_constructor: Any, affine_clamping: float, gin_block: bool) -> None: ...

    with pytest.raises(TargetError) as refused:
        Module(make, name="my_flow:make")

    assert str(refused.value) == (
        "my_flow:make takes dims_in, dims_c, subnet_constructor, affine_clamping, gin_block: need global_affine_init, "
        "global_affine_type, permute_soft, learned_householder_permutation, reverse_permutation as well, since all "
        "documented arguments are given by name. Add what is missing, or name a function that "
        "takes all and makes the block."
    )


def test_what_takes_any_flag_may_deal_with_them_itself() -> None:
    class Plain(nn.Module):
        def __init__(self, dims_in: Any, subnet_constructor: Any) -> None:
            super().__init__()

    class Popping(Plain):
        def __init__(self, **flags: Any) -> None:
            super().__init__(flags["dims_in"], flags["subnet_constructor"])

    assert isinstance(Module(Popping).construct(Recipe().case().spec, nn.Linear), Popping)


def test_every_argument_goes_by_keyword_and_no_dialect_to_who_takes_none() -> None:
    asked: dict[str, Any] = {}

    def make(**arguments: Any) -> nn.Module:
        asked.update(arguments)
        return nn.Linear(1, 1)

    spec = Recipe(C=3, S=(2,), conditions=(1, 2), affine="EXP", g=2.0, alpha=0.5, gin=True, soft=True).case().spec
    Module(make).build(spec, nn.Linear, torch.float32, "cpu")

    assert asked == {
        "dims_in": [(3, 2)],
        "dims_c": [(1, 2), (2, 2)],
        "subnet_constructor": nn.Linear,
        "affine_clamping": 0.5,
        "gin_block": True,
        "global_affine_init": 2.0,
        "global_affine_type": "EXP",
        "permute_soft": True,
        "learned_householder_permutation": 0,
        "reverse_permutation": False,
    }


def test_what_is_stated_holds_unless_an_option_says_otherwise() -> None:
    class Stating(Answering):
        dialect = "documented"
        precision = "tf32"
        not_claimed = frozenset({"compile"})

    stated, other = Module(Stating), Module(Stating, dialect="freia-main")

    assert (stated.dialect, stated.precision, stated.not_claimed) == (Dialect.DOCUMENTED, "tf32", {"compile"})
    assert (other.dialect, Module(Answering).dialect) == (Dialect.FREIA_MAIN, Dialect.ANOMALIB)


def test_a_property_of_the_blocks_states_nothing_about_the_class() -> None:
    class Own(Answering):
        @property
        def dialect(self) -> str:
            return "documented"

    assert Module(Own).dialect is Dialect.ANOMALIB


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (
            {"dialect": "anomlib"},
            "dialect='anomlib': need one of anomalib, freia-main, documented. Did you mean 'anoma",
        ),
        ({"precision": "tf23"}, "precision='tf23': need ieee, or tf32 .* Did you mean 'tf32'"),
        ({"not_claimed": {"compiles"}}, "not_claimed='compiles', and nothing else .* Did you mean 'compile'"),
        ({"not_claimed": {"gradient"}}, "not_claimed='gradient', and nothing else can be excused"),
        ({"not_claimed": "compile"}, "not_claimed='compile': need a set of words"),
    ],
)
def test_an_unknown_word_is_refused(stated: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        Module(type("Stating", (Answering,), stated), name="mine:Block")
