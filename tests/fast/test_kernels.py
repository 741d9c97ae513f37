"""The compiled kernels: their functions to a few ulps, their passes by the laws, and what holds around them."""

import ctypes
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

pytest.importorskip("numba")

from flowref.cases import Recipe
from flowref.cases.stream import edge_rows, rows
from flowref.fast import AllInOneBlock, choice, cpu, fused, kernels, pool
from flowref.laws import registry
from flowref.laws.run import hold_case
from flowref.targets import Module

DIALECTS = ("anomalib", "freia-main", "documented")


@pytest.fixture
def passes(monkeypatch):
    """Counts the passes that kernels run."""
    counted, run = [], fused.run

    def noted(*given):
        counted.append(True)  # and keeps nothing of the pass
        return run(*given)

    monkeypatch.setattr(fused, "run", noted)
    return counted


# ---- functions


def ulps(function, want, x):
    """Errors in units of the last place of the right result, float64's, rounded; subnormal ones in 2^-149."""
    x = np.ascontiguousarray(x, np.float32)
    y = np.full_like(x, np.nan)
    function(x.ctypes.data, y.ctypes.data, len(x))
    right = want(x.astype(np.float64))
    unit = np.spacing(np.abs(right).astype(np.float32)).astype(np.float64)
    return np.abs(y - right) / unit, x


NEAR_ZERO = np.concatenate([sign * 2.0 ** np.linspace(-149, 3, 200_001) for sign in (1, -1)])


@pytest.mark.parametrize("points", (np.linspace(-103.9, 88.72, 2_000_003), NEAR_ZERO), ids=("range", "near-0"))
def test_exp_is_right_to_one_ulp(points):
    """The bound grants (2 + |x|) ulps."""
    error, x = ulps(cpu.exp_of, np.exp, points)

    assert error.max() <= 1.05, (error.max(), x[error.argmax()])


@pytest.mark.parametrize("points", (np.linspace(-12, 12, 2_000_003), NEAR_ZERO), ids=("range", "near-0"))
def test_tanh_is_right_to_two_and_a_half_ulps_near_0_too(points):
    """The bound grants 4 ulps."""
    error, x = ulps(cpu.tanh_of, np.tanh, points)

    assert error.max() <= 2.5, (error.max(), x[error.argmax()])


@pytest.mark.parametrize("n", (7, 16, 33))
def test_functions_at_their_ends(n):
    """In whole vectors and in what is left over."""
    ends = np.array([0, -0.0, np.inf, -np.inf, np.nan, 89, -104, 1e-45, -1e-45, 9.1, -1e30], np.float32)
    x = np.resize(ends, n)
    y, z = np.empty_like(x), np.empty_like(x)
    cpu.exp_of(x.ctypes.data, y.ctypes.data, n)
    cpu.tanh_of(x.ctypes.data, z.ctypes.data, n)
    exp = np.resize(np.array([1, 1, np.inf, 0, np.nan, np.inf, 0, 1, 1, y[9] if n > 9 else 0, 0], np.float32), n)
    tanh = np.resize(np.array([0, -0.0, 1, -1, np.nan, 1, -1, 1e-45, -1e-45, 1, -1], np.float32), n)

    assert np.array_equal(y, exp, equal_nan=True)
    assert np.array_equal(z, tanh, equal_nan=True)
    assert np.array_equal(np.signbit(z[~np.isnan(z)]), np.signbit(tanh[~np.isnan(tanh)]))


# ---- passes


LAWS = ("reference", "gradient.by-input", "gradient.by-parameters", "layout.every", "compile.second", "purity.nothing")


def laws():
    return [law for law in registry.all() if law.id.startswith(LAWS)]


@pytest.mark.parametrize(("threads", "room"), [(1, fused.ROOM), (1, 8), (3, 8)])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_laws_hold_on_kernels_in_every_dialect(passes, monkeypatch, dialect, threads, room):
    """Over some rows of smoke and an edge; with three threads also where a sample is shared by them.

    With little room, products take their samples in turns.
    """
    monkeypatch.setattr(fused, "ROOM", room)
    if threads > 1:
        monkeypatch.setattr(fused, "ALONE", 0)
        torch.set_num_threads(threads)
    target = Module(AllInOneBlock, dialect=dialect)
    found = laws()
    assert len({law.family for law in found}) >= 4
    for law in found:
        recipes = rows("smoke", dialect, law.fixed("float32"))[threads + (room == 8) :: 6]
        for recipe in (*recipes, *(edge_rows("channels-1", dialect) if law.family == "reference" else ())):
            for direction in law.directions:
                hold_case(law, recipe.case(), target, "float32", direction)

    assert len(passes) > 50


@pytest.mark.parametrize("dims", [(6,), (1100,), (3, 40, 30), (2, 5)], ids=str)
@pytest.mark.parametrize("gin", (False, True))
def test_the_number_of_threads_changes_no_output_or_gradient_by_more_than_the_logdets_order(
    block, monkeypatch, dims, gin
):
    """Rows of more than a scratch buffer, pixels of more than one, fewer samples than threads."""
    made = block(dims, gin_block=gin, subnet=Halves)
    x = torch.randn(2, *dims)
    seen = []
    for threads, alone in ((1, 2**17), (3, 0)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(fused, "ALONE", alone)
        given = x.clone().requires_grad_()
        (y,), logdet = made([given])
        (y.square().sum() + logdet.sum()).backward()
        seen.append((y, given.grad, *(p.grad.clone() for p in made.parameters() if p.grad is not None)))
        made.zero_grad()

    # Sums over a sample are in float64, whose order is all that may differ, so what they round to is the same.
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


MIXED = {
    "soft": {"soft": True},
    "soft, both sides": {"soft": True, "reverse_permutation": True},
    "reflections": {"reflections": 2},
    "soft, reflections": {"soft": True, "reflections": 2, "reverse_permutation": True},
    "soft, GIN": {"soft": True, "gin": True},
}
VALUES = ("output-equals-reference", "inference-equals-reference", "logdet.equals-reference")


@pytest.mark.parametrize("dims", [(6,), (4, 5)], ids=str)
@pytest.mark.parametrize("flags", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("dialect", ("anomalib", "documented"))
@pytest.mark.parametrize("rev", (False, True))
def test_samples_that_take_turns_before_a_product_stay_within_the_bounds(monkeypatch, dims, flags, dialect, rev):
    """Seven samples in four turns, with gradients and without; nothing is known of a product's order but the bounds."""
    monkeypatch.setattr(fused, "ROOM", 2 * math.prod(dims))
    turns, make = [], fused.Plan._turns
    monkeypatch.setattr(fused.Plan, "_turns", lambda *given: turns.append(make(*given)) or turns[-1])
    case = Recipe(B=7, C=dims[0], S=dims[1:], dialect=dialect, subnet="network", conditions=(2,), **flags).case()
    held = [law for law in registry.all() if law.id.endswith(VALUES) or law.id.startswith("gradient.by-")]

    for law in held:
        hold_case(law, case, Module(AllInOneBlock, dialect=dialect), "float32", "reverse" if rev else "forward")

    assert len(held) == len(VALUES) + 4
    mixed_behind = not rev or "reverse_permutation" in flags
    assert {len(some) for some in turns} == ({4} if mixed_behind else {1})


# ---- products


PIXELS = (16, 17, 31, 33, 48, 49, 63, 64, 65, 79, 81, 127, 128, 129, 191, 255, 257)
TILES = [(C, n, B) for C in (6, 7, 11, 13, 33) for n in PIXELS for B in (1, 2)]
TILES += [(C, 1, B) for C in PIXELS for B in (6, 7, 13, 50)]


def within(v, room=64):
    """A copy of v in the middle of NaNs, and all of that memory."""
    memory = torch.full((v.numel() + 2 * room,), math.nan)
    copy = memory[room : room + v.numel()].view(v.shape)
    return copy.copy_(v), memory


# W as it may lie in memory: its rows in one piece, its columns, or neither.
LIES = {
    "by rows": lambda W: within(W)[0],
    "by columns": lambda W: within(W)[0].mT,
    "apart": lambda W: within(W.repeat_interleave(2, 0).repeat_interleave(3, 1))[0][::2, ::3],
}


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("lies", LIES.values(), ids=LIES)
def test_a_product_of_any_size_is_within_its_bound_and_reads_and_writes_nothing_else(block, monkeypatch, lies, threads):
    """|error| <= C u Σ_k |w_k v_k|, u = 2^-24 (Higham, Accuracy and Stability, 2002, 3.5), but for what C u² adds."""
    torch.set_num_threads(threads)
    monkeypatch.setattr(fused, "ALONE", 0)
    monkeypatch.setattr(fused, "_fresh", lambda shape: torch.full(tuple(shape), math.nan))
    monkeypatch.setattr(fused.nodes.Plan, "product", None)  # torch's own is not asked
    for C, n, B in TILES:
        made = block((C,) if n == 1 else (C, n), permute_soft=C < 20)
        plan = fused.Plan(made.spec, made._state, B, False)
        W = lies(torch.randn(C, C))
        v, _ = within(torch.randn(B, C, n))
        out, memory = within(torch.full((B, C, n), math.nan))

        plan.product(W, v, out)

        right, size = W.double() @ v.double(), W.double().abs() @ v.double().abs()
        assert ((out - right).abs() <= C * 2.0**-24 * (1 + 2.0**-20) * size).all(), (C, n, B)
        assert memory.isnan().sum() == len(memory) - out.numel(), (C, n, B)


@pytest.mark.parametrize(("B", "dims"), [(3, (7, 5, 11)), (2, (6, 130)), (7, (17,))], ids=str)
@pytest.mark.parametrize("flags", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("dialect", ("anomalib", "documented"))
@pytest.mark.parametrize("threads", (1, 3))
def test_laws_hold_where_the_kernels_multiply(monkeypatch, threads, dialect, flags, dims, B):
    """In the coupling's own kernel, or, of samples that threads share and before the subnet, in one of their own."""
    torch.set_num_threads(threads)
    monkeypatch.setattr(fused, "ALONE", 0)
    made, call = set(), fused.Plan._call

    def noted(self, kernel, parts, W=None, pixels=0, **given):
        made.add((kernel, W is None))
        call(self, kernel, parts, W, pixels, **given)

    monkeypatch.setattr(fused.Plan, "_call", noted)
    case = Recipe(B=B, C=dims[0], S=dims[1:], dialect=dialect, subnet="network", conditions=(2,), **flags).case()

    for law in registry.all():
        if law.id.endswith(VALUES) or law.id.startswith("gradient.by-"):
            for direction in law.directions:
                hold_case(law, case, Module(AllInOneBlock, dialect=dialect), "float32", direction)

    dense = "soft" in flags
    assert ((cpu.mix_rows if len(dims) == 1 else cpu.mix, False) in made) == dense
    inside = dense and len(dims) > 1 and "reflections" not in flags and threads <= B
    assert {(kernel, False) in made for kernel in (cpu.couple, cpu.couple_back)} == {inside}


class Halves(torch.nn.Module):
    """Some channels of the input, twice, at any size."""

    def __init__(self, n, m):
        super().__init__()
        self.half = m // 2

    def forward(self, v):
        return torch.cat((v[:, : self.half], v[:, : self.half]), 1)


# ---- memory


def kept(made, x):
    """Bytes that the graph of a pass holds, without parameters and x, ÷ those of x."""
    own = {v.untyped_storage().data_ptr() for v in (x, *made.parameters())}
    found = {}

    def pack(v: Tensor) -> Tensor:
        if v.untyped_storage().data_ptr() not in own:
            found[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        return v

    with saved_tensors_hooks(pack, lambda v: v):
        made([x])
    return sum(found.values()) / x.untyped_storage().nbytes()


@pytest.mark.parametrize("reverse_permutation", (False, True))
@pytest.mark.parametrize(
    ("flags", "most"),
    [({}, 1.1), ({"gin_block": True}, 1.1), ({"permute_soft": True}, 1.1), ({"learned_householder_permutation": 8}, 2)],
    ids=("hard", "gin", "soft", "reflections"),
)
@pytest.mark.parametrize("dims", [(64,), (16, 12, 12)], ids=str)
def test_backward_keeps_the_answer_and_little_else(block, passes, dims, flags, most, reverse_permutation):
    made = block(dims, subnet=Halves, reverse_permutation=reverse_permutation, **flags)
    x = torch.randn(64, *dims, requires_grad=True)

    assert 1 <= kept(made, x) <= most
    assert passes


def test_without_gradients_nothing_is_kept(block, passes):
    made = block((6, 3))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            (y,), logdet = made([torch.randn(2, 6, 3)])
        assert y.grad_fn is None and logdet.grad_fn is None
    assert len(passes) == 2


@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("gin", (False, True))
@pytest.mark.parametrize(
    "flags", [{}, {"permute_soft": True}, {"learned_householder_permutation": 2, "reverse_permutation": True}], ids=str
)
@pytest.mark.parametrize("dims", [(6,), (6, 40)], ids=str)
def test_a_pass_without_gradients_gives_the_bits_of_one_with(block, passes, dims, flags, gin, rev):
    made = block(dims, gin_block=gin, **flags)
    x = torch.randn(5, *dims)
    before = x.clone()

    (want,), want_logdet = made([x], rev=rev)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            (y,), logdet = made([x], rev=rev)
        assert torch.equal(y, want) and torch.equal(logdet, want_logdet)
        assert y.data_ptr() != x.data_ptr() and torch.equal(x, before)
    assert len(passes) == 3


# ---- derivatives of another kind go through the eager form


@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("flags", [{}, {"gin_block": True}, {"learned_householder_permutation": 3}], ids=str)
def test_a_gradient_of_a_gradient_is_that_of_the_eager_form(block, passes, monkeypatch, rev, flags):
    made, x = block((5, 3), (2,), reverse_permutation=True, **flags), torch.randn(2, 5, 3, requires_grad=True)
    c = torch.randn(2, 2, 3, requires_grad=True)
    leaves = [x, c, *(p for p in made.parameters() if not flags.get("gin_block") or p is not made.global_scale)]
    found = []
    for form in ("numba", "eager"):
        monkeypatch.setenv(choice.VARIABLE, form)
        (y,), logdet = made([x], [c], rev=rev)
        first = torch.autograd.grad(y.sin().sum() + logdet.sin().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True))

    assert len(passes) == 1
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).abs().max()) <= 2**-15 * max(1.0, float(other.abs().max()))


def test_gradients_mapped_over_rows_are_those_of_single_rows(block, passes):
    made, x = block((4, 2), learned_householder_permutation=2), torch.randn(1, 4, 2, requires_grad=True)
    (y,), _ = made([x])
    rows_of = torch.eye(8).view(8, 1, 4, 2)
    (mapped,) = torch.autograd.grad(y, x, rows_of, is_grads_batched=True, retain_graph=True)
    single = torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in rows_of])

    assert passes
    assert float((mapped - single).abs().max()) <= 2**-20 * float(single.abs().max())


def test_a_w_that_changed_between_forward_and_backward_is_refused(block):
    made = block((4, 2), permute_soft=True)
    (y,), _ = made([torch.randn(2, 4, 2, requires_grad=True)])
    made.w_perm.add_(1)
    with pytest.raises(RuntimeError, match="w_perm"):
        y.sum().backward()


def test_sums_of_wide_vectors_take_less_room_than_the_vectors(block):
    """Backward holds two numbers in float64 for each group and channel."""
    for B, C in ((64, 65_536), (1024, 512), (4096, 64)):
        made = block((C,), subnet=Halves, dialect="freia-main")
        plan = fused.Plan(made.spec, made._state, B, False)
        assert 16 * plan.groups * C <= 4 * B * C, (B, C)
        assert plan.groups >= plan.threads


@pytest.mark.parametrize(
    "flags",
    (
        {},
        {"gin_block": True},
        {"permute_soft": True, "reverse_permutation": True},
        {"learned_householder_permutation": 3, "reverse_permutation": True},
    ),
    ids=str,
)
@pytest.mark.parametrize("rev", (False, True))
def test_hooks_may_keep_what_is_saved_in_another_dtype_but_not_in_another_shape(block, flags, rev):
    made, x = block((6,), subnet=Halves, **flags), torch.randn(40, 6, requires_grad=True)

    def gradients(pack):
        with saved_tensors_hooks(pack, lambda v: v):
            (y,), logdet = made([x], rev=rev)
        return torch.autograd.grad(y.square().sum() + logdet.sum(), [x, *made.parameters()], allow_unused=True)

    want = gradients(lambda v: v)
    for dtype, share in ((torch.float64, 1e-5), (torch.bfloat16, 0.1)):
        got = gradients(lambda v, dtype=dtype: v.to(dtype) if v.is_floating_point() else v)
        for g, right in zip(got, want, strict=True):
            assert (g is None) == (right is None)
            if g is not None:
                assert (g - right).abs().max() <= share * right.abs().max() + 1e-6, dtype
    with pytest.raises(RuntimeError, match="shape|size"):
        gradients(lambda v: v[:1] if v.dim() else v)


# ---- which form


def test_numba_runs_what_it_can_and_eager_is_a_word_away(block, passes, monkeypatch):
    made, x = block((4,)), torch.randn(2, 4)
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    made([x])
    assert kernels() == "numba" and len(passes) == 1
    made.double()([x.double()])
    made.float()([x[:0]])
    torch.func.vmap(lambda v: made([v[None]])[0][0])(x)
    assert len(passes) == 1
    monkeypatch.setenv(choice.VARIABLE, "eager")
    made([x])
    assert kernels() == "eager" and len(passes) == 1


def test_another_word_is_refused_and_missing_numba_is_named(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(ValueError, match="FLOWREF_FAST='fast': expected eager, numba or triton"):
        kernels()
    monkeypatch.setattr(choice, "_found", lambda name: ImportError("No module named 'it'"))
    for name, extra in (("numba", "cpu"), ("triton", "triton")):
        monkeypatch.setenv(choice.VARIABLE, name)
        with pytest.raises(ImportError, match=rf"flowref\[{extra}\]"):
            kernels()
    monkeypatch.delenv(choice.VARIABLE)
    assert kernels() == "eager"


def test_where_numba_may_not_compile_the_eager_form_serves():
    """NUMBA_DISABLE_JIT=1 is usual where coverage is measured."""
    asked = (
        "from flowref.fast import kernels; import os; print(kernels()); os.environ['FLOWREF_FAST'] = 'numba'; kernels()"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert done.stdout == "eager\n" and "NUMBA_DISABLE_JIT is set" in done.stderr.splitlines()[-1], done.stderr


class Answers(torch.nn.Module):
    """One answer, whatever is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, v):
        return self.answer


def test_zeros_without_memory_are_left_to_eager(block, passes):
    """As derivatives that were never written may come: for the input, and as the subnet's answer."""
    nothing, zeros = torch._efficientzerotensor((3, 4)), torch.zeros(3, 4)
    made = block((4,), subnet=lambda n, m: Answers(zeros))
    want = made([zeros])
    assert len(passes) == 1
    got = made([nothing])
    assert len(passes) == 1
    made.subnet.answer = nothing
    for (y,), logdet in (got, made([zeros])):
        torch.testing.assert_close((y, logdet), (want[0][0], want[1]))


# ---- threads


def test_every_part_is_done_once_and_an_error_comes_back():
    done = []
    pool.spread(done.append, 5)
    assert sorted(done) == [0, 1, 2, 3, 4]

    def fails(k):
        if k == 3:
            raise ZeroDivisionError("three")

    with pytest.raises(ZeroDivisionError, match="three"):
        pool.spread(fails, 5)


@pytest.fixture(params=(KeyboardInterrupt, TimeoutError))
def struck(request):
    """What a signal's handler raises."""
    return type("Struck", (request.param,), {})


@pytest.fixture
def alarm(struck):
    """A function (seconds) after which the main thread is struck; and nothing strikes behind the test."""

    def strike(number, frame):
        raise struck

    before = signal.signal(signal.SIGALRM, strike)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the platform has no timer's signal")


@needs_signals
def test_whoever_interrupts_nothing_runs_on_behind_it(alarm, struck):
    ended = []
    alarm(0.1)
    with pytest.raises(struck):
        pool.spread(lambda k: k and (time.sleep(0.4), ended.append(k)), 3)
    assert sorted(ended) == [1, 2]


@needs_signals
def test_an_interrupt_at_any_step_neither_hangs_nor_leaves_a_part_running(alarm, struck):
    running, times, end = [], 0, time.monotonic() + 2

    def part(k):
        if k:
            running.append(k)
            running.remove(k)

    while time.monotonic() < end:
        stop = time.monotonic() + 0.01  # Python itself loses what is raised in a callback of its garbage collector
        try:
            alarm(random.uniform(5e-5, 4e-4))
            while time.monotonic() < stop:
                pool.spread(part, 2)
        except struck:
            times += 1
        assert not running
    assert times > 20


@pytest.mark.parametrize("threads, begin, parts", [(1, 0, 5), (3, 0, 8), (4, 7, 9), (5, 2, 40)])
def test_a_thread_takes_the_parts_of_its_own_run_first_and_all_are_taken_once(threads, begin, parts):
    """Who reads a number is then who wrote it, as torch's operators cut a tensor up in the same way."""
    job = cpu.Job().call(threads, begin=begin, parts=parts)
    following = cpu.njit(lambda at, me: cpu._next(at, me))
    size = parts - begin
    runs = [[begin + k for k in range(size * t // threads, size * (t + 1) // threads)] for t in range(threads)]
    me = threads // 2
    taken = [following(ctypes.addressof(job), me) for _ in range(size + 2)]
    assert taken == [*sum(runs[me:] + runs[:me], []), parts, parts]


def test_threads_that_call_at_once_get_what_each_gets_alone(block, monkeypatch):
    monkeypatch.setattr(fused, "ALONE", 0)
    torch.set_num_threads(3)
    made = block((6, 5, 4), gin_block=True)
    inputs = [torch.randn(2, 6, 5, 4) for _ in range(6)]
    want = [made([x])[0][0] for x in inputs]
    start = threading.Barrier(len(inputs))

    def many(x):
        start.wait()
        return [made([x])[0][0] for _ in range(20)]

    with ThreadPoolExecutor(len(inputs)) as executor:
        got = list(executor.map(many, inputs))

    assert all(torch.equal(w, y) for w, found in zip(want, got, strict=True) for y in found)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("shape", [(70, 6), (2, 6, 5, 4), (9, 6, 40)], ids=str)
def test_torchs_team_and_threads_of_our_own_give_the_bits_of_one_thread(block, monkeypatch, shape):
    """All parts are taken once, whichever threads take them, and their sums do not depend on who did."""
    monkeypatch.setattr(fused, "ALONE", 0)
    torch.set_num_threads(2)
    made, x = block(shape[1:]), torch.randn(shape, requires_grad=True)
    calls = []

    def results():
        (y,), logdet = made([x])
        return y, logdet, *torch.autograd.grad(y.sum() + logdet.sum(), [x, *made.parameters()])

    team = pool._team()
    monkeypatch.setattr(pool, "_team", lambda: lambda *given: calls.append(given) or team(*given))
    by_team = results()
    monkeypatch.setattr(pool, "_team", lambda: None)
    by_own = results()

    assert calls
    assert all(torch.equal(want, got) for want, got in zip(by_own, by_team, strict=True))


def test_a_part_that_is_taken_is_taken_by_one_thread_only(block):
    """Many threads on one job of few numbers: every sample's log-det is summed once."""
    made, x = block((4, 3)), torch.randn(64, 4, 3)
    want = made([x])[1]
    torch.set_num_threads(8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "ALONE", 0)
        assert all(torch.equal(want, made([x])[1]) for _ in range(50))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_fork_before_the_first_pass_asks_no_team_that_is_not_there():
    """torch's threads may have run in the parent, for a product."""
    asked = """
import os, signal, torch
from flowref.fast import AllInOneBlock
torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)
answer = torch.zeros(4096, 32)
class Constant(torch.nn.Module):
    def forward(self, v):
        return answer
made, x = AllInOneBlock([(32,)], None, lambda n, m: Constant()), torch.zeros(4096, 32)
if not os.fork():
    signal.alarm(60)
    with torch.no_grad():
        made([x], rev=True)
    os._exit(7)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert subprocess.run([sys.executable, "-c", asked], timeout=120).returncode == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_fork_after_the_first_pass_makes_threads_of_its_own(block, monkeypatch):
    """OpenMP's threads are not there in the child, and to ask its team would wait for ever."""
    monkeypatch.setattr(fused, "ALONE", 0)
    torch.set_num_threads(3)
    made, x = block((6, 5, 4)), torch.randn(4, 6, 5, 4)
    want = made([x])[0][0]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, bytes([0, 1, 2 if torch.equal(made([x])[0][0], want) and pool._made else 3]))
        os._exit(0)
    os.close(write)
    waiting = threading.Timer(20, os.kill, (child, 9))
    waiting.start()
    _, status = os.waitpid(child, 0)
    waiting.cancel()

    assert (status, os.read(read, 10)) == (0, bytes([0, 1, 2])), sys.platform
