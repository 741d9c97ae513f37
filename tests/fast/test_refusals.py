"""What the fast block refuses: by itself, before its subnet is called, saying what was expected and what came."""

import re

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flowref.fast import AllInOneBlock


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


# (dims, conditions, x, c, exception, words of the message)
CALLS = {
    "bare input": ((4,), (), ones(1, 2, 4), None, TypeError, ["x is a bare", "(1, 2, 4)", "1 tensors", "(B, 4)"]),
    "bare condition": ((4,), (2,), [ones(2, 4)], ones(1, 2, 2), TypeError, ["c is a bare", "(1, 2, 2)", "(B, 2)"]),
    "no sequence": ((4,), (), 3, None, TypeError, ["x is of type int"]),
    "no tensor": ((4,), (), ["x"], None, TypeError, ["x[0] is of type str"]),
    "no input": ((4,), (), [], None, ValueError, ["x holds 0 tensors", "1 tensors"]),
    "two inputs": ((4,), (), [ones(2, 4)] * 2, None, ValueError, ["x holds 2 tensors", "1 tensors"]),
    "channels": ((4,), (), [ones(2, 5)], None, ValueError, ["x[0] has shape (2, 5)", "(B, 4)"]),
    "rank above": ((4,), (), [ones(2, 4, 4)], None, ValueError, ["(2, 4, 4)", "(B, 4)"]),
    "rank below": ((4, 3), (), [ones(2, 4)], None, ValueError, ["(2, 4)", "(B, 4, 3)"]),
    "no axis": ((4,), (), [torch.tensor(1.0)], None, ValueError, ["()", "(B, 4)"]),
    "pixels": ((4, 3), (), [ones(2, 4, 5)], None, ValueError, ["(2, 4, 5)", "(B, 4, 3)"]),
    "condition missing": ((4,), (2,), [ones(2, 4)], None, ValueError, ["c holds 0 tensors", "1 tensors", "(B, 2)"]),
    "condition too many": ((4,), (), [ones(2, 4)], [ones(2, 7)], ValueError, ["c holds 1 tensors", "0 tensors"]),
    "conditions merged": ((4,), (1, 3), [ones(2, 4)], [ones(2, 4)], ValueError, ["c holds 1 tensors", "2 tensors"]),
    "swapped": ((4,), (1, 3), [ones(2, 4)], [ones(2, 3), ones(2, 1)], ValueError, ["c[0]", "(2, 3)", "(2, 1)"]),
    "the second": ((4,), (1, 3), [ones(2, 4)], [ones(2, 1), ones(2, 2)], ValueError, ["c[1]", "(2, 2)", "(2, 3)"]),
    "condition's batch": ((4,), (2,), [ones(2, 4)], [ones(1, 2)], ValueError, ["c[0] has shape (1, 2)", "(2, 2)"]),
    "condition's pixels": ((4, 3), (2,), [ones(2, 4, 3)], [ones(2, 2, 1)], ValueError, ["(2, 2, 1)", "(2, 2, 3)"]),
    "narrower input": ((4,), (), [ones(2, 4).half()], None, TypeError, ["x[0]", "torch.float16", "torch.float32"]),
    "wider input": ((4,), (), [ones(2, 4).double()], None, TypeError, ["torch.float64", "torch.float32"]),
    "whole input": ((4,), (), [ones(2, 4).long()], None, TypeError, ["torch.int64", "torch.float32"]),
    "wider condition": ((4,), (2,), [ones(2, 4)], [ones(2, 2).double()], TypeError, ["c[0] has dtype torch.float64"]),
    "other device": ((4,), (), [ones(2, 4).to("meta")], None, RuntimeError, ["x[0] is on meta", "expected cpu"]),
    "condition's device": ((4,), (2,), [ones(2, 4)], [ones(2, 2).to("meta")], RuntimeError, ["c[0] is on meta"]),
}  # fmt: skip


class Inside(TorchFunctionMode):
    """Whether an exception left one of torch's own functions."""

    raised = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.raised = True
            raise


@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_wrong_call_is_refused_by_the_block_and_named(block, call, rev):
    dims, conditions, x, c, kind, words = call
    made = block(dims, conditions)
    with Inside() as inside, pytest.raises(kind) as error:
        made(x, c, rev=rev)

    assert all(word in str(error.value) for word in words), str(error.value)
    assert made.subnet.calls == 0
    assert not inside.raised


@pytest.mark.parametrize(
    ("flags", "name"),
    [({"permute_soft": True}, "w_perm"), ({}, "w_perm_inv"), ({"learned_householder_permutation": 2}, "w_0")],
)
def test_a_block_of_which_a_part_is_on_another_device_is_refused(block, flags, name):
    """torch's own product with a matrix on meta answers with numbers, whatever the memory held."""
    made = block((4,), **flags)
    setattr(made, name, nn.Parameter(getattr(made, name).detach().to("meta"), requires_grad=False))

    with pytest.raises(RuntimeError, match=f"^{name} is on meta: expected cpu, where the rest of the block is. Move"):
        made([ones(2, 4)], rev=True)


def test_an_input_that_is_no_floating_number_is_refused_under_autocast_too(block):
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match="torch.int64"):
        block((4,))([ones(2, 4).long()])


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.calls = answer, 0

    def forward(self, v):
        self.calls += 1
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ones(2, 5, 3), ["(2, 5, 3)", "(2, 8, 3)"]),
        (ones(2, 1, 3), ["(2, 1, 3)", "(2, 8, 3)"]),
        (ones(2, 8, 1), ["(2, 8, 1)", "(2, 8, 3)"]),
        (ones(1, 8, 3), ["(1, 8, 3)", "(2, 8, 3)"]),
        (ones(2, 8), ["(2, 8)", "(2, 8, 3)"]),
        ((ones(2, 8, 3),), ["tuple", "(2, 8, 3)"]),
        (None, ["NoneType", "(2, 8, 3)"]),
        (ones(2, 8, 3).long(), ["torch.int64"]),
        (ones(2, 8, 3).to("meta"), ["meta", "cpu"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("rev", (False, True))
def test_a_wrong_answer_is_refused_after_its_one_call(block, answer, words, rev):
    made = block((8, 3), subnet=lambda n, m: Answers(answer))
    with Inside() as inside, pytest.raises((ValueError, TypeError, RuntimeError)) as error:
        made([ones(2, 8, 3)], rev=rev)

    assert all(word in str(error.value) for word in ("the subnet answered", *words)), str(error.value)
    assert made.subnet.calls == 1
    assert not inside.raised


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"global_affine_type": "SOFTPLUS", "global_affine_init": 1e38}, ["global_affine_init=1e+38", "SOFTPLUS"]),
        ({"global_affine_type": "EXP", "global_affine_init": 1e39}, ["global_affine_init=1e+39", "EXP", "float32"]),
        ({"global_affine_type": "EXP", "global_affine_init": 1e-46}, ["global_affine_init=1e-46"]),
        ({"global_affine_type": "SIGMOID", "global_affine_init": 1e-40}, ["global_affine_init=1e-40", "SIGMOID"]),
        ({"global_affine_type": "SOFTPLUS", "global_affine_init": 1e-45}, ["global_affine_init=1e-45"]),
        ({"global_affine_type": "SOFTPLUS", "global_affine_init": 0.0}, ["global_affine_init=0.0"]),
        ({"affine_clamping": -2.0}, ["affine_clamping=-2.0"]),
        ({"affine_clamping": 0.0, "dialect": "freia-main"}, ["affine_clamping=0.0", "freia-main"]),
        ({"learned_householder_permutation": -1}, ["learned_householder_permutation=-1"]),
        ({"dialect": "anomalia"}, ["dialect='anomalia'", "'anomalib'"]),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_and_named(flags, words):
    with pytest.raises(ValueError) as error:
        AllInOneBlock([(4,)], None, nn.Linear, **flags)

    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "subnet",
    (None, 3, lambda n, m: None, lambda n, m: torch.relu),
    ids=("none", "number", "gives-none", "gives-a-function"),
)
def test_a_subnet_that_is_no_module_is_refused(subnet):
    with pytest.raises((ValueError, TypeError), match="subnet_constructor"):
        AllInOneBlock([(4,)], None, subnet)


def test_the_range_of_the_initial_scale_is_that_of_the_default_dtype():
    build = lambda: AllInOneBlock([(4,)], None, nn.Linear, global_affine_type="EXP", global_affine_init=1e39)  # noqa: E731
    torch.set_default_dtype(torch.float64)

    assert build().global_scale.isfinite().all()
    torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match=re.escape("1e+39")):
        build()


# ---- what is loaded


STATES = {
    "an index that is no permutation": (
        "no permutation",
        lambda s: s | {"w_perm": torch.tensor([0, 1, 2, 2]), "w_perm_inv": torch.tensor([0, 1, 2, 2])},
    ),
    "an index out of range": ("no permutation", lambda s: s | {"w_perm": torch.tensor([0, 1, 2, 4])}),
    "an index of another length": ("(3,)", lambda s: s | {"w_perm": torch.arange(3)}),
    "an index as floats": ("(4,)", lambda s: s | {"w_perm": torch.arange(4.0)}),
    "a matrix of another rank": ("(4, 4, 1, 1)", lambda s: s | {"w_perm": torch.eye(4).view(4, 4, 1, 1)}),
    "a matrix that is not orthogonal": (
        "not orthogonal",
        lambda s: s | {"w_perm": 1.02 * torch.eye(4)[..., None], "w_perm_inv": 1.02 * torch.eye(4)[..., None]},
    ),
    "a matrix with NaN": ("not orthogonal", lambda s: s | {"w_perm": torch.full((4, 4, 1), torch.nan)}),
    "an inverse that is none": (
        "transpose",
        lambda s: s | dict.fromkeys(("w_perm", "w_perm_inv"), torch.eye(4)[[1, 2, 3, 0], :, None]),
    ),
    "index vectors that are no inverses": (
        "transpose",
        lambda s: s | {"w_perm": torch.tensor([1, 2, 3, 0]), "w_perm_inv": torch.tensor([1, 2, 3, 0])},
    ),
    "no tensor": ("expected", lambda s: s | {"w_perm": [0, 1, 2, 3]}),
}  # fmt: skip


@pytest.mark.parametrize("soft", (False, True))
@pytest.mark.parametrize("dialect", ("anomalib", "freia-main"))
@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_wrong_mixing_matrix_is_refused_and_nothing_is_loaded(block, state, dialect, soft):
    word, change = state
    made = block((4, 2), dialect=dialect, permute_soft=soft)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    other = block((4, 2), dialect=dialect, permute_soft=soft).state_dict()
    with pytest.raises(RuntimeError, match="w_perm") as error:
        made.load_state_dict(change(dict(other)))

    assert word in str(error.value)
    assert all(torch.equal(made.state_dict()[k], v) for k, v in before.items())


def test_one_half_of_a_pair_is_refused_unless_it_fits(block):
    made, other = block((6,)), block((6,))
    with pytest.raises(RuntimeError, match="give both"):
        made.load_state_dict({"w_perm": other.w_perm}, strict=False)

    made.load_state_dict({"w_perm": made.w_perm.clone()}, strict=False)


def test_a_wrong_w_0_is_refused(block):
    made = block((4,), learned_householder_permutation=2)
    with pytest.raises(RuntimeError, match="w_0 is not orthogonal"):
        made.load_state_dict(dict(made.state_dict()) | {"w_0": 2 * torch.eye(4)})


def test_a_matrix_rounded_to_bfloat16_is_taken(block):
    made = block((64,), permute_soft=True)
    rounded = {k: v.bfloat16() if k.startswith("w_") else v for k, v in made.state_dict().items()}
    made.load_state_dict(rounded)

    assert torch.equal(made.w_perm, rounded["w_perm"].float())


def test_the_error_names_the_entry_by_its_path(block):
    chain = nn.Sequential(block((4,)), block((4,)))
    state = dict(chain.state_dict()) | {"1.w_perm": torch.zeros(4, 4)}
    with pytest.raises(RuntimeError, match=re.escape("1.w_perm is not orthogonal")):
        chain.load_state_dict(state)
