"""A pass with the kernels of `flowref.fast.triton_kernels`: float32 on CUDA, or interpreted on any device.

How work is cut: a kernel's program takes tiles of TILE numbers, [BB samples, BC channels, BN pixels]; grids have one
axis, the one that is long. No sum runs through more than MOST tiles, or √n, in one program, as the bounds ask.
A hard permutation that is stored as a matrix is looked at anew in each pass, which waits for the device, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from flowref.fast import nodes, ops
from flowref.fast import triton_kernels as kernels
from flowref.fast.eager import State
from flowref.fast.nodes import contiguous
from flowref.spec import BlockSpec

TILE, WARPS = 1024, 8  # numbers of a tile, and who works on it: each thread on 4, which are 16 bytes
PROGRAMS = 1024  # as many programs as keep a large device busy
ALONE = 4  # up to so many tiles a sample, one program takes all of them, and no second kernel sums up
MOST = 512
INTERPRETED = not isinstance(kernels.ask, triton.JITFunction)


def run(
    spec: BlockSpec,
    state: State,
    x: Tensor,
    conditions: Sequence[Tensor],
    ask: Callable[[Tensor], Tensor],
    reverse: bool,
) -> tuple[tuple[Tensor], Tensor]:
    """One pass: ``((y,), logdet)``. x, conditions, state: float32, on one device, of no subclass; B > 0."""
    return nodes.run(Plan, spec, state, x, conditions, ask, reverse)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b in IEEE float32, for (batch, m, k) and (batch, k, n), or two matrices."""
    left, right = (v if v.dim() == 3 else v[None] for v in (a, b))
    batch, M, K = left.shape
    N = right.shape[2]
    y = left.new_empty(batch, M, N)
    BM, BN, BK = (min(64, max(16, _power(M))), min(64, max(16, _power(N))), 16)
    grid = batch * _parts(M, BM) * _parts(N, BN)
    _launch(kernels.product, grid, y, (left, right, y, M, N, K, *left.stride(), *right.stride()), BM=BM, BN=BN, BK=BK)
    return y if a.dim() == 3 else y[0]


# TF32's setting by the name that torch gives it: from 2.9 on the former, after which to ask for the latter may raise.
_TF32 = "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"


def _rounds(v: Tensor) -> bool:
    return v.is_cuda and getattr(torch.backends.cuda.matmul, _TF32) not in ("ieee", "none", False)


def _launch(kernel: Any, programs: int, there: Tensor, given: Sequence[Any], **constants: Any) -> None:
    """The kernel, on the device of `there` and its current stream."""
    if programs:
        with torch.cuda.device_of(there):
            kernel[(programs,)](*given, **constants, num_warps=WARPS)


def _power(n: int) -> int:
    """The least power of 2 that is n at least."""
    return 1 << max(n - 1, 0).bit_length()


def _parts(n: int, size: int) -> int:
    return -(-n // size)


def _size(n: int, most: int) -> int:
    """The power of 2, from 32 to `most`, whose multiples overshoot n least; the largest such."""
    if _power(n) <= 32 or most <= 32:
        return min(_power(n), most)
    sizes = [1 << k for k in range(5, min(_power(n), most).bit_length())]
    return min(sizes, key=lambda size: (_parts(n, size) * size, -size))


class Plan(nodes.Plan):
    """The kernels' calls of one pass."""

    def __init__(self, spec: BlockSpec, state: State, B: int, reverse: bool) -> None:
        super().__init__(spec, state, B, reverse)
        self.s, o = state.scale.detach().contiguous(), state.offset.detach().contiguous()
        self.o = torch.zeros_like(o) if self.offset_apart else o
        self.channels = (self.rows[self.src], self.rows[self.dst])

        BN = _size(self.N, TILE)
        BC = _size(self.P, TILE // BN)
        BB = min(_power(B), TILE // (BN * BC))
        self.tile = {"BB": BB, "BC": BC, "BN": BN}
        self.tile_counts = _parts(B, BB), _parts(self.P, BC), _parts(self.N, BN)

        # By sample: (tiles, tiles a program, splits).
        samples, tiles = self.tile_counts[0], self.tile_counts[1] * self.tile_counts[2]
        splits = 1 if tiles <= ALONE else max(min(tiles, _parts(PROGRAMS, samples)), _parts(tiles, MOST))
        per = _parts(tiles, splits)
        self.cut = tiles, per, _parts(tiles, per)
        self.alone = self.cut[2] == 1

    # ---- products
    #
    # Whether torch rounds the factors of a float32 product on CUDA to TF32 is a setting of the process, and others' to
    # change: where it would, a kernel of our own takes the product.

    def times(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        return product(a, b) if _rounds(a) else super().times(a, b, out)

    def less(self, v: Tensor, a: Tensor, b: Tensor, own: bool) -> Tensor:
        return v - product(a, b) if _rounds(v) else super().less(v, a, b, own)

    # ---- W

    def permutes(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]:
        if self.spec.permute_soft:
            return [False] * len(wanted)
        if any(W.dim() != 1 for W, _ in wanted):
            return self._look(wanted)
        for W, row in wanted:
            # To look at it the host would have to wait. Of one that is no permutation all reads and writes stay inside.
            self.rows[row] = index = self.keep(W).clamp(0, self.C - 1)
            if row == 0:
                self.rows[1] = inverse = torch.empty_like(index)
                BJ, BI = min(_power(self.C), 32), min(_power(self.C), 256)
                given = (index, inverse, self.C)
                _launch(kernels.invert_permutation, _parts(self.C, BJ), index, given, BJ=BJ, BI=BI)
        return [W.is_cuda or ops.is_permutation(W) for W, _ in wanted]

    def _look(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]:
        """Of matrices: where the ones are is found there, whether that is a permutation here."""
        C, (W, *V) = self.C, [W.detach().reshape(self.C, self.C).contiguous() for W, _ in wanted]
        index = torch.empty(2 * len(wanted), C, dtype=torch.int64, device=W.device)
        BR, BC = min(_power(C), 4), min(_power(C), 256)
        grid = len(wanted) * _parts(C, BR)
        _launch(kernels.find_permutation, grid, W, (W, V[0] if V else None, index, C), BR=BR, BC=BC)
        for k, (_, row) in enumerate(wanted):
            self.rows[row], self.rows[row + 1] = index[2 * k], index[2 * k + 1]
        return [ops.is_permutation(found) for found in index[::2].cpu()]

    # ---- the kernels' calls

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.B, self.C, self.N, self.A, self.P, self.first, self.passive

    @property
    def _where(self) -> dict[str, Any]:
        return {"REVERSE": self.reverse, "OUTSIDE": self.outside, **self.tile}

    def _shares(self) -> tuple[int, int, int, int]:
        """How sums over samples and pixels are cut: (shares, samples, tiles of pixels, how many such)."""
        samples, channels, pixels = self.tile_counts
        wanted = max(_parts(PROGRAMS, channels), int((samples * pixels) ** 0.5))
        groups = min(samples, wanted)
        splits = min(pixels, _parts(wanted, groups))
        each, wide = _parts(samples, groups) * self.tile["BB"], _parts(pixels, splits)
        splits = _parts(pixels, wide)
        return _parts(self.B, each) * splits, each, wide, splits

    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The subnet's input, (B, P + ΣC_k, *S)."""
        B, P, S = self.B, self.P, self.spec.S
        if self.channels[0] is None and not self.reverse:
            # cat copies even a single tensor, so that a subnet that writes to its input reaches nobody else's.
            return torch.cat((data[:, self.passive : self.passive + P].view(B, P, *S), *conditions), 1)
        asked = data.new_empty(B, self.width, *S)
        samples, channels, pixels = self.tile_counts
        given = (data, asked, self.s, self.o, self.channels[0], B, self.C, self.N, P, self.passive, self.width)
        _launch(kernels.ask, samples * channels * pixels, data, given, KIND=self.kind, **self._where)
        at = P
        for c in conditions:
            asked.narrow(1, at, c.shape[1]).copy_(c)
            at += c.shape[1]
        return asked

    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor) -> Tensor | None:
        shares, samples, pixels, splits = self._shares()
        part = data.new_zeros(shares, 2, self.C) if self.reverse else None
        given = (
            data, g, gx, part, self.s, self.o, self.channels[0], self.B, self.C, self.N, self.P, self.passive,
            self.width, samples, pixels, splits,
        )  # fmt: skip
        _launch(kernels.ask_back, shares * self.tile_counts[1], data, given, KIND=self.kind, **self._where)
        return part

    def _coupled(self, data: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """y, before `post` is applied, logdet, means."""
        B, N, A, C = self.B, self.N, self.A, self.C
        y, logdet = torch.empty_like(data), data.new_empty(B)
        means = data.new_empty(B) if self.gin else None
        tiles, per, splits = self.cut
        sums = None if self.alone else data.new_empty(B, splits)
        programs, BK, BS = self.tile_counts[0] * splits, _power(splits), min(_power(C), TILE)
        if self.gin and not self.alone:
            given: tuple[Any, ...] = (a, sums, B, N, A, tiles, per, splits, self.alpha, self.c)
            _launch(kernels.log_sums, programs, data, given, **self.tile)
        given = (
            data, a, y, logdet, sums, means, self.s, self.o, *self.channels, *self._sizes, tiles, per, splits,
            self.alpha, self.c, self.unit, float(max(A * N, 1)),
        )  # fmt: skip
        _launch(
            kernels.couple, programs, data, given, KIND=self.kind, GIN=self.gin, ALONE=self.alone, BK=BK, BS=BS,
            **self._where,
        )  # fmt: skip
        if not self.gin and not self.alone:
            given = (sums, logdet, self.s, B, C, N, splits)
            _launch(kernels.close_logdet, B, data, given, KIND=self.kind, REVERSE=self.reverse, BB=1, BK=BK, BS=BS)
        return y, logdet, means

    def coupled(self, data: Tensor, a: Tensor, own: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """y (B, C, *S), logdet (B,), and the means that GIN took off."""
        y, logdet, means = self._coupled(data, a.detach().contiguous())
        y = self.through(self.post, y, own=True)
        return ops.shaped(y, (self.B, self.C, *self.spec.S)), logdet, means

    def coupled_back(
        self, data: Tensor, a: Tensor, gy: Tensor, gj: Tensor, means: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients by data, by a, sums of those by σ and o, by the vectors."""
        by_vectors = None
        if self.post:
            u = data if self.state.vectors is None else self._coupled(data, a)[0]
            gy, factors = self.back(self.post, gy, u)
            gy, by_vectors = gy.contiguous(), self.by_factors(factors)
        gx, ga = torch.empty_like(data), torch.empty_like(a)
        tiles, per, splits = self.cut
        sums, count = None, float(max(self.A * self.N, 1))
        if self.gin:
            sums = data.new_empty(self.B, splits)
            given: tuple[Any, ...] = (
                data, a, gy, sums, means, self.o, *self.channels, self.B, self.C, self.N, self.A, self.first, tiles,
                per, splits, self.alpha, self.c, self.unit,
            )  # fmt: skip
            _launch(kernels.by_log_sums, self.tile_counts[0] * splits, data, given, **self._where)
        shares, samples, pixels, parts = self._shares()
        part = data.new_empty(shares, 2, self.C)
        given = (
            data, a, gy, gj, gx, ga, part, sums, means, self.s, self.o, *self.channels, *self._sizes, samples, pixels,
            parts, splits, self.alpha, self.c, self.slope, self.unit, count,
        )  # fmt: skip
        _launch(
            kernels.couple_back, shares * self.tile_counts[1], data, given, KIND=self.kind, GIN=self.gin,
            BK=_power(splits), **self._where,
        )  # fmt: skip
        return gx, ga, part, by_vectors

    def by_affine(self, by: Tensor, s: Tensor | None, o: Tensor, gj: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Gradients by s, None where it is, and o."""
        go = torch.empty_like(self.o)
        gs = None if s is None else torch.empty_like(self.s)
        where = self.channels[0 if self.reverse else 1] if self.outside else None
        BC = min(_power(self.C), 32)
        given = (
            by, self.s, None if gj is None else contiguous(gj), gs, go, where, by.shape[0], self.B, self.C,
            float(-self.N if self.reverse else self.N),
        )  # fmt: skip
        _launch(kernels.close_affine, _parts(self.C, BC), by, given, KIND=self.kind, BR=32, BC=BC, BJ=TILE)
        return gs, go
