"""Float32 kernels for the CPU, in Numba. They take addresses of contiguous tensors, and know nothing of torch.

Names: x what the pass is given, behind a dense W⁻¹ or reflections where there are such; a the subnet's answer; y the
output; g the gradient by y, j_ that by the log-det. (B, C, N) is the shape of x; A channels are active, from `first`
on. Channel j of z, which is split into p and q, is read from channel src[j] of x and written to channel dst[j] of y,
so that a hard permutation costs nothing of its own. `table` holds σ, 1/σ and o by channel of z, (3, C).

    forward   y[dst] = σ·(q·exp(l) + unit·t) + o, of passive channels σ·p + o
    reverse   y[dst] = (q − unit·t)·exp(−l) with q = (x[src] − o)/σ, of passive channels p = (x[src] − o)/σ
    l         α·tanh(c·k), under GIN less its mean per sample

Tensors are handed over as addresses, shapes as numbers. A kernel works on the groups of samples and the channels that
it is given, so that threads share nothing that they write. Group k of n holds the samples kB/n to (k+1)B/n; what is
summed over samples is summed by group and then over groups, always in float64.
All indices are 64 bits wide. Nothing is written but what an argument's line calls an output.

All of it is in this file: Numba's cache on disk compares a kernel with the file that it stands in, and with no other.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import carray, cfunc, config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, under which kernels can't be compiled")

f32 = np.float32
TILE = 1024  # numbers in one of a kernel's scratch buffers: 4 KiB, so that all of them stay in the first-level cache

# ---- memory
#
# Inputs, outputs, which are fresh, and scratch, which lies on the stack, share no memory. Scope metadata says so, and
# loops over all three need no check of their own before they are vectorised.

_SCOPES = ("inputs", "outputs", "scratch")
_FLOAT, _DOUBLE, _INT64 = ir.FloatType(), ir.DoubleType(), ir.IntType(64)


def _marked(builder: Any, instruction: Any, scope: str) -> Any:
    """The load or store, marked as one of memory of this scope and of no other."""
    module = builder.module
    text = lambda s: ir.MetaDataString(module, s)  # noqa: E731
    domain = module.add_metadata([text("flowref")])
    one = {name: module.add_metadata([text(f"flowref {name}"), domain]) for name in _SCOPES}
    instruction.set_metadata("alias.scope", module.add_metadata([one[scope]]))
    instruction.set_metadata("noalias", module.add_metadata([v for name, v in one.items() if name != scope]))
    return instruction


def _at(builder: Any, kind: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])


def _reader(scope: str, kind: Any = _FLOAT, numba_kind: Any = types.float32) -> Any:
    def read(typing: Any, address: Any, index: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _marked(builder, builder.load(_at(builder, kind, *args), align=4), scope)

        return numba_kind(types.int64, types.int64), gen

    return intrinsic(read)


def _writer(scope: str) -> Any:
    def write(typing: Any, address: Any, index: Any, value: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _marked(builder, builder.store(args[2], _at(builder, _FLOAT, *args[:2]), align=4), scope)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32), gen

    return intrinsic(write)


load = _reader("inputs")  # load(address, index) of a float32
whole = _reader("inputs", _INT64, types.int64)
store = _writer("outputs")  # store(address, index, value)
again = _reader("outputs")  # what was stored there before
keep = _writer("scratch")
kept = _reader("scratch")


@intrinsic
def add(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Adds to the float64 at an index of an output."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = _at(builder, _DOUBLE, *args[:2])
        total = builder.fadd(_marked(builder, builder.load(at, align=8), "outputs"), args[2])
        _marked(builder, builder.store(total, at, align=8), "outputs")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), gen


@intrinsic
def take(typing: Any, address: Any) -> Any:
    """The int64 at an address, which goes up by 1: each number is given to one thread only."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, _INT64, args[0], _INT64(0)), _INT64(1), "monotonic")

    return types.int64(types.int64), gen


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """An address as carray asks for it."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), gen


@intrinsic
def scratch(typing: Any) -> Any:
    """The address of TILE floats on the stack of the function that asks."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(_FLOAT, TILE))
        room.align = 64
        return builder.ptrtoint(room, _INT64)

    return types.int64(), gen


@intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """The bits of a float32 as an int32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def of_bits(typing: Any, bits: Any) -> Any:
    """The float32 of these bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


# Products and sums may be fused, which only makes them more exact; sums may be reordered where they are in float64.
_inline = njit(fastmath={"contract"}, error_model="numpy")
_sums = njit(fastmath={"reassoc", "nsz"}, error_model="numpy")


def _kernel(function: Any) -> Any:
    """Compiled at the first call, without the GIL, and kept on disk where there is a place for it."""
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **how)(function)
    except RuntimeError:  # no folder that can be written to
        return njit(**how)(function)


# ---- jobs
#
# A job is one call of a kernel for all of x. It is cut into parts, each of which writes what no other does: groups of
# samples, or, of images fewer than threads, lanes: every lanes-th channel. What a part computes depends on its number
# alone.
#
# Each thread `me` has an equal run of parts, in order, as torch's operators cut a tensor up. So what one kernel, or the
# subnet, writes is read by the same thread in the next, out of the caches of its core: to fetch a number from a core
# that shares none with it takes as long as all that is done to it. Whose run is through takes parts of the others', so
# that none waits for a slow one. Behind a job lies, for each thread, how many of its run are taken.

_FIXED: dict[str, Any] = {  # the same for all jobs of a pass
    **dict.fromkeys("src dst table B C N A P first passive width groups".split(), ctypes.c_int64),
    **dict.fromkeys("alpha c slope unit".split(), ctypes.c_float),
    **dict.fromkeys("reverse gin from_there to_there".split(), ctypes.c_bool),
}
_GIVEN = "x asked a y g j_ gx ga logs means part w row step room samples lanes stage begin parts threads"


class Job(ctypes.Structure):
    """What a kernel is called with; 0 where nothing is given. Parts are numbered from begin to parts - 1."""

    _fields_ = [*_FIXED.items(), *((name, ctypes.c_int64) for name in _GIVEN.split())]

    def call(self, threads: int, **given: int) -> Job:
        """A copy with these values, with which so many threads can call a kernel, once."""
        room = bytearray(SIZE + APART * threads)
        room[:SIZE] = self
        job = Job.from_buffer(room)
        job.threads = threads
        for name, value in given.items():
            setattr(job, name, value)
        return job


JOB = np.dtype(Job)
SIZE, APART = ctypes.sizeof(Job), 128  # bytes; counts of two threads share no line of a cache


def address(array: Any) -> int:
    """Where a numpy array begins, which has an element at least. numpy's own answer takes three times as long."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))


@njit(inline="always")
def _job(at: Any) -> Any:
    return carray(pointer(at), 1, JOB)[0]


@njit(inline="always")
def _next(at: Any, me: Any) -> Any:
    """The number of a part that no thread has taken yet, of this thread's while there are any; else job.parts."""
    job = _job(at)
    parts, threads = job.parts - job.begin, job.threads
    for i in range(threads):
        whose = (me + i) % threads
        k = parts * whose // threads + take(at + SIZE + APART * whose)
        if k < parts * (whose + 1) // threads:
            return job.begin + k
    return job.parts


@njit(inline="always")
def _share(job: Any, k: Any) -> Any:
    """(first group, last group, lane) of part k."""
    if job.lanes > 1:
        return 0, job.groups, k
    return k, k + 1, 0


@njit(inline="always")
def _sums_of(address: Any, rows: Any, columns: Any) -> Any:
    return carray(pointer(address), (rows, columns), np.float64)


@njit(inline="always")
def _means_of(address: Any, n: Any) -> Any:
    return carray(pointer(address), (n,), np.float32)


def callback(kernel: Any, number: Any) -> int:
    """The address of a C function of a job, in which each thread calls the kernel with its number(), of ctypes."""

    def take_part(at: int) -> None:
        kernel(at, number())

    compiled = cfunc(types.void(types.int64), nopython=True)(take_part)
    return int(compiled.address)


# ---- functions
#
# exp(x) = 2^n·exp(r), n the nearest whole number to x/ln 2, ln 2 in two parts (Cody and Waite), so that r is right to
# the last bit. exp(r) − 1 = r + r²·q(r), q of degree 5 fitted to it by least squares in Chebyshev points of ±ln(2)/2,
# relative error 2^-31. Errors seen: exp 1.0 ulp, tanh 2.3 ulps; tests measure them.

_LOG2E, _LN2_HIGH, _LN2_LOW = f32(1 / math.log(2)), f32(0.693359375), f32(math.log(2) - 0.693359375)
_ROUND = f32(1.5 * 2**23)  # added and taken off, it rounds to a whole number, which its last bits then show
_ROUND_BITS = np.int32(0x4B400000)
_Q0, _Q1, _Q2 = f32(0.5), f32(0.16666666), f32(0.041666355)
_Q3, _Q4, _Q5 = f32(0.0083333785), f32(0.0013941084), f32(0.0001985161)
_SIGN = np.int32(-(2**31))


@_inline
def _power(n: Any) -> Any:
    """2^n for −126 <= n <= 127."""
    return of_bits((n + np.int32(127)) << np.int32(23))


@_inline
def _small(r: Any) -> Any:
    """exp(r) − 1 for |r| <= ln(2)/2."""
    q = ((((_Q5 * r + _Q4) * r + _Q3) * r + _Q2) * r + _Q1) * r + _Q0
    return (q * r) * r + r


@_inline
def exp(x: Any) -> Any:
    """exp(x): down to subnormal results, inf beyond the range; NaN stays."""
    x = f32(89) if x > f32(89) else x
    x = f32(-104) if x < f32(-104) else x
    t = x * _LOG2E + _ROUND
    n = bits_of(t) - _ROUND_BITS
    m = t - _ROUND
    r = (x - m * _LN2_HIGH) - m * _LN2_LOW
    half = n >> np.int32(1)  # twice half the way, as 2^n itself may be no normal number
    return (_small(r) + f32(1)) * _power(half) * _power(n - half)


@_inline
def tanh(x: Any) -> Any:
    """tanh(x) = e/(e + 2) with e = exp(2|x|) − 1, and the sign of x; NaN stays."""
    y = abs(x)
    y = f32(9.1) if y > f32(9.1) else y  # where tanh is 1 to the last bit
    y = y + y
    t = y * _LOG2E + _ROUND
    n = bits_of(t) - _ROUND_BITS
    m = t - _ROUND
    r = (y - m * _LN2_HIGH) - m * _LN2_LOW
    s = _power(n)
    e = s * _small(r) + (s - f32(1))
    return of_bits(bits_of(e / (e + f32(2))) | (bits_of(x) & _SIGN))


@_kernel
def exp_of(x: int, y: int, n: int) -> None:
    """y = exp(x) over n numbers; for tests."""
    for i in range(n):
        store(y, i, exp(load(x, i)))


@_kernel
def tanh_of(x: int, y: int, n: int) -> None:
    """y = tanh(x) over n numbers; for tests."""
    for i in range(n):
        store(y, i, tanh(load(x, i)))


@_sums
def _sum(v: Any, n: Any) -> Any:
    """The sum of n numbers of scratch, in float64."""
    total = 0.0
    for i in range(n):
        total += np.float64(kept(v, i))
    return total


# ---- state


@_kernel
def permutation_of(W: int, is_index: bool, C: int, index: np.ndarray, inverse: np.ndarray) -> bool:
    """Whether W, (C,) int64 or (C, C), is a permutation, W v = v[index]; fills index and its inverse."""
    for i in range(C):
        inverse[i] = -1
    for i in range(C):
        at, odd = np.int64(0), np.int64(0)
        if is_index:
            at = whole(W, i)
        else:
            for j in range(C):
                w = load(W, i * C + j)
                at += j if w == f32(1) else 0
                odd += 1 if w == f32(1) else (0 if w == f32(0) else C + 1)
            if odd != 1:
                return False
        if at < 0 or at >= C or inverse[at] >= 0:
            return False
        index[i] = at
        inverse[at] = i
    return True


@_kernel
def global_affine(kind: int, s: int, o: int, C: int, o_map: np.ndarray, table: np.ndarray) -> float:
    """Fills table with σ, 1/σ and o[o_map]; gives Σ log σ. kind: 0 σ = 1, 1 SIGMOID, 2 SOFTPLUS, 3 EXP."""
    total = 0.0
    for j in range(C):
        sigma, v = 1.0, np.float64(load(s, j))
        if kind == 1:
            sigma = 10 / (1 + math.exp(2 - v))
        elif kind == 2:
            sigma = 0.2 * (max(v / 2, 0.0) + math.log1p(math.exp(-abs(v / 2))))
        elif kind == 3:
            sigma = math.exp(v)
        total += v if kind == 3 else math.log(sigma)
        table[0, j] = sigma
        table[1, j] = 1 / sigma
        table[2, j] = load(o, o_map[j])
    return total if kind else 0.0


@_kernel
def close_affine(
    kind: int, s: int, part: np.ndarray, j_: int, B: int, pixels: float, o_map: np.ndarray, gs: int, go: int
) -> None:
    """Gradients by s and o, (C,), outputs, of those by σ and o by group, used up, and through the log-det.

    In that stands `pixels` Σ log σ, in reverse negative; j_ (B,) is the gradient by it, B = 0 for none.
    """
    by_logdet = 0.0
    for b in range(B):
        by_logdet += np.float64(load(j_, b))
    by_logdet *= pixels
    C = part.shape[2]
    for k in range(1, part.shape[0]):
        for j in range(C):
            part[0, 0, j] += part[k, 0, j]
            part[0, 1, j] += part[k, 1, j]
    for j in range(C):
        by_sigma, by_o = part[0, 0, j], part[0, 1, j]
        v = np.float64(load(s, j))
        g = 0.0
        if kind == 1:
            h = 1 / (1 + math.exp(2 - v))
            g = by_sigma * 10 * h * (1 - h) + by_logdet * (1 - h)
        elif kind == 2:
            h, low = 1 / (1 + math.exp(-v / 2)), max(v / 2, 0.0) + math.log1p(math.exp(-abs(v / 2)))
            g = by_sigma * 0.1 * h + by_logdet * 0.5 * h / low
        elif kind == 3:
            g = by_sigma * math.exp(v) + by_logdet
        keep(gs, j, f32(g))
        store(go, o_map[j], f32(by_o))


@_kernel
def close_logdet(part: np.ndarray, constant: float, sign: float, logdet: int) -> None:
    """logdet (B,), an output, = sign·(Σ part + constant). part: (B, threads)."""
    for b in range(part.shape[0]):
        total = constant
        for k in range(part.shape[1]):
            total += part[b, k]
        store(logdet, b, f32(sign * total))


@_inline
def _gather(x: Any, at: Any, src: Any, j0: Any, m: Any, straight: Any, to: Any) -> None:
    """m channels of a row of x from j0 on, in the order of src, into scratch."""
    if straight:
        for i in range(m):
            keep(to, i, load(x, at + j0 + i))
    else:
        for i in range(m):
            keep(to, i, load(x, at + whole(src, j0 + i)))


@_inline
def _scatter(of: Any, y: Any, at: Any, dst: Any, j0: Any, m: Any, straight: Any) -> None:
    """The reverse of that, into a row of y."""
    if straight:
        for i in range(m):
            store(y, at + j0 + i, kept(of, i))
    else:
        for i in range(m):
            store(y, at + whole(dst, j0 + i), kept(of, i))


# ---- vectors: N = 1, and channels of a row lie side by side
#
# Rows are taken as many at a time as fill a scratch buffer, so that few channels cost no more than many: what is the
# same for all numbers of a buffer is one loop. It holds (rows, m), or, of few channels, (m, rows), so that what goes by
# row or by channel is a long loop, too.

ROWS = 512  # numbers of such a buffer that are in use; wider rows are taken in pieces
NARROW = 16  # below so many channels m a buffer holds (m, rows)


@_inline
def _rows_in(of: Any, at: Any, stride: Any, index: Any, j0: Any, m: Any, straight: Any, rows: Any, to: Any) -> None:
    """Channels j0 to j0 + m of rows that are so far apart, in the order of index, into scratch."""
    if m < NARROW:
        for i in range(m):
            j = at + (j0 + i if straight else whole(index, j0 + i))
            for r in range(rows):
                keep(to, i * rows + r, load(of, j + r * stride))
    else:
        for r in range(rows):
            _gather(of, at + r * stride, index, j0, m, straight, to + 4 * r * m)


@_inline
def _rows_out(of: Any, to: Any, at: Any, stride: Any, index: Any, j0: Any, m: Any, straight: Any, rows: Any) -> None:
    """The reverse of that, into an output."""
    if m < NARROW:
        for i in range(m):
            j = at + (j0 + i if straight else whole(index, j0 + i))
            for r in range(rows):
                store(to, j + r * stride, kept(of, i * rows + r))
    else:
        for r in range(rows):
            _scatter(of + 4 * r * m, to, at + r * stride, index, j0, m, straight)


@_inline
def _rows_affine(table: Any, C: Any, j0: Any, m: Any, reverse: Any, rows: Any, F: Any, O: Any) -> None:  # noqa: E741
    """σ, in reverse 1/σ, and o of channels j0 to j0 + m, for each row, into scratch."""
    f = table + 4 * C if reverse else table
    if m < NARROW:
        for i in range(m):
            sigma, o = load(f, j0 + i), load(table, 2 * C + j0 + i)
            for r in range(rows):
                keep(F, i * rows + r, sigma)
                keep(O, i * rows + r, o)
    else:
        for r in range(rows):
            for i in range(m):
                keep(F, r * m + i, load(f, j0 + i))
                keep(O, r * m + i, load(table, 2 * C + j0 + i))


@_inline
def _rows_plus(v: Any, of: Any, m: Any, rows: Any) -> None:
    """Adds to each row its number of another scratch buffer."""
    if m < NARROW:
        for i in range(m):
            for r in range(rows):
                keep(v, i * rows + r, kept(v, i * rows + r) + kept(of, r))
    else:
        for r in range(rows):
            plus = kept(of, r)
            for i in range(m):
                keep(v, r * m + i, kept(v, r * m + i) + plus)


@_sums
def _rows_sum(v: Any, m: Any, rows: Any, sums: Any, b0: Any) -> None:
    """Adds the sum of each row to sums, an output, from index b0 on."""
    if m < NARROW:
        for i in range(m):
            for r in range(rows):
                add(sums, b0 + r, np.float64(kept(v, i * rows + r)))
    else:
        for r in range(rows):
            add(sums, b0 + r, _sum(v + 4 * r * m, m))


@_sums
def _rows_total(v: Any, m: Any, rows: Any, part: Any, at: Any) -> None:
    """Adds the sum of each channel to part, an output, from index `at` on."""
    if m < NARROW:
        for i in range(m):
            add(part, at + i, _sum(v + 4 * i * rows, rows))
    else:
        for r in range(rows):
            for i in range(m):
                add(part, at + i, np.float64(kept(v, r * m + i)))


@_inline
def _rows_added(v: Any, to: Any, at: Any, stride: Any, index: Any, j0: Any, m: Any, straight: Any, rows: Any) -> None:
    """Adds to an output what `_rows_out` would write to it."""
    if m < NARROW:
        for i in range(m):
            j = at + (j0 + i if straight else whole(index, j0 + i))
            for r in range(rows):
                store(to, j + r * stride, again(to, j + r * stride) + kept(v, i * rows + r))
        return
    for r in range(rows):
        if straight:
            for i in range(m):
                j = at + r * stride + j0 + i
                store(to, j, again(to, j) + kept(v, r * m + i))
        else:
            for i in range(m):
                j = at + r * stride + whole(index, j0 + i)
                store(to, j, again(to, j) + kept(v, r * m + i))


# ---- what the subnet is asked


@_kernel
def ask(at: int, me: int) -> None:
    """Passive channels of z into the first P of `asked`, (B, width, N), an output."""
    job = _job(at)
    k = _next(at, me)
    while k < job.parts:
        _ask(job, k)
        k = _next(at, me)


@_inline
def _ask(job: Any, k: Any) -> None:
    x, asked, src, table, reverse, straight = job.x, job.asked, job.src, job.table, job.reverse, job.from_there
    B, C, N, P, first, width, groups = job.B, job.C, job.N, job.P, job.passive, job.width, job.groups
    k0, k1, _ = _share(job, k)
    buffer = scratch()
    start, stop = B * k0 // groups, B * k1 // groups
    if N == 1:
        R, F, O = max(ROWS // max(P, 1), 1), scratch(), scratch()  # noqa: E741
        for b0 in range(start, stop, R):
            rows = min(R, stop - b0)
            for i0 in range(0, P, ROWS):
                m = min(ROWS, P - i0)
                _rows_in(x, b0 * C, C, src, first + i0, m, straight, rows, buffer)
                if reverse:
                    if b0 == start or rows < R or m < P:
                        _rows_affine(table, C, first + i0, m, reverse, rows, F, O)
                    for n in range(rows * m):
                        keep(buffer, n, (kept(buffer, n) - kept(O, n)) * kept(F, n))
                _rows_out(buffer, asked, b0 * width, width, src, i0, m, True, rows)
        return
    for b in range(start, stop):
        for j in range(P):
            at, to = (b * C + whole(src, first + j)) * N, (b * width + j) * N
            inv, o = (load(table, C + first + j), load(table, 2 * C + first + j)) if reverse else (f32(1), f32(0))
            for n in range(N):
                store(asked, to + n, (load(x, at + n) - o) * inv)


@_kernel
def ask_back(at: int, me: int) -> None:
    """Adds to gx, an output, the gradient g by what was asked, in reverse to part (groups, 2, C) that by σ and o."""
    job = _job(at)
    k = _next(at, me)
    while k < job.parts:
        _ask_back(job, k)
        k = _next(at, me)


@_inline
def _ask_back(job: Any, share: Any) -> None:
    x, g, gx, part, src, table = job.x, job.g, job.gx, job.part, job.src, job.table
    B, C, N, P, first, width, groups = job.B, job.C, job.N, job.P, job.passive, job.width, job.groups
    reverse, straight = job.reverse, job.from_there
    k0, k1, _ = _share(job, share)
    gs, gu = scratch(), scratch()
    R, F, O = max(ROWS // max(P, 1), 1), scratch(), scratch()  # noqa: E741
    for k in range(k0, k1):
        start, stop = B * k // groups, B * (k + 1) // groups
        for b0 in range(start, stop if N == 1 else start, R):
            rows = min(R, stop - b0)
            for i0 in range(0, P, ROWS):
                m, j0 = min(ROWS, P - i0), first + i0
                _rows_in(g, b0 * width, width, src, i0, m, True, rows, gu)
                if reverse:
                    _rows_in(x, b0 * C, C, src, j0, m, straight, rows, gs)
                    if b0 == start or rows < R or m < P:
                        _rows_affine(table, C, j0, m, reverse, rows, F, O)
                    for n in range(rows * m):
                        h = kept(gu, n) * kept(F, n)
                        keep(gu, n, -h)
                        keep(gs, n, -h * ((kept(gs, n) - kept(O, n)) * kept(F, n)))
                    _rows_total(gs, m, rows, part, 2 * k * C + j0)
                    _rows_total(gu, m, rows, part, (2 * k + 1) * C + j0)
                    for n in range(rows * m):
                        keep(gu, n, -kept(gu, n))
                _rows_added(gu, gx, b0 * C, C, src, j0, m, straight, rows)
        for b in range(start, start if N == 1 else stop):
            for j in range(first, first + P):
                at, of = (b * C + whole(src, j)) * N, (b * width + j - first) * N
                inv, o = (load(table, C + j), load(table, 2 * C + j)) if reverse else (f32(1), f32(0))
                if not reverse:
                    for n in range(N):
                        store(gx, at + n, again(gx, at + n) + load(g, of + n))
                    continue
                for n0 in range(0, N, TILE):
                    size = min(TILE, N - n0)
                    for n in range(size):
                        v = load(g, of + n0 + n) * inv
                        keep(gu, n, v)
                        keep(gs, n, v * ((load(x, at + n0 + n) - o) * inv))
                    for n in range(size):
                        store(gx, at + n0 + n, again(gx, at + n0 + n) + kept(gu, n))
                    add(part, 2 * k * C + j, -_sum(gs, size))
                    add(part, (2 * k + 1) * C + j, -_sum(gu, size))


# ---- a dense W
#
# Products go tile by tile: HIGH rows of the one factor by a few vectors of columns of the other, whose sums fill the
# registers, so that what is loaded for a step of k serves several times (Goto and van de Geijn, ACM Trans. Math. Softw.
# 34, 2008). The columns are pixels of an image, W x, or channels of y where rows are vectors, x Wᵀ. Up to PANEL of them
# are copied before, tile by tile, (K, columns) each, to where they stay in the second-level cache. Tiles at an end
# overlap their neighbours instead of being smaller. Sums are over k = 0, 1, …, one after the other.

_FEATURES = binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx") else 4  # float32s in a vector register
_ABREAST = 2 if "sse2" in _FEATURES and LANES < 16 else 4  # vectors abreast: sums take 12 of 16 registers, or 24 of 32
HIGH = 6
PANEL = 128
LONGEST = 1024  # channels, at most: of more a panel would not stay in the cache

_VECTOR = ir.VectorType(_FLOAT, LANES)


def _vector(builder: Any, address: Any, index: Any) -> Any:
    return builder.bitcast(_at(builder, _FLOAT, address, index), _VECTOR.as_pointer())


@intrinsic
def _move(typing: Any, of: Any, to: Any, index: Any) -> Any:
    """Copies a vector of whatever memory to an index of scratch."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        of, to, index = args
        these = builder.load(_vector(builder, of, _INT64(0)), align=4)
        _marked(builder, builder.store(these, _vector(builder, to, index), align=4), "scratch")
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), gen


@intrinsic
def _transpose(typing: Any, of: Any, row: Any, to: Any, stride: Any) -> Any:
    """to[j·stride + m] = of[m·row + j] for j, m < LANES; `to` is scratch."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        of, row, to, stride = args
        held = [builder.load(_vector(builder, of, builder.mul(row, _INT64(m))), align=4) for m in range(LANES)]
        held = [_marked(builder, v, "inputs") for v in held]
        by = LANES // 2
        while by:  # off-diagonal blocks, by × by, change places
            for i in (i for i in range(LANES) if not i & by):
                upper = [LANES + n - by if n & by else n for n in range(LANES)]
                lower = [LANES + n if n & by else n + by for n in range(LANES)]
                these = held[i], held[i + by]
                held[i], held[i + by] = (
                    builder.shuffle_vector(*these, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))
                    for lanes in (upper, lower)
                )
            by //= 2
        for j, v in enumerate(held):
            at = _vector(builder, to, builder.mul(stride, _INT64(j)))
            _marked(builder, builder.store(v, at, align=4), "scratch")
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), gen


@intrinsic
def _tile(typing: Any, vectors: Any, p: Any, row: Any, step: Any, panel: Any, K: Any, y: Any, stride: Any) -> Any:
    """y[i·stride + n] = Σ_k p[i·row + k·step] panel[k·width + n], i < HIGH, k < K, n < width = vectors·LANES."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for vectors in range(1, _ABREAST + 1):
            with builder.if_then(builder.icmp_signed("==", args[0], _INT64(vectors))):
                _multiply(builder, vectors, *args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), gen


def _multiply(builder: Any, vectors: int, p: Any, row: Any, step: Any, panel: Any, K: Any, y: Any, stride: Any) -> None:
    nothing, zero = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_VECTOR, None)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(vectors)] for _ in range(HIGH)]
    for total in sum(sums, []):
        builder.store(zero, total)
    along = [_INT64(v * LANES) for v in range(vectors)]
    with cgutils.for_range(builder, K, intp=_INT64) as loop:
        at = builder.mul(loop.index, _INT64(vectors * LANES))
        these = [_vector(builder, panel, builder.add(at, v)) for v in along]
        these = [_marked(builder, builder.load(v, align=4), "scratch") for v in these]
        for i, totals in enumerate(sums):
            at = builder.add(builder.mul(row, _INT64(i)), builder.mul(loop.index, step))
            one = _marked(builder, builder.load(_at(builder, _FLOAT, p, at), align=4), "inputs")
            one = builder.insert_element(nothing, one, ir.IntType(32)(0))
            one = builder.shuffle_vector(one, nothing, everywhere)
            for total, v in zip(totals, these, strict=True):
                builder.store(builder.call(fma, [one, v, builder.load(total)]), total)
    for i, totals in enumerate(sums):
        for total, v in zip(totals, along, strict=True):
            to = _vector(builder, y, builder.add(builder.mul(stride, _INT64(i)), v))
            builder.store(builder.load(total), to, align=4)  # y may be whatever memory: it is in no scope


@njit(inline="always")
def _panel(columns: Any, i: Any) -> Any:
    """(start, size) of panel i of ⌈columns / PANEL⌉."""
    panels = (columns + PANEL - 1) // PANEL
    start = columns * i // panels
    return start, columns * (i + 1) // panels - start


@njit(inline="always")
def _columns(size: Any, n: Any) -> Any:
    """(first column, vectors) of the tile for what is left of a panel from column n on."""
    vectors = min(min(_ABREAST, (size - n + LANES - 1) // LANES), size // LANES)
    return min(n, size - vectors * LANES), vectors


@_inline
def _tiles(p: Any, row: Any, step: Any, rows: Any, panel: Any, size: Any, K: Any, y: Any, stride: Any) -> None:
    """y = p times what a panel holds."""
    n = 0
    while n < size:
        n0, vectors = _columns(size, n)
        for i in range(0, rows, HIGH):
            i0 = min(i, rows - HIGH)
            _tile(vectors, p + 4 * i0 * row, row, step, panel + 4 * n * K, K, y + 4 * (i0 * stride + n0), stride)
        n += vectors * LANES


@_inline
def _mix(job: Any, x: Any, y: Any, i0: Any, i1: Any, panel: Any) -> None:
    """Panels i0 to i1 of y = W x, of one image."""
    w, row, step, C, N = job.w, job.row, job.step, job.C, job.N
    for i in range(i0, i1):
        start, size = _panel(N, i)
        for j in range(C):
            n = 0
            while n < size:
                n0, vectors = _columns(size, n)
                for v in range(vectors):
                    _move(x + 4 * (j * N + start + n0 + v * LANES), panel, n * C + (j * vectors + v) * LANES)
                n += vectors * LANES
        _tiles(w, row, step, C, panel, size, C, y + 4 * start, N)


@_kernel
def mix(at: int, me: int) -> None:
    """y, an output, = W x, of images. C >= HIGH, N >= LANES. A part is a panel of a sample, of ⌈N / PANEL⌉.

    Rows of W, at w, are `row` numbers apart, its columns `step`. room: scratch, (threads, C, PANEL).
    """
    job = _job(at)
    C, N = job.C, job.N
    panel, panels = job.room + 4 * PANEL * C * me, (N + PANEL - 1) // PANEL
    k = _next(at, me)
    while k < job.parts:
        of, i = 4 * (k // panels) * C * N, k % panels
        _mix(job, job.x + of, job.y + of, i, i + 1, panel)
        k = _next(at, me)


@_kernel
def mix_rows(at: int, me: int) -> None:
    """The same of `samples` vectors, HIGH or more. C >= LANES.

    A part is a panel of channels, of ⌈C / PANEL⌉, and a group of samples, as many as make up the parts. Of `row` and
    `step` one is 1.
    """
    job = _job(at)
    x, y, w, row, step, C, samples = job.x, job.y, job.w, job.row, job.step, job.C, job.samples
    panel = job.room + 4 * PANEL * C * me
    panels = (C + PANEL - 1) // PANEL
    groups = job.parts // panels
    held = -1
    k = _next(at, me)
    while k < job.parts:
        start, size = _panel(C, k // groups)
        if held != k // groups:
            held = k // groups
            n = 0
            while n < size:
                n0, vectors = _columns(size, n)
                for v in range(vectors):
                    of, to = w + 4 * (start + n0 + v * LANES) * row, panel + 4 * (n * C + v * LANES)
                    if step == 1:  # a panel holds columns of Wᵀ, which lie in W as rows
                        for j in range(0, C, LANES):
                            j0 = min(j, C - LANES)
                            _transpose(of + 4 * j0, row, to + 4 * j0 * vectors * LANES, vectors * LANES)
                    else:
                        for j in range(C):
                            _move(of + 4 * j * step, to, j * vectors * LANES)
                n += vectors * LANES
        b0, b1 = samples * (k % groups) // groups, samples * (k % groups + 1) // groups
        _tiles(x + 4 * b0 * C, C, 1, b1 - b0, panel, size, C, y + 4 * (b0 * C + start), C)
        k = _next(at, me)


# ---- coupling, affine and permutation: images


@_kernel
def couple(at: int, me: int) -> None:
    """y, an output, of images. logs (B, lanes), an output: Σ l of the channels of a lane.

    Under GIN stage 1 writes l to y and logs, stage 2, once all parts are through it, takes the mean of logs (to means,
    (B,), an output) off and goes on; else stage 3 does all at once. With w, as `mix` takes it, y is W times that, with
    one lane; and room (threads, C, PANEL + N).
    """
    job = _job(at)
    B, C, N, groups, y, w = job.B, job.C, job.N, job.groups, job.y, job.w
    panel = job.room + 4 * (PANEL + N) * C * me
    image = panel + 4 * PANEL * C
    k = _next(at, me)
    while k < job.parts:
        k0, k1, lane = _share(job, k)
        for b in range(B * k0 // groups, B * k1 // groups):
            of = 4 * b * C * N
            _couple(job, b, lane, image - of if w else y)
            if w:
                _mix(job, image, y + of, 0, (N + PANEL - 1) // PANEL, panel)
        k = _next(at, me)


@_inline
def _couple(job: Any, b: Any, lane: Any, y: Any) -> None:
    x, a, src, dst, table, stage = job.x, job.a, job.src, job.dst, job.table, job.stage
    B, C, N, A, first, lanes = job.B, job.C, job.N, job.A, job.first, job.lanes
    alpha, c, unit, reverse, gin = job.alpha, job.c, job.unit, job.reverse, job.gin
    logs, means, buffer = _sums_of(job.logs, B, lanes), _means_of(job.means, B), scratch()
    if stage != 2:
        total = 0.0
        for i in range(lane, A, lanes):
            j = first + i
            q0, k_at, t0, to = (
                (b * C + whole(src, j)) * N,
                (2 * b * A + i) * N,
                (2 * b * A + A + i) * N,
                (b * C + whole(dst, j)) * N,
            )
            sigma, inv, o = load(table, j), load(table, C + j), load(table, 2 * C + j)
            for n0 in range(0, N, TILE):
                size = min(TILE, N - n0)
                if gin:
                    for n in range(size):
                        l = alpha * tanh(c * load(a, k_at + n0 + n))  # noqa: E741
                        keep(buffer, n, l)
                        store(y, to + n0 + n, l)
                elif reverse:
                    for n in range(size):
                        l = alpha * tanh(c * load(a, k_at + n0 + n))  # noqa: E741
                        keep(buffer, n, l)
                        q = (load(x, q0 + n0 + n) - o) * inv
                        store(y, to + n0 + n, (q - unit * load(a, t0 + n0 + n)) * exp(-l))
                else:
                    for n in range(size):
                        l = alpha * tanh(c * load(a, k_at + n0 + n))  # noqa: E741
                        keep(buffer, n, l)
                        u = load(x, q0 + n0 + n) * exp(l) + unit * load(a, t0 + n0 + n)
                        store(y, to + n0 + n, sigma * u + o)
                total += _sum(buffer, size)
        logs[b, lane] = total
    if gin and stage != 1:
        total = 0.0
        for k in range(lanes):
            total += logs[b, k]
        mean = f32(total / max(A * N, 1))
        means[b] = mean
        for i in range(lane, A, lanes):
            j = first + i
            q0, t0, to = (b * C + whole(src, j)) * N, (2 * b * A + A + i) * N, (b * C + whole(dst, j)) * N
            inv, o = load(table, C + j), load(table, 2 * C + j)
            if reverse:
                for n in range(N):
                    q = (load(x, q0 + n) - o) * inv
                    store(y, to + n, (q - unit * load(a, t0 + n)) * exp(mean - again(y, to + n)))
            else:
                for n in range(N):
                    u = load(x, q0 + n) * exp(again(y, to + n) - mean) + unit * load(a, t0 + n)
                    store(y, to + n, u + o)
    if stage != 1:
        for i in range(lane, C - A, lanes):
            j = i if first else A + i
            at, to = (b * C + whole(src, j)) * N, (b * C + whole(dst, j)) * N
            sigma, inv, o = load(table, j), load(table, C + j), load(table, 2 * C + j)
            if reverse:
                for n in range(N):
                    store(y, to + n, (load(x, at + n) - o) * inv)
            else:
                for n in range(N):
                    store(y, to + n, sigma * load(x, at + n) + o)


@_kernel
def couple_back(at: int, me: int) -> None:
    """Gradients by x and a, outputs, and by σ and o into part, (groups, 2, C), an output that is 0 before.

    Stages and logs as in `couple`: under GIN stage 1 writes the gradient by l to ga, its sum to logs, and stage 2 takes
    its mean off. means: as `couple` left them. With w, which is Wᵀ here, that times g is taken for g; room as there.
    """
    job = _job(at)
    B, C, N, groups, g, w = job.B, job.C, job.N, job.groups, job.g, job.w
    panel = job.room + 4 * (PANEL + N) * C * me
    image = panel + 4 * PANEL * C
    part = _next(at, me)
    while part < job.parts:
        k0, k1, lane = _share(job, part)
        for k in range(k0, k1):
            for b in range(B * k // groups, B * (k + 1) // groups):
                of = 4 * b * C * N
                if w:
                    _mix(job, g + of, image, 0, (N + PANEL - 1) // PANEL, panel)
                _couple_back(job, k, b, lane, image - of if w else g)
        part = _next(at, me)


@_inline
def _couple_back(job: Any, k: Any, b: Any, lane: Any, g: Any) -> None:
    x, a, j_, gx, ga, part = job.x, job.a, job.j_, job.gx, job.ga, job.part
    src, dst, table, stage, reverse, gin = job.src, job.dst, job.table, job.stage, job.reverse, job.gin
    B, C, N, A, first, lanes = job.B, job.C, job.N, job.A, job.first, job.lanes
    alpha, c, slope, unit = job.alpha, job.c, job.slope, job.unit
    logs, means, gs, gu = _sums_of(job.logs, B, lanes), _means_of(job.means, B), scratch(), scratch()
    mean = means[b] if gin else f32(0)
    by_l = f32(0) if gin else load(j_, b)
    if stage != 2:
        total = 0.0
        for i in range(lane, A, lanes):
            j = first + i
            q_at, k_at = (b * C + whole(src, j)) * N, (2 * b * A + i) * N
            t_at, g_at = (2 * b * A + A + i) * N, (b * C + whole(dst, j)) * N
            sigma, inv, o = load(table, j), load(table, C + j), load(table, 2 * C + j)
            for n0 in range(0, N, TILE):
                size = min(TILE, N - n0)
                q0, k_0, t0, g0 = q_at + n0, k_at + n0, t_at + n0, g_at + n0
                if reverse:
                    for n in range(size):
                        T = tanh(c * load(a, k_0 + n))
                        e = exp(mean - alpha * T)
                        q = (load(x, q0 + n) - o) * inv
                        h = load(g, g0 + n) * e
                        gl = -h * (q - unit * load(a, t0 + n)) - by_l
                        store(ga, k_0 + n, gl if gin else slope * (f32(1) - T * T) * gl)
                        store(ga, t0 + n, -unit * h)
                        store(gx, q0 + n, h * inv)
                        keep(gu, n, h * inv)
                        keep(gs, n, gl if gin else h * inv * q)
                else:
                    for n in range(size):
                        T = tanh(c * load(a, k_0 + n))
                        e = exp(alpha * T - mean)
                        q = load(x, q0 + n) * e
                        raw = load(g, g0 + n)
                        h = sigma * raw
                        gl = h * q + by_l
                        store(gx, q0 + n, h * e)
                        store(ga, k_0 + n, gl if gin else slope * (f32(1) - T * T) * gl)
                        store(ga, t0 + n, unit * h)
                        by_sigma = raw * (q + unit * load(a, t0 + n))
                        keep(gs, n, gl if gin else by_sigma)
                        keep(gu, n, raw)
                one, two = _sum(gs, size), _sum(gu, size)
                total += one
                if reverse:
                    add(part, 2 * k * C + j, -one)
                    add(part, (2 * k + 1) * C + j, -two)
                else:
                    add(part, 2 * k * C + j, one)
                    add(part, (2 * k + 1) * C + j, two)
        logs[b, lane] = total
    if gin and stage != 1:
        total = 0.0
        for m in range(lanes):
            total += logs[b, m]
        by_mean = f32(total / max(A * N, 1))
        for i in range(lane, A, lanes):
            k_at = (2 * b * A + i) * N
            for n in range(N):
                T = tanh(c * load(a, k_at + n))
                store(ga, k_at + n, slope * (f32(1) - T * T) * (again(ga, k_at + n) - by_mean))
    if stage != 1:
        for i in range(lane, C - A, lanes):
            j = i if first else A + i
            at, to = (b * C + whole(src, j)) * N, (b * C + whole(dst, j)) * N
            sigma, inv, o = load(table, j), load(table, C + j), load(table, 2 * C + j)
            for n0 in range(0, N, TILE):
                size = min(TILE, N - n0)
                if reverse:
                    for n in range(size):
                        h = load(g, to + n0 + n) * inv
                        store(gx, at + n0 + n, h)
                        keep(gu, n, h)
                        keep(gs, n, h * ((load(x, at + n0 + n) - o) * inv))
                    add(part, 2 * k * C + j, -_sum(gs, size))
                    add(part, (2 * k + 1) * C + j, -_sum(gu, size))
                else:
                    for n in range(size):
                        h = load(g, to + n0 + n)
                        store(gx, at + n0 + n, sigma * h)
                        keep(gu, n, h)
                        keep(gs, n, h * load(x, at + n0 + n))
                    add(part, 2 * k * C + j, _sum(gs, size))
                    add(part, (2 * k + 1) * C + j, _sum(gu, size))


# ---- the same of vectors


@_kernel
def couple_rows(at: int, me: int) -> None:
    """As `couple`, of vectors, all stages at once. logs: (B, 1)."""
    job = _job(at)
    k = _next(at, me)
    while k < job.parts:
        _couple_rows(job, k)
        k = _next(at, me)


@_inline
def _couple_rows(job: Any, share: Any) -> None:
    x, a, y, src, dst, table = job.x, job.a, job.y, job.src, job.dst, job.table
    B, C, A, first, passive, groups = job.B, job.C, job.A, job.first, job.passive, job.groups
    alpha, c, unit, reverse, gin = job.alpha, job.c, job.unit, job.reverse, job.gin
    from_there, to_there = job.from_there, job.to_there
    k0, k1, _ = _share(job, share)
    logs, means = _sums_of(job.logs, B, 1), _means_of(job.means, B)
    L, Q, T, F, O, M = scratch(), scratch(), scratch(), scratch(), scratch(), scratch()  # noqa: E741
    FP, OP = scratch(), scratch()
    P, width = C - A, min(A, ROWS)
    R = max(ROWS // max(width, 1), 1)
    width_p = min(P, TILE // R)
    start, stop = B * k0 // groups, B * k1 // groups
    for b0 in range(start, stop, R):
        rows, at = min(R, stop - b0), b0 * C
        for r in range(rows):
            logs[b0 + r, 0] = 0.0
        # Wide rows under GIN are swept twice, as their mean is known only at the end.
        for sweep in range(0 if gin and width < A else 1, 2):
            for i0 in range(0, A, max(width, 1)):
                m, j0 = min(width, A - i0), first + i0
                _rows_in(a, b0 * 2 * A, 2 * A, src, i0, m, True, rows, T)
                for n in range(rows * m):
                    keep(L, n, alpha * tanh(c * kept(T, n)))
                if not gin or sweep == 0 or width == A:
                    _rows_sum(L, m, rows, job.logs, b0)
                if sweep == 0:
                    continue
                if gin:
                    for r in range(rows):
                        means[b0 + r] = f32(logs[b0 + r, 0] / A)
                        keep(M, r, -means[b0 + r])
                    _rows_plus(L, M, m, rows)
                _rows_in(a, b0 * 2 * A, 2 * A, src, A + i0, m, True, rows, T)
                _rows_in(x, at, C, src, j0, m, from_there, rows, Q)
                if b0 == start or rows < R or width < A:
                    _rows_affine(table, C, j0, m, reverse, rows, F, O)
                if reverse:
                    for n in range(rows * m):
                        q = (kept(Q, n) - kept(O, n)) * kept(F, n)
                        keep(Q, n, (q - unit * kept(T, n)) * exp(-kept(L, n)))
                else:
                    for n in range(rows * m):
                        v = kept(Q, n) * exp(kept(L, n)) + unit * kept(T, n)
                        keep(Q, n, kept(F, n) * v + kept(O, n))
                _rows_out(Q, y, at, C, dst, j0, m, to_there, rows)
        for i0 in range(0, P, max(width_p, 1)):
            m, j0 = min(width_p, P - i0), passive + i0
            _rows_in(x, at, C, src, j0, m, from_there, rows, Q)
            if b0 == start or rows < R or width_p < P:
                _rows_affine(table, C, j0, m, reverse, rows, FP, OP)
            if reverse:
                for n in range(rows * m):
                    keep(Q, n, (kept(Q, n) - kept(OP, n)) * kept(FP, n))
            else:
                for n in range(rows * m):
                    keep(Q, n, kept(FP, n) * kept(Q, n) + kept(OP, n))
            _rows_out(Q, y, at, C, dst, j0, m, to_there, rows)


@_kernel
def couple_rows_back(at: int, me: int) -> None:
    """As `couple_back`, of vectors, all stages at once. logs: (B, 1)."""
    job = _job(at)
    k = _next(at, me)
    while k < job.parts:
        _couple_rows_back(job, k)
        k = _next(at, me)


@_inline
def _couple_rows_back(job: Any, share: Any) -> None:
    x, a, g, j_, gx, ga, part = job.x, job.a, job.g, job.j_, job.gx, job.ga, job.part
    src, dst, table, reverse, gin = job.src, job.dst, job.table, job.reverse, job.gin
    B, C, A, first, passive, groups = job.B, job.C, job.A, job.first, job.passive, job.groups
    alpha, c, slope, unit = job.alpha, job.c, job.slope, job.unit
    from_there, to_there = job.from_there, job.to_there
    k0, k1, _ = _share(job, share)
    logs, means = _sums_of(job.logs, B, 1), _means_of(job.means, B)
    E, Q, T, H, G, S = scratch(), scratch(), scratch(), scratch(), scratch(), scratch()
    F, O, M, FP, OP = scratch(), scratch(), scratch(), scratch(), scratch()  # noqa: E741
    P, width = C - A, min(A, ROWS)
    R = max(ROWS // max(width, 1), 1)
    width_p = min(P, TILE // R)
    for k in range(k0, k1):
        start, stop = B * k // groups, B * (k + 1) // groups
        for b0 in range(start, stop, R):
            rows, at = min(R, stop - b0), b0 * C
            for r in range(rows):
                logs[b0 + r, 0] = 0.0
            for sweep in range(0 if gin and width < A else 1, 2):
                for i0 in range(0, A, max(width, 1)):
                    m, j0 = min(width, A - i0), first + i0
                    _rows_in(a, b0 * 2 * A, 2 * A, src, i0, m, True, rows, T)
                    _rows_in(a, b0 * 2 * A, 2 * A, src, A + i0, m, True, rows, S)
                    _rows_in(x, at, C, src, j0, m, from_there, rows, Q)
                    _rows_in(g, at, C, dst, j0, m, to_there, rows, G)
                    if b0 == start or rows < R or width < A:
                        _rows_affine(table, C, j0, m, reverse, rows, F, O)
                    for n in range(rows * m):
                        t = tanh(c * kept(T, n))
                        keep(T, n, t)
                        keep(E, n, alpha * t)
                    if gin:
                        for r in range(rows):
                            keep(M, r, -means[b0 + r])
                        _rows_plus(E, M, m, rows)
                    # From here on gradients: H by q, S by a_t, E by l, Q by σ, G by o.
                    if reverse:
                        for n in range(rows * m):
                            q, f = (kept(Q, n) - kept(O, n)) * kept(F, n), kept(F, n)
                            h = kept(G, n) * exp(-kept(E, n))
                            keep(E, n, -h * (q - unit * kept(S, n)))
                            keep(S, n, -unit * h)
                            keep(H, n, h * f)
                            keep(Q, n, -h * f * q)
                            keep(G, n, -h * f)
                    else:
                        for n in range(rows * m):
                            e, h = exp(kept(E, n)), kept(G, n) * kept(F, n)
                            q = kept(Q, n) * e
                            keep(E, n, h * q)
                            keep(Q, n, kept(G, n) * (q + unit * kept(S, n)))
                            keep(S, n, unit * h)
                            keep(H, n, h * e)
                    if gin and (sweep == 0 or width == A):
                        _rows_sum(E, m, rows, job.logs, b0)
                    if sweep == 0:
                        continue
                    for r in range(rows):
                        by = -load(j_, b0 + r) if reverse else load(j_, b0 + r)
                        keep(M, r, f32(-logs[b0 + r, 0] / A) if gin else by)
                    _rows_plus(E, M, m, rows)
                    for n in range(rows * m):
                        t = kept(T, n)
                        keep(E, n, slope * (f32(1) - t * t) * kept(E, n))
                    _rows_out(E, ga, b0 * 2 * A, 2 * A, src, i0, m, True, rows)
                    _rows_out(S, ga, b0 * 2 * A, 2 * A, src, A + i0, m, True, rows)
                    _rows_out(H, gx, at, C, src, j0, m, from_there, rows)
                    _rows_total(Q, m, rows, part, 2 * k * C + j0)
                    _rows_total(G, m, rows, part, (2 * k + 1) * C + j0)
            for i0 in range(0, P, max(width_p, 1)):
                m, j0 = min(width_p, P - i0), passive + i0
                _rows_in(x, at, C, src, j0, m, from_there, rows, Q)
                _rows_in(g, at, C, dst, j0, m, to_there, rows, G)
                if b0 == start or rows < R or width_p < P:
                    _rows_affine(table, C, j0, m, reverse, rows, FP, OP)
                if reverse:
                    for n in range(rows * m):
                        f = kept(FP, n)
                        h = kept(G, n) * f
                        keep(Q, n, -h * ((kept(Q, n) - kept(OP, n)) * f))
                        keep(H, n, h)
                        keep(G, n, -h)
                else:
                    for n in range(rows * m):
                        h = kept(G, n)
                        keep(Q, n, h * kept(Q, n))
                        keep(H, n, kept(FP, n) * h)
                _rows_out(H, gx, at, C, src, j0, m, from_there, rows)
                _rows_total(Q, m, rows, part, 2 * k * C + j0)
                _rows_total(G, m, rows, part, (2 * k + 1) * C + j0)


# ---- reflections


@_kernel
def compact_wy(v: int, n: int, C: int, K: np.ndarray, U: np.ndarray, M: np.ndarray) -> None:
    """Q = H_1 … H_n = I − K U of the rows of v, (n, C): U their directions, K (C, n) = Uᵀ M⁻¹; outputs, in float64.

    M (n, n) = triu(U Uᵀ, 1) + I/2; see `flowref.fast.ops.Reflections`.
    """
    for k in range(n):
        square = 0.0
        for j in range(C):
            U[k, j] = np.float64(load(v, k * C + j))
            square += U[k, j] ** 2
        length = math.sqrt(square)
        for j in range(C):
            U[k, j] /= length
        for i in range(k + 1):
            dot = 0.0
            for j in range(C):
                dot += U[i, j] * U[k, j]
            M[i, k] = dot if i < k else dot / 2
    # Columns of K one after another: K M = Uᵀ, M upper triangular.
    for k in range(n):
        for j in range(C):
            K[j, k] = U[k, j]
        for i in range(k):
            for j in range(C):
                K[j, k] -= K[j, i] * M[i, k]
        for j in range(C):
            K[j, k] /= M[k, k]


@_kernel
def compact_wy_back(
    v: int, n: int, C: int, K: np.ndarray, U: np.ndarray, M: np.ndarray, gK: np.ndarray, gU: np.ndarray, gv: int
) -> None:
    """Gradient by v, an output, of those by K and U, (n, C), which it uses up.

    With K M = Uᵀ: X Mᵀ = gK gives gU += Xᵀ, gM = −Kᵀ X, and through M's upper triangle gU += (S + Sᵀ) U, where S is
    gM above the diagonal and half of it on the diagonal.
    """
    for k in range(n - 1, -1, -1):
        for j in range(C):
            gK[j, k] /= M[k, k]
        for i in range(k):
            for j in range(C):
                gK[j, i] -= gK[j, k] * M[i, k]
    for k in range(n):
        for j in range(C):
            gU[k, j] += gK[j, k]
    for k in range(n):
        for i in range(k + 1):
            by_m = 0.0
            for j in range(C):
                by_m -= K[j, i] * gK[j, k]
            for j in range(C):
                if i < k:
                    gU[i, j] += by_m * U[k, j]
                    gU[k, j] += by_m * U[i, j]
                else:
                    gU[k, j] += by_m * U[k, j]
    for k in range(n):
        square, along = 0.0, 0.0
        for j in range(C):
            square += np.float64(load(v, k * C + j)) ** 2
            along += gU[k, j] * U[k, j]
        length = math.sqrt(square)
        for j in range(C):
            store(gv, k * C + j, f32((gU[k, j] - along * U[k, j]) / length))
