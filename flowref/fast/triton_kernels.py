"""Float32 kernels for GPUs, in Triton; the same source runs interpreted (TRITON_INTERPRET=1). Launched by `device`.

Names and formulas are those of `flowref.fast.cpu`: x (B, C, N) is what the pass is given, behind a dense W⁻¹ or
reflections where there are such; a (B, 2A, N) the subnet's answer; y the output; g the gradient by y, gj that by the
log-det. Channel j of z is read from channel src[j] of x and written to channel dst[j] of y; None stands for j itself.
Of z, A channels are active, from `first` on, and P passive, from `passive` on.

Tiles are [BB samples, BC channels, BN pixels], so that one kernel serves vectors and images. A tile takes the i-th
active and the i-th passive channel together.
Offsets: int64 before the first product. Masked lanes load 0 and store nothing.
Sums: elementwise over a program's tiles, then a tree, into a buffer, and that in a fixed order: no atomics, the same
bits every call. `device` cuts the tiles so that no path is longer than the bounds grant.
Arithmetic: float32, subnormal numbers kept. Products and sums may be fused, which the bounds grant.
"""

# Types of a kernel's arguments are what it is launched with; annotations would be read by the compiler.
# mypy: disable-error-code="no-untyped-def, misc"

import math

import triton
import triton.language as tl

# Compiled anew for other types and constants, and for sizes that are 1 or multiples of 16 where they were not; not for
# another batch.
_OF_A_BATCH = ["B", "tiles", "per", "splits", "samples", "pixels", "sums_splits", "shares"]
_kernel = triton.jit(do_not_specialize=_OF_A_BATCH)

# ---- functions
#
# The device's own exp multiplies by log2(e) and takes ex2.approx: that product's rounding alone costs |x|·2^-24, which
# is granted, but results below 2^-126 may be flushed and nothing is said of the last bits (CUDA's manual: 2 ulps for
# ex2.approx.ftz, 2 + |1.16x| for __expf). There is no tanh at all in the interpreter. So both are written out, with the
# coefficients of `flowref.fast.cpu`, in operations that IEEE 754 defines: what is checked interpreted is what runs.
# `/` is an approximation of 2 ulps on the device, hence div_rn. Errors seen: exp 1.0 ulp, tanh 2.3, log and log1p 1.7.

_LOG2E = tl.constexpr(1 / math.log(2))
_LN2 = tl.constexpr(math.log(2))
_LN2_HIGH = tl.constexpr(0.693359375)
_LN2_LOW = tl.constexpr(math.log(2) - 0.693359375)
_ROUND = tl.constexpr(1.5 * 2**23)  # added and taken off, it rounds to a whole number, which its last bits then show
_ROUND_BITS = tl.constexpr(0x4B400000)
_HALF_ROOT_BITS = tl.constexpr(0x3F3504F3)  # of √½
_SIGN = tl.constexpr(-(2**31))
_TINY = tl.constexpr(2.0**-126)
_INF = tl.constexpr(math.inf)
_NAN = tl.constexpr(math.nan)


@triton.jit
def _power(n):
    """2^n for −126 <= n <= 127."""
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _small(r):
    """exp(r) − 1 for |r| <= ln(2)/2."""
    q = ((((0.0001985161 * r + 0.0013941084) * r + 0.0083333785) * r + 0.041666355) * r + 0.16666666) * r + 0.5
    return (q * r) * r + r


@triton.jit
def exp(x):
    """exp(x): down to subnormal results, inf beyond the range; NaN stays."""
    x = tl.where(x > 89.0, 89.0, x)
    x = tl.where(x < -104.0, -104.0, x)
    t = x * _LOG2E + _ROUND
    n = t.to(tl.int32, bitcast=True) - _ROUND_BITS
    m = t - _ROUND
    r = (x - m * _LN2_HIGH) - m * _LN2_LOW
    half = n >> 1  # twice half the way, as 2^n itself may be no normal number
    return (_small(r) + 1.0) * _power(half) * _power(n - half)


@triton.jit
def tanh(x):
    """tanh(x) = e/(e + 2) with e = exp(2|x|) − 1, and the sign of x; NaN stays."""
    y = tl.abs(x)
    y = tl.where(y > 9.1, 9.1, y)  # where tanh is 1 to the last bit
    y = y + y
    t = y * _LOG2E + _ROUND
    n = t.to(tl.int32, bitcast=True) - _ROUND_BITS
    m = t - _ROUND
    r = (y - m * _LN2_HIGH) - m * _LN2_LOW
    s = _power(n)
    e = s * _small(r) + (s - 1.0)
    size = tl.div_rn(e, e + 2.0)
    return (size.to(tl.int32, bitcast=True) | (x.to(tl.int32, bitcast=True) & _SIGN)).to(tl.float32, bitcast=True)


@triton.jit
def _twice_atanh(f):
    """2 atanh(f) = log((1 + f)/(1 − f)) for |f| <= 3 − 2√2; the series, its rest below 2^-28."""
    w = f * f
    return 2.0 * f + f * (w * (0.6666667 + w * (0.4 + w * (0.2857143 + w * 0.22222222))))


@triton.jit
def log(x):
    """log(x) of a float32, subnormal ones too; −inf at 0, NaN below."""
    low = x < _TINY
    bits = tl.where(low, x * 16777216.0, x).to(tl.int32, bitcast=True)
    n = (bits - _HALF_ROOT_BITS) >> 23
    m = (bits - (n << 23)).to(tl.float32, bitcast=True)  # in [√½, √2)
    n = (n - tl.where(low, 24, 0)).to(tl.float32)
    y = n * _LN2_HIGH + (n * _LN2_LOW + _twice_atanh(tl.div_rn(m - 1.0, m + 1.0)))
    y = tl.where(x > 0.0, y, tl.where(x == 0.0, -_INF, _NAN))
    return tl.where(x == _INF, _INF, y)


@triton.jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1, to its own last bits."""
    high = x > 0.41421354
    f = tl.div_rn(tl.where(high, x - 1.0, x), tl.where(high, x + 3.0, x + 2.0))
    return tl.where(high, _LN2, 0.0) + _twice_atanh(f)


@triton.jit
def _softplus(z):
    """log(1 + exp(z))."""
    return tl.where(z > 0.0, z, 0.0) + log1p(exp(-tl.abs(z)))


@triton.jit
def _sigma(s, KIND: tl.constexpr):
    """σ = Ψ(s). KIND: 1 SIGMOID, 2 SOFTPLUS, 3 EXP."""
    if KIND == 1:
        return 10.0 * tl.div_rn(1.0, 1.0 + exp(2.0 - s))
    elif KIND == 2:
        return 0.2 * _softplus(0.5 * s)
    else:
        return exp(s)


@triton.jit
def _log_sigma(s, KIND: tl.constexpr):
    if KIND == 3:
        return s
    else:
        return log(_sigma(s, KIND))


@_kernel
def functions(x, y, n, WHICH: tl.constexpr, SIZE: tl.constexpr):
    """y = exp, tanh, log, log1p, or Ψ of kind WHICH − 3, of n numbers; for tests."""
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    v = tl.load(x + i, mask=i < n, other=0.0)
    if WHICH == 0:
        v = exp(v)
    elif WHICH == 1:
        v = tanh(v)
    elif WHICH == 2:
        v = log(v)
    elif WHICH == 3:
        v = log1p(v)
    else:
        v = _sigma(v, WHICH - 3)
    tl.store(y + i, v, mask=i < n)


# ---- permutations


@_kernel
def find_permutation(W, V, index, C, BR: tl.constexpr, BC: tl.constexpr):
    """Where the rows of W and V, (C, C), have their 1, and the inverse; −1 where a row is not one 1 among zeros.

    Output: index (4, C), of W, its inverse, of V, its inverse; the inverses are right where all rows of both are found
    and differ. Grid: rows of W, then rows of V, if V isn't None.
    """
    pid = tl.program_id(0)
    tiles = tl.cdiv(C, BR)
    which = pid // tiles
    i = ((pid % tiles) * BR + tl.arange(0, BR)).to(tl.int64)
    at = tl.zeros([BR], tl.int64)
    odd = tl.zeros([BR], tl.int32)
    for j0 in range(0, C, BC):
        j = j0 + tl.arange(0, BC)
        inside = (i < C)[:, None] & (j < C)[None, :]
        where = i[:, None] * C + j[None, :]
        w = tl.load(W + where, mask=inside & (which == 0), other=0.0)
        if V is not None:
            w += tl.load(V + where, mask=inside & (which == 1), other=0.0)
        one = w == 1.0
        at += tl.sum(tl.where(one, j[None, :], 0), 1)
        odd += tl.sum(tl.where(one, 1, tl.where(w == 0.0, 0, 2)), 1)
    found = (odd == 1) & (i < C)
    row = index + 2 * which * C
    tl.store(row + i, tl.where(found, at, -1), mask=i < C)
    tl.store(row + C + at, i, mask=found)


@_kernel
def invert_permutation(index, inverse, C, BJ: tl.constexpr, BI: tl.constexpr):
    """inverse[index[i]] = i, both (C,) int64; 0 where nothing leads to, the last of several."""
    j = tl.program_id(0) * BJ + tl.arange(0, BJ)
    at = tl.zeros([BJ], tl.int64)
    for i0 in range(0, C, BI):
        i = i0 + tl.arange(0, BI)
        found = tl.load(index + i, mask=i < C, other=-1)
        at = tl.maximum(at, tl.max(tl.where(found[None, :] == j[:, None], i[None, :], 0), 1).to(tl.int64))
    tl.store(inverse + j, at, mask=j < C)


@triton.jit
def _channel(index, j, inside):
    """index[j], or j where there is no index."""
    if index is None:
        return j
    else:
        return tl.load(index + j, mask=inside, other=0).to(tl.int32)


@triton.jit
def _offset_at(j, at, OUTSIDE: tl.constexpr):
    """The channel of o that belongs to channel j of z: as documented it stands at the block's edge."""
    if OUTSIDE:
        return at
    else:
        return j


# ---- what the subnet is asked


@_kernel
def ask(
    x, asked, s, o, src, B, C, N, P, passive, width,
    KIND: tl.constexpr, REVERSE: tl.constexpr, OUTSIDE: tl.constexpr,
    BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Passive channels of z into the first P of `asked`, (B, width, N), an output. Grid: (tiles,)."""
    pid = tl.program_id(0)
    tiles_n, tiles_c = tl.cdiv(N, BN), tl.cdiv(P, BC)
    n = ((pid % tiles_n) * BN + tl.arange(0, BN))[None, None, :]
    i = ((pid // tiles_n % tiles_c) * BC + tl.arange(0, BC))[None, :, None]
    b = ((pid // tiles_n // tiles_c).to(tl.int64) * BB + tl.arange(0, BB))[:, None, None]
    inside = (b < B) & (i < P) & (n < N)
    j = passive + i
    at = _channel(src, j, i < P)
    p = tl.load(x + (b * C + at) * N + n, mask=inside, other=0.0)
    if REVERSE:
        p -= tl.load(o + _offset_at(j, at, OUTSIDE), mask=i < P, other=0.0)
        if KIND:
            p *= tl.div_rn(1.0, _sigma(tl.load(s + j, mask=i < P, other=0.0), KIND))
    tl.store(asked + (b * width + i) * N + n, p, mask=inside)


@_kernel
def ask_back(
    x, g, gx, part, s, o, src, B, C, N, P, passive, width, samples, pixels, splits,
    KIND: tl.constexpr, REVERSE: tl.constexpr, OUTSIDE: tl.constexpr,
    BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Adds to gx, an output, the gradient g by what was asked; in reverse, part: that by σ and o, as `couple_back`."""
    pid = tl.program_id(0)
    tiles_c = tl.cdiv(P, BC)
    i = ((pid % tiles_c) * BC + tl.arange(0, BC))[None, :, None]
    share = pid // tiles_c
    j = passive + i
    at = _channel(src, j, i < P)
    inv = tl.full([1, BC, 1], 1.0, tl.float32)
    off = tl.zeros([1, BC, 1], tl.float32)
    if REVERSE:
        off = tl.load(o + _offset_at(j, at, OUTSIDE), mask=i < P, other=0.0)
        if KIND:
            inv = tl.div_rn(inv, _sigma(tl.load(s + j, mask=i < P, other=0.0), KIND))
    by_sigma = tl.zeros([BB, BC, BN], tl.float32)
    by_o = tl.zeros([BB, BC, BN], tl.float32)
    start, first_t = (share // splits) * samples, (share % splits) * pixels
    tiles_n = tl.cdiv(N, BN)
    for b0 in range(start, tl.minimum(start + samples, B), BB):
        b = (b0 + tl.arange(0, BB)).to(tl.int64)[:, None, None]
        for t in range(first_t, tl.minimum(first_t + pixels, tiles_n)):
            n = ((t % tiles_n) * BN + tl.arange(0, BN))[None, None, :]  # of one tile the compiler sees that it is at 0
            inside = (b < B) & (i < P) & (n < N)
            to = (b * C + at) * N + n
            h = tl.load(g + (b * width + i) * N + n, mask=inside, other=0.0)
            if REVERSE:
                h *= inv
            tl.store(gx + to, tl.load(gx + to, mask=inside, other=0.0) + h, mask=inside)
            if REVERSE:
                by_o -= h
                by_sigma -= tl.where(inside, h * ((tl.load(x + to, mask=inside, other=0.0) - off) * inv), 0.0)
    if REVERSE:
        _keep_part(part, share, j, by_sigma, by_o, i < P, C)


@triton.jit
def _keep_part(part, share, j, by_sigma, by_o, inside, C):
    """The sums over samples and pixels of a program, into row `share` of part (shares, 2, C)."""
    to = part + 2 * share.to(tl.int64) * C + j
    tl.store(to, tl.sum(tl.sum(by_sigma, 2), 0)[None, :, None], mask=inside)
    tl.store(to + C, tl.sum(tl.sum(by_o, 2), 0)[None, :, None], mask=inside)


# ---- coupling, affine, permutation and log-det


@triton.jit
def _clamped(a, b, i, n, A, N, inside, c):
    """tanh(c·k)."""
    return tanh(c * tl.load(a + (b * (2 * A) + i) * N + n, mask=inside, other=0.0))


@triton.jit
def _sum_of_logs(a, b, B, A, N, start, stop, alpha, c, BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr):
    """Σ l, [BB], over tiles start to stop."""
    tiles_n = tl.cdiv(N, BN)
    total = tl.zeros([BB, BC, BN], tl.float32)
    for t in range(start, stop):
        n = ((t % tiles_n) * BN + tl.arange(0, BN))[None, None, :]
        i = ((t // tiles_n) * BC + tl.arange(0, BC))[None, :, None]
        total += alpha * _clamped(a, b, i, n, A, N, (b < B) & (i < A) & (n < N), c)
    return tl.sum(tl.sum(total, 2), 1)


@_kernel
def log_sums(a, sums, B, N, A, tiles, per, splits, alpha, c, BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr):
    """Σ l of a sample by split, (B, splits), an output. Grid: (samples / BB · splits,)."""
    pid = tl.program_id(0)
    k = pid % splits
    b = (pid // splits).to(tl.int64) * BB + tl.arange(0, BB)
    total = _sum_of_logs(a, b[:, None, None], B, A, N, k * per, tl.minimum(k * per + per, tiles), alpha, c, BB, BC, BN)
    tl.store(sums + b * splits + k, total, mask=b < B)


@triton.jit
def _total(sums, b, B, splits, BB: tl.constexpr, BK: tl.constexpr):
    """The sum of each sample's row of (B, splits), [BB]."""
    k = tl.arange(0, BK)
    inside = (b < B)[:, None] & (k < splits)[None, :]
    return tl.sum(tl.load(sums + b[:, None] * splits + k[None, :], mask=inside, other=0.0), 1)


@triton.jit
def _log_sigmas(s, C, KIND: tl.constexpr, BS: tl.constexpr):
    """Σ log σ over all channels."""
    total = tl.zeros([BS], tl.float32)
    for j0 in range(0, C, BS):
        j = j0 + tl.arange(0, BS)
        total += tl.where(j < C, _log_sigma(tl.load(s + j, mask=j < C, other=0.0), KIND), 0.0)
    return tl.sum(total, 0)


@_kernel
def couple(
    x, a, y, logdet, sums, means, s, o, src, dst, B, C, N, A, P, first, passive, tiles, per, splits, alpha, c, unit,
    count, KIND: tl.constexpr, REVERSE: tl.constexpr, GIN: tl.constexpr, OUTSIDE: tl.constexpr, ALONE: tl.constexpr,
    BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """y, an output, and the log-det, from one read of x and a, under GIN two of k.

    Formula: docs/block.md 2. Grid: (samples / BB · splits,); a program takes `per` of the `tiles` of BB samples.
    ALONE: splits is 1, and logdet (B,) an output. Else sums (B, splits) is: Σ l by split, for `close_logdet`; under GIN
    it is given, by `log_sums`. means (B,), an output under GIN: what was taken off l, the sum divided by `count`.
    """
    pid = tl.program_id(0)
    k = pid % splits
    rows = (pid // splits).to(tl.int64) * BB + tl.arange(0, BB)
    b = rows[:, None, None]
    start = k * per
    stop = tl.minimum(start + per, tiles)
    tiles_n = tl.cdiv(N, BN)
    mean = tl.zeros([BB], tl.float32)
    if GIN:
        if ALONE:
            mean = _sum_of_logs(a, b, B, A, N, start, stop, alpha, c, BB, BC, BN)
        else:
            mean = _total(sums, rows, B, splits, BB, BK)
        mean = tl.div_rn(mean, count)
        tl.store(means + rows, mean, mask=(rows < B) & (k == 0))
        tl.store(logdet + rows, tl.zeros([BB], tl.float32), mask=(rows < B) & (k == 0))
    total = tl.zeros([BB, BC, BN], tl.float32)
    for t in range(start, stop):
        n = ((t % tiles_n) * BN + tl.arange(0, BN))[None, None, :]
        i = ((t // tiles_n) * BC + tl.arange(0, BC))[None, :, None]
        active, inside = (b < B) & (i < A) & (n < N), (b < B) & (i < P) & (n < N)
        j, jp = first + i, passive + i
        at, atp = _channel(src, j, i < A), _channel(src, jp, i < P)
        to, top = _channel(dst, j, i < A), _channel(dst, jp, i < P)
        q = tl.load(x + (b * C + at) * N + n, mask=active, other=0.0)
        p = tl.load(x + (b * C + atp) * N + n, mask=inside, other=0.0)
        shift = unit * tl.load(a + (b * (2 * A) + A + i) * N + n, mask=active, other=0.0)
        l = alpha * _clamped(a, b, i, n, A, N, active, c)  # noqa: E741
        total += l
        if GIN:
            l -= mean[:, None, None]  # noqa: E741
        edge, edgep = (at, atp) if REVERSE else (to, top)
        off = tl.load(o + _offset_at(j, edge, OUTSIDE), mask=i < A, other=0.0)
        offp = tl.load(o + _offset_at(jp, edgep, OUTSIDE), mask=i < P, other=0.0)
        if KIND:
            sigma = _sigma(tl.load(s + j, mask=i < A, other=0.0), KIND)
            sigmap = _sigma(tl.load(s + jp, mask=i < P, other=0.0), KIND)
        else:
            sigma = tl.full([1, BC, 1], 1.0, tl.float32)
            sigmap = sigma
        if REVERSE:
            v = ((q - off) * tl.div_rn(1.0, sigma) - shift) * exp(-l)
            vp = (p - offp) * tl.div_rn(1.0, sigmap)
        else:
            v = sigma * (q * exp(l) + shift) + off
            vp = sigmap * p + offp
        tl.store(y + (b * C + to) * N + n, v, mask=active)
        tl.store(y + (b * C + top) * N + n, vp, mask=inside)
    if not GIN:
        log_sum = tl.sum(tl.sum(total, 2), 1)
        if ALONE:
            log_sum += N * _log_sigmas(s, C, KIND, BS)
            tl.store(logdet + rows, -log_sum if REVERSE else log_sum, mask=rows < B)
        else:
            tl.store(sums + rows * splits + k, log_sum, mask=rows < B)


@_kernel
def close_logdet(
    sums, logdet, s, B, C, N, splits,
    KIND: tl.constexpr, REVERSE: tl.constexpr, BB: tl.constexpr, BK: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """logdet (B,), an output, = ±(Σ sums + N Σ log σ). Grid: (samples / BB,)."""
    rows = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)
    total = _total(sums, rows, B, splits, BB, BK) + N * _log_sigmas(s, C, KIND, BS)
    tl.store(logdet + rows, -total if REVERSE else total, mask=rows < B)


@triton.jit
def _by_log_scale(q, shift, g, T, e, sigma, inv, off, REVERSE: tl.constexpr):
    """Of active elements: the gradients by l, by q, by unit·t, and what they add to those by σ and o."""
    if REVERSE:
        v = (q - off) * inv
        h = g * e
        by_q = h * inv
        return -h * (v - shift), by_q, -h, -by_q * v, -by_q
    else:
        v = q * e
        h = sigma * g
        return h * v, h * e, h, g * (v + shift), g


@_kernel
def by_log_sums(
    x, a, g, sums, means, o, src, dst, B, C, N, A, first, tiles, per, splits, alpha, c, unit,
    REVERSE: tl.constexpr, OUTSIDE: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Under GIN: the sum over a sample, by split, of the gradient by l, (B, splits), an output. Grid: as `couple`."""
    pid = tl.program_id(0)
    k = pid % splits
    rows = (pid // splits).to(tl.int64) * BB + tl.arange(0, BB)
    b = rows[:, None, None]
    tiles_n = tl.cdiv(N, BN)
    mean = tl.load(means + rows, mask=rows < B, other=0.0)[:, None, None]
    total = tl.zeros([BB, BC, BN], tl.float32)
    for t in range(k * per, tl.minimum(k * per + per, tiles)):
        n = ((t % tiles_n) * BN + tl.arange(0, BN))[None, None, :]
        i = ((t // tiles_n) * BC + tl.arange(0, BC))[None, :, None]
        active = (b < B) & (i < A) & (n < N)
        at, to = _channel(src, first + i, i < A), _channel(dst, first + i, i < A)
        q = tl.load(x + (b * C + at) * N + n, mask=active, other=0.0)
        gy = tl.load(g + (b * C + to) * N + n, mask=active, other=0.0)
        shift = unit * tl.load(a + (b * (2 * A) + A + i) * N + n, mask=active, other=0.0)
        T = _clamped(a, b, i, n, A, N, active, c)
        e = exp(mean - alpha * T if REVERSE else alpha * T - mean)
        off = tl.load(o + _offset_at(first + i, at if REVERSE else to, OUTSIDE), mask=i < A, other=0.0)
        one = tl.full([1, BC, 1], 1.0, tl.float32)
        by_l, _, _, _, _ = _by_log_scale(q, shift, gy, T, e, one, one, off, REVERSE)
        total += tl.where(active, by_l, 0.0)
    tl.store(sums + rows * splits + k, tl.sum(tl.sum(total, 2), 1), mask=rows < B)


@_kernel
def couple_back(
    x, a, g, gj, gx, ga, part, sums, means, s, o, src, dst, B, C, N, A, P, first, passive, samples, pixels, splits,
    sums_splits, alpha, c, slope, unit, count,
    KIND: tl.constexpr, REVERSE: tl.constexpr, GIN: tl.constexpr, OUTSIDE: tl.constexpr,
    BB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradients by x and a, outputs; part (shares, 2, C), an output: shares of those by σ and o.

    Grid: (shares · channel tiles,); a share takes `samples` samples, and `pixels` tiles of pixels, of `splits` such.
    sums (B, sums_splits), under GIN: what `by_log_sums` found; means: as `couple` left them.
    """
    pid = tl.program_id(0)
    tiles_c = tl.cdiv(P, BC)
    i = ((pid % tiles_c) * BC + tl.arange(0, BC))[None, :, None]
    share = pid // tiles_c
    start, first_t = (share // splits) * samples, (share % splits) * pixels
    stop, tiles_n = tl.minimum(start + samples, B), tl.cdiv(N, BN)
    last_t = tl.minimum(first_t + pixels, tiles_n)

    # Active channels, then passive ones: with both at once there are too many registers.
    j = first + i
    at, to = _channel(src, j, i < A), _channel(dst, j, i < A)
    off = tl.load(o + _offset_at(j, at if REVERSE else to, OUTSIDE), mask=i < A, other=0.0)
    sigma = tl.full([1, BC, 1], 1.0, tl.float32)
    if KIND:
        sigma = _sigma(tl.load(s + j, mask=i < A, other=0.0), KIND)
    inv = tl.div_rn(1.0, sigma)
    by_sigma = tl.zeros([BB, BC, BN], tl.float32)
    by_o = tl.zeros([BB, BC, BN], tl.float32)
    for b0 in range(start, stop, BB):
        rows = (b0 + tl.arange(0, BB)).to(tl.int64)
        b = rows[:, None, None]
        mean = tl.zeros([BB, 1, 1], tl.float32)
        if GIN:
            mean = tl.load(means + rows, mask=rows < B, other=0.0)[:, None, None]
            more = -tl.div_rn(_total(sums, rows, B, sums_splits, BB, BK), count)[:, None, None]
        else:
            more = tl.load(gj + rows, mask=rows < B, other=0.0)[:, None, None]
            more = -more if REVERSE else more
        for t in range(first_t, last_t):
            n = ((t % tiles_n) * BN + tl.arange(0, BN))[None, None, :]  # of one tile the compiler sees that it is at 0
            active = (b < B) & (i < A) & (n < N)
            at_k, at_x = (b * (2 * A) + i) * N + n, (b * C + at) * N + n
            at_t = (b * (2 * A) + A + i) * N + n
            q = tl.load(x + at_x, mask=active, other=0.0)
            gy = tl.load(g + (b * C + to) * N + n, mask=active, other=0.0)
            shift = unit * tl.load(a + at_t, mask=active, other=0.0)
            T = _clamped(a, b, i, n, A, N, active, c)
            e = exp(mean - alpha * T if REVERSE else alpha * T - mean)
            by_l, by_q, by_t, more_sigma, more_o = _by_log_scale(q, shift, gy, T, e, sigma, inv, off, REVERSE)
            tl.store(gx + at_x, by_q, mask=active)
            tl.store(ga + at_k, slope * (1.0 - T * T) * (by_l + more), mask=active)
            tl.store(ga + at_t, unit * by_t, mask=active)
            by_sigma += tl.where(active, more_sigma, 0.0)
            by_o += tl.where(active, more_o, 0.0)
    _keep_part(part, share, j, by_sigma, by_o, i < A, C)

    j = passive + i
    at, to = _channel(src, j, i < P), _channel(dst, j, i < P)
    off = tl.load(o + _offset_at(j, at if REVERSE else to, OUTSIDE), mask=i < P, other=0.0)
    scale = tl.full([1, BC, 1], 1.0, tl.float32)
    if KIND:
        scale = _sigma(tl.load(s + j, mask=i < P, other=0.0), KIND)
    if REVERSE:
        scale = tl.div_rn(1.0, scale)
    by_sigma = tl.zeros([BB, BC, BN], tl.float32)
    by_o = tl.zeros([BB, BC, BN], tl.float32)
    for b0 in range(start, stop, BB):
        b = (b0 + tl.arange(0, BB)).to(tl.int64)[:, None, None]
        for t in range(first_t, last_t):
            n = ((t % tiles_n) * BN + tl.arange(0, BN))[None, None, :]
            inside = (b < B) & (i < P) & (n < N)
            at_x = (b * C + at) * N + n
            p = tl.load(x + at_x, mask=inside, other=0.0)
            gy = tl.load(g + (b * C + to) * N + n, mask=inside, other=0.0)
            by_p = gy * scale
            tl.store(gx + at_x, by_p, mask=inside)
            if REVERSE:
                by_sigma -= tl.where(inside, by_p * ((p - off) * scale), 0.0)
                by_o -= by_p
            else:
                by_sigma += gy * p
                by_o += gy
    _keep_part(part, share, j, by_sigma, by_o, i < P, C)


@_kernel
def close_affine(
    part, s, gj, gs, go, where, shares, B, C, through,
    KIND: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """Gradients by s and o, (C,), outputs, of part (shares, 2, C), and of each log σ: `through` = ±N times Σ gj.

    o of channel j of z is o[where[j]]. gs None under GIN, gj None without a log-det. Grid: (C / BC,).
    """
    j = tl.program_id(0) * BC + tl.arange(0, BC)
    by_sigma, by_o = tl.zeros([BR, BC], tl.float32), tl.zeros([BR, BC], tl.float32)
    for r0 in range(0, shares, BR):
        r = (r0 + tl.arange(0, BR)).to(tl.int64)
        inside = (r < shares)[:, None] & (j < C)[None, :]
        at = part + 2 * r[:, None] * C + j[None, :]
        by_sigma += tl.load(at, mask=inside, other=0.0)
        by_o += tl.load(at + C, mask=inside, other=0.0)
    tl.store(go + _channel(where, j, j < C), tl.sum(by_o, 0), mask=j < C)
    if gs is not None:
        by_log = 0.0
        if gj is not None:
            total = tl.zeros([BJ], tl.float32)
            for b0 in range(0, B, BJ):
                b = (b0 + tl.arange(0, BJ)).to(tl.int64)
                total += tl.load(gj + b, mask=b < B, other=0.0)
            by_log = through * tl.sum(total, 0)
        v = tl.load(s + j, mask=j < C, other=0.0)
        by = tl.sum(by_sigma, 0)
        if KIND == 3:
            by = by * exp(v) + by_log
        else:
            # h = sigmoid(z) and 1 − h, each to its own last bits.
            z = v - 2.0 if KIND == 1 else 0.5 * v
            small = exp(-tl.abs(z))
            large = tl.div_rn(1.0, 1.0 + small)
            h, rest = tl.where(z > 0.0, large, small * large), tl.where(z > 0.0, small * large, large)
            if KIND == 1:
                by = by * (10.0 * (h * rest)) + by_log * rest
            else:
                by = by * (0.1 * h) + by_log * tl.div_rn(0.5 * h, _softplus(z))
        tl.store(gs + j, by, mask=j < C)


# ---- dense products, where torch's would round their factors to TF32


@_kernel
def product(a, b, y, M, N, K, a0, a1, a2, b0, b1, b2, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """y (batch, M, N), contiguous, an output, = a (batch, M, K) b (batch, K, N), of strides a0 … b2; IEEE float32.

    Grid: (batch · tiles of M · tiles of N,).
    """
    pid = tl.program_id(0)
    tiles_n, tiles_m = tl.cdiv(N, BN), tl.cdiv(M, BM)
    n = ((pid % tiles_n) * BN + tl.arange(0, BN)).to(tl.int64)
    m = ((pid // tiles_n % tiles_m) * BM + tl.arange(0, BM)).to(tl.int64)
    batch = (pid // tiles_n // tiles_m).to(tl.int64)
    total = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = (k0 + tl.arange(0, BK)).to(tl.int64)
        left = tl.load(
            a + batch * a0 + m[:, None] * a1 + k[None, :] * a2, mask=(m < M)[:, None] & (k < K)[None, :], other=0.0
        )
        right = tl.load(
            b + batch * b0 + k[:, None] * b1 + n[None, :] * b2, mask=(k < K)[:, None] & (n < N)[None, :], other=0.0
        )
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(y + (batch * M + m[:, None]) * N + n[None, :], total, mask=(m < M)[:, None] & (n < N)[None, :])
