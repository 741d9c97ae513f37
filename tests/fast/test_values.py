"""The fast block against a plain float64 writing of the formulas, and where exactness is promised, bit by bit."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

DIALECTS = ("anomalib", "freia-main", "documented")
SHAPES = [(C, *S) for C in (1, 2, 5) for S in ((), (3,), (2, 3), (2, 1, 2))]
HALVES = (torch.float16, torch.bfloat16)


def dense(block) -> tuple[Tensor, Tensor]:
    """W and W⁻¹ as (C, C) in float64, the reflections multiplied out one by one."""
    C, n = block.spec.C, block.spec.learned_householder_permutation
    eye = torch.eye(C, dtype=torch.float64)
    if not n:
        return tuple(
            eye[w] if w.dim() == 1 else w.detach().double().reshape(C, C) for w in (block.w_perm, block.w_perm_inv)
        )
    Q = eye
    for v in block.vk_householder.detach().double():
        Q = Q @ (eye - 2 * torch.outer(v, v) / (v @ v))
    W0 = block.w_0.double()
    W = Q @ W0 if block.dialect == "documented" else W0 @ Q
    return W, W.T


def plain(block, x, c, rev):
    """One pass of docs/block.md, in float64, on (B, C, N); and the magnitude of the terms it is summed of.

    Magnitudes are the same formulas with every term replaced by its absolute value. An error of l is an error of
    exp(l) relative to 1, at most that of k by the clamp's slope: hence the factor `stretch`.
    """
    spec, (W, W_inv) = block.spec, dense(block)
    B, C, A = len(x), spec.C, spec.A
    active = slice(0, A) if block.dialect == "documented" else slice(C - A, C)
    passive = slice(A, C) if block.dialect == "documented" else slice(0, C - A)
    unit, alpha = (1.0 if block.dialect == "documented" else 0.1), spec.affine_clamping
    v, c = x.double().reshape(B, C, spec.N), [e.double().reshape(B, e.shape[1], spec.N) for e in c]
    s, o = block.global_scale.detach().double().reshape(C, 1), block.global_offset.detach().double().reshape(C, 1)
    sigma = {
        "SIGMOID": lambda: 10 / (1 + torch.exp(2 - s)),
        "SOFTPLUS": lambda: 0.2 * torch.log1p(torch.exp(s / 2)),
        "EXP": lambda: torch.exp(s),
    }[spec.global_affine_type]()
    sigma = torch.ones_like(sigma) if spec.gin_block else sigma
    size = v.abs()

    def mixed(M, v):
        return torch.einsum("ij,bjn->bin", M, v)

    if rev and block.dialect == "documented":
        v, size = mixed(W_inv, v - o) / sigma, mixed(W_inv.abs(), size + o.abs()) / sigma
    elif rev:
        v, size = (mixed(W_inv, v) - o) / sigma, (mixed(W_inv.abs(), size) + o.abs()) / sigma
    elif spec.reverse_permutation:
        v, size = mixed(W_inv, v), mixed(W_inv.abs(), size)

    w, b = block.subnet.w.detach().double(), block.subnet.b.detach().double()[:, None]
    asked, asked_size = torch.cat((v[:, passive], *c), 1), torch.cat((size[:, passive], *[e.abs() for e in c]), 1)
    a, a_size = unit * (mixed(w, asked) + b), unit * (mixed(w.abs(), asked_size) + b.abs())
    k, t, k_size, t_size = a[:, :A], a[:, A:], a_size[:, :A], a_size[:, A:]
    slope = 1.0 if block.dialect == "freia-main" else alpha
    l = alpha * torch.tanh(k / alpha) if block.dialect == "freia-main" else alpha * torch.tanh(k)  # noqa: E741
    l_size = slope * k_size + l.abs()
    if spec.gin_block and A:
        l, l_size = l - l.mean((1, 2), keepdim=True), l_size + l_size.mean((1, 2), keepdim=True)  # noqa: E741
    stretch = 1 + l_size

    q, q_size = v[:, active], size[:, active]
    if rev:
        q, q_size = (q - t) * torch.exp(-l), (q_size + t_size) * torch.exp(-l) * stretch
    else:
        q, q_size = q * torch.exp(l) + t, q_size * torch.exp(l) * stretch + t_size
    u, size = v.clone(), size.clone()
    u[:, active], size[:, active] = q, q_size
    if rev and spec.reverse_permutation:
        u, size = mixed(W, u), mixed(W.abs(), size)
    elif not rev and block.dialect == "documented":
        u, size = mixed(W, sigma * u) + o, mixed(W.abs(), sigma * size) + o.abs()
    elif not rev:
        u, size = mixed(W, sigma * u + o), mixed(W.abs(), sigma * size + o.abs())
    logdet = l.sum((1, 2)) + spec.N * torch.log(sigma).sum()
    logdet_size = l_size.sum((1, 2)) + spec.N * (torch.log(sigma).abs() + 1 + s.abs()).sum()
    return u.reshape(x.shape), -logdet if rev else logdet, size.reshape(x.shape), logdet_size


def roundings(block) -> int:
    """How many roundings lie on the longest path of one pass.

    Two products by W (C each), the subnet's (its inputs), 4C + 24 for each reflection each time, the sum over
    channels and pixels, and fewer than 60 elementwise operations, functions counted with their ulps.
    """
    spec, n = block.spec, block.spec.learned_householder_permutation
    return 2 * spec.C + spec.subnet_in + 2 * n * (4 * spec.C + 24) + spec.A * spec.N + 60


def assert_same_function(block, x, c, rev, u=2.0**-53, ends=0.0):
    """Both writings round, so they differ by at most twice the path's roundings times the terms, plus the ends.

    `u`: unit roundoff of the arithmetic; `ends`: that of the dtype in which results are handed out.
    """
    (y,), logdet = block([x], c, rev=rev)
    want_y, want_logdet, y_size, logdet_size = plain(block, x, c, rev)

    assert y.shape == x.shape and logdet.shape == (len(x),)
    assert y.dtype == logdet.dtype == x.dtype
    for got, want, size in ((y, want_y, y_size), (logdet, want_logdet, logdet_size)):
        bound = 2 * roundings(block) * u * size + ends * want.abs()
        assert ((got.double() - want).abs() <= bound).all(), (got, want, bound)


def inputs(dims, conditions=(), B=2, dtype=torch.float64):
    return torch.randn(B, *dims, dtype=dtype), [torch.randn(B, k, *dims[1:], dtype=dtype) for k in conditions]


@pytest.mark.parametrize("dims", SHAPES, ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_computes_its_dialects_function_in_float64_under_all_flags(block, dialect, dims):
    kinds = iter(("SIGMOID", "SOFTPLUS", "EXP") * 99)
    conditions = iter(((), (2,), (1, 3), (0, 1, 2)) * 99)
    for soft, n, undo, gin in product((False, True), (0, 1, 3), (False, True), (False, True)):
        made = block(
            dims, extra := next(conditions), dialect=dialect, affine_clamping=1.7, gin_block=gin, permute_soft=soft,
            global_affine_type=next(kinds), learned_householder_permutation=n, reverse_permutation=undo,
        ).double()  # fmt: skip
        x, c = inputs(dims, extra)

        for rev in (False, True):
            assert_same_function(made, x, c, rev)


@pytest.mark.parametrize("C", (16, 33))
@pytest.mark.parametrize("n", (0, 8, 40))
@pytest.mark.parametrize("rev", (False, True))
def test_computes_it_at_larger_sizes(block, C, n, rev):
    made = block((C, 4, 5), permute_soft=True, learned_householder_permutation=n).double()

    assert_same_function(made, *inputs((C, 4, 5), B=3), rev)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rev", (False, True))
def test_float32_stays_within_its_own_roundings(block, dialect, rev):
    for soft, n in ((False, 0), (True, 0), (True, 3)):
        made = block((5, 3), (2,), dialect=dialect, permute_soft=soft, learned_householder_permutation=n)
        x, c = inputs((5, 3), (2,), dtype=torch.float32)

        assert_same_function(made, x, c, rev, u=2.0**-24)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rev", (False, True))
def test_half_precision_rounds_only_where_values_are_handed_over(block, dtype, dialect, rev):
    """The subnet is zero but for its bias, so that its own roundings in half precision are exact."""
    unit = torch.finfo(dtype).eps / 2
    for soft, n, gin in ((False, 0, False), (True, 0, False), (True, 3, False), (False, 0, True)):
        flags = {"permute_soft": soft, "learned_householder_permutation": n, "gin_block": gin}
        made = block((4, 3), dialect=dialect, **flags).to(dtype)
        with torch.no_grad():
            made.subnet.w.zero_()

        assert_same_function(made, inputs((4, 3))[0].to(dtype), [], rev, u=2.0**-24, ends=unit)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, *HALVES), ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("undo", (False, True))
def test_exact_arithmetic_gives_exact_inverses(block, dtype, dialect, undo):
    """A hard permutation, a zero subnet, s = 0 and EXP, a dyadic offset: nothing rounds, so reverse restores x."""
    made = block((5, 2), dialect=dialect, global_affine_type="EXP", reverse_permutation=undo, moved=False).to(dtype)
    with torch.no_grad():
        made.subnet.w.zero_()
        made.subnet.b.zero_()
        made.global_offset.fill_(0.5)
    x = (torch.randint(-8, 8, (3, 5, 2)) / 4).to(dtype)

    (y,), logdet = made([x])
    (back,), logdet_back = made([y], rev=True)

    assert torch.equal(back, x)
    assert not logdet.any() and not logdet_back.any()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_gin_logdet_is_zero_and_the_scale_has_no_part(block, dialect):
    for dims in ((1,), (2,), (3,), (5, 3), (6, 2, 2)):
        made = block(dims, dialect=dialect, gin_block=True)
        x, _ = inputs(dims, dtype=torch.float32)
        (y,), logdet = made([x])
        with torch.no_grad():
            made.global_scale.add_(1)

        assert torch.equal(logdet, torch.zeros(2))
        assert torch.equal(made([x])[0][0], y)
        assert torch.equal(made([x], rev=True)[1], torch.zeros(2))
        torch.autograd.grad(logdet.sum(), list(made.subnet.parameters()))  # part of the graph


@pytest.mark.parametrize("dims", ((1,), (1, 3), (2,)), ids=str)
def test_gin_with_one_active_element_at_most_is_finite(block, dims):
    """The mean of nothing, or of one element, makes no NaN, neither in the pass nor in its gradient."""
    made = block(dims, gin_block=True)
    x = torch.randn(2, *dims, requires_grad=True)
    (y,), logdet = made([x])
    (y.sum() + logdet.sum()).backward()

    assert y.isfinite().all() and logdet.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("dims", ((4,), (1,), (5, 3), (4, 2, 2, 2)), ids=str)
@pytest.mark.parametrize("n", (0, 2))
@pytest.mark.parametrize("gin", (False, True))
def test_an_empty_batch_gives_empty_results_and_zero_gradients(block, dims, n, gin):
    for rev in (False, True):
        made = block(dims, (2,), learned_householder_permutation=n, gin_block=gin)
        (y,), logdet = made([torch.empty(0, *dims)], [torch.empty(0, 2, *dims[1:])], rev=rev)
        (y.sum() + logdet.sum()).backward()

        assert y.shape == (0, *dims) and logdet.shape == (0,)
        assert all(p.grad is None or not p.grad.any() for p in made.parameters())


def test_a_single_channel_still_asks_the_subnet_for_no_channels(block):
    made = block((1, 3), (2,))
    (y,), _ = made([torch.randn(2, 1, 3)], [torch.randn(2, 2, 3)])

    assert (made.subnet.calls, made.subnet.w.shape) == (1, (0, 3))
    assert y.shape == (2, 1, 3)


@pytest.mark.parametrize("dialect", ("anomalib", "documented"))
def test_alpha_zero_switches_the_scaling_off(block, dialect):
    made = block((4,), dialect=dialect, affine_clamping=0.0, global_affine_type="EXP", moved=False)
    x = torch.randn(3, 4, requires_grad=True)
    (y,), logdet = made([x])
    y.sum().backward()

    assert not logdet.any()
    assert not made.subnet.w.grad[:2].any() and x.grad.isfinite().all()


@pytest.mark.parametrize("alpha", (1e-46, 1e-40, 1e-30, 1e30))
def test_freia_main_survives_alphas_that_float32_hardly_holds(block, alpha):
    made = block((4,), dialect="freia-main", affine_clamping=alpha)
    with torch.no_grad():
        made.subnet.w.zero_()
        made.subnet.b.zero_()
    (y,), logdet = made([torch.randn(3, 4)])
    logdet.sum().backward()

    assert y.isfinite().all() and logdet.isfinite().all()
    assert all(p.grad.isfinite().all() for p in made.subnet.parameters())


@pytest.mark.parametrize("rev", (2, 1.0, "yes", [0], torch.tensor(True)), ids=str)
def test_rev_is_read_by_its_truth_value(block, rev):
    made, x = block((4,)), torch.randn(2, 4)
    (want,), want_logdet = made([x], rev=True)
    (got,), logdet = made([x], rev=rev)

    assert torch.equal(got, want) and torch.equal(logdet, want_logdet)


@pytest.mark.parametrize("rev", (False, True))
def test_jac_false_changes_no_output(block, rev):
    made, x = block((5, 3), permute_soft=True), torch.randn(2, 5, 3)

    assert torch.equal(made([x], rev=rev, jac=False)[0][0], made([x], rev=rev)[0][0])


def test_output_dims_are_the_inputs(block):
    dims = [(4, 3)]

    assert block((4, 3)).output_dims(dims) is dims


# ---- initial values

RANGE = {
    "SIGMOID": (1e-30, 1e-8, 1e-3, 0.5, 1.0, 1.1920292, 5.0, 9.0, 9.999),
    "SOFTPLUS": (1e-30, 1e-17, 1e-8, 1e-6, 1e-3, math.log(2) / 5, 1.0, 18.0, 150.0, 1e6),
    "EXP": (1e-30, 1e-8, 0.5, 1.0, 2.0, 1e8, 1e30),
}


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(("kind", "g"), [(kind, g) for kind, values in RANGE.items() for g in values])
def test_the_initial_scale_is_the_nearest_there_is(block, dtype, kind, g):
    """|Δs| ≤ 8u·max(|s|, 1), against s in 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    torch.set_default_dtype(dtype)
    with mpmath.workdps(60):
        exact = mpmath.mpf(g)
        s = {
            "SIGMOID": lambda: 2 + mpmath.log(exact) - mpmath.log(10 - exact),
            "SOFTPLUS": lambda: 2 * mpmath.log(mpmath.expm1(5 * exact)),
            "EXP": lambda: mpmath.log(exact),
        }[kind]()
        got = block(global_affine_type=kind, global_affine_init=g, dtype=dtype, moved=False).global_scale.detach()

        assert all(
            abs(mpmath.mpf(float(v)) - s) <= 8 * torch.finfo(dtype).eps / 2 * max(abs(s), 1) for v in got.flatten()
        )


@pytest.mark.parametrize("s", (40.0000001, 41.0, 60.0, -60.0, 2.0))
def test_softplus_has_no_step_in_float64(block, s):
    """torch's own threshold is off by 1e-10 in the value just above s = 40, and by 2e-9 in the gradient."""
    made = block((1,), dtype=torch.float64, moved=False)
    with torch.no_grad():
        made.global_scale.fill_(s)
    x = torch.ones(1, 1, dtype=torch.float64)
    (y,), _ = made([x])
    (slope,) = torch.autograd.grad(y.sum(), made.global_scale)
    want, want_slope = 0.2 * math.log1p(math.exp(s / 2)), 0.1 / (1 + math.exp(-s / 2))

    # 16 roundings: softplus and sigmoid 4 ulps each, two products.
    assert abs(y.item() - want) <= 16 * 2.0**-53 * want
    assert abs(slope.item() - want_slope) <= 16 * 2.0**-53 * want_slope


# ---- gradients


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rev", (False, True))
def test_gradients_and_second_gradients_agree_with_differences(block, dialect, rev):
    made = block(
        (3, 2), (1,), dialect=dialect, dtype=torch.float64, permute_soft=True, learned_householder_permutation=2
    )
    x, c = inputs((3, 2), (1,))
    names, values = zip(*made.named_parameters(), strict=True)

    def run(x, c, *values):
        (y,), logdet = torch.func.functional_call(made, dict(zip(names, values, strict=True)), ([x], [c], rev))
        return y, logdet

    arguments = [v.detach().clone().requires_grad_() for v in (x, *c, *values)]

    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_hard_gradients_agree_with_the_product_by_the_same_matrix(block, dialect, monkeypatch):
    """A permutation moves values, and so does its gradient: gather and dense product agree to the bit."""
    monkeypatch.setenv("FLOWREF_FAST", "eager")  # kernels add a documented o in one rounding, behind a product in two
    hard, soft = block((5, 3), dialect=dialect), block((5, 3), dialect=dialect, permute_soft=True)
    state = hard.state_dict()
    soft.load_state_dict(state)
    x = torch.randn(2, 5, 3)
    results = []
    for made in (hard, soft):
        given = x.clone().requires_grad_()
        (y,), logdet = made([given])
        (y.square().sum() + logdet.sum()).backward()
        results.append((y, logdet, given.grad, *(p.grad for p in made.parameters())))

    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ---- other ways to run it


@pytest.mark.parametrize("flags", ({}, {"permute_soft": True, "learned_householder_permutation": 3}), ids=str)
@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.slow
def test_compiles_as_one_graph(block, flags, rev):
    made = block((4, 3), (1,), dtype=torch.float64, **flags)
    x, c = inputs((4, 3), (1,))
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    (y,), logdet = compiled([x], c, rev)
    want_y, want_logdet, y_size, logdet_size = plain(made, x, c, rev)

    for got, want, size in ((y, want_y, y_size), (logdet, want_logdet, logdet_size)):
        assert ((got - want).abs() <= 2 * roundings(made) * 2.0**-53 * size).all()


@pytest.mark.parametrize("dialect", ("anomalib", "freia-main"))
def test_an_ensemble_by_vmap_gives_each_members_result(block, dialect):
    members = [block((4,), dialect=dialect, dtype=torch.float64) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(members)
    x = torch.randn(2, 4, dtype=torch.float64)
    run = lambda p, b: torch.func.functional_call(members[0], (p, b), ([x],))  # noqa: E731
    (y,), logdet = torch.func.vmap(run)(parameters, buffers)

    for k, member in enumerate(members):
        want_y, want_logdet, y_size, logdet_size = plain(member, x, [], False)
        assert ((y[k] - want_y).abs() <= 2 * roundings(member) * 2.0**-53 * y_size).all()
        assert ((logdet[k] - want_logdet).abs() <= 2 * roundings(member) * 2.0**-53 * logdet_size).all()


@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("n", (0, 2))
def test_the_jacobians_determinant_is_the_logdet(block, rev, n):
    made = block((3, 2), dtype=torch.float64, learned_householder_permutation=n)
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    one = lambda v: made([v[None]], rev=rev)[0][0][0].flatten()  # noqa: E731
    J = torch.func.vmap(torch.func.jacrev(one))(x).reshape(2, 6, 6)
    logdet = made([x], rev=rev)[1]

    # LU of 6x6: backward error 6²u‖J‖ in J, so 6·6²·u·‖J‖‖J⁻¹‖ in log|det J|, plus the log-det's own.
    bound = 6 * 36 * 2.0**-53 * torch.linalg.cond(J) + 2 * roundings(made) * 2.0**-53 * plain(made, x, [], rev)[3]
    assert ((torch.linalg.slogdet(J).logabsdet - logdet).abs() <= bound).all()


def test_under_autocast_only_the_subnet_is_rounded(block):
    """The bias is exact in bfloat16 and the weights are 0, so a full-precision rest gives the float32 result's bits."""
    made = block((4, 3), permute_soft=True, learned_householder_permutation=3)
    with torch.no_grad():
        made.subnet.w.zero_()
        made.subnet.b.copy_(made.subnet.b.bfloat16())
    x = torch.randn(2, 4, 3)
    (want,), want_logdet = made([x])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y,), logdet = made([x])
        made([x.bfloat16()])  # another floating dtype may come here

        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(y, want) and torch.equal(logdet, want_logdet)
    assert logdet.dtype == torch.float32


def test_on_the_meta_device_shapes_come_out(block):
    with torch.device("meta"):
        made = block((4, 3), learned_householder_permutation=2, moved=False)
    (y,), logdet = made([torch.empty(2, 4, 3, device="meta")])

    assert {t.device.type for t in made.state_dict().values()} == {"meta"}
    assert (y.shape, logdet.shape) == ((2, 4, 3), (2,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", (0, 3))
def test_a_cuda_graph_replays_a_pass(block, n):
    made = block((4, 3), learned_householder_permutation=n, dtype=torch.float64).cuda()
    x = torch.randn(2, 4, 3, dtype=torch.float64, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            made([x])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            (y,), _ = made([x])
        x.normal_()
        graph.replay()
        torch.cuda.synchronize()
    cpu = made.cpu()
    want, _, size, _ = plain(cpu, x.cpu(), [], False)

    assert ((y.cpu() - want).abs() <= 2 * roundings(cpu) * 2.0**-53 * size).all()
