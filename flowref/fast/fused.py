"""A pass with the kernels of `flowref.fast.cpu`. Float32 on the CPU; the caller has looked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowref.fast import cpu, nodes, pool
from flowref.fast.eager import State
from flowref.fast.nodes import STRAIGHT, Dense, Reflected
from flowref.fast.ops import shaped
from flowref.spec import BlockSpec

GROUP = 2**16  # numbers of x in a group of samples, which is summed by itself; fewer where threads would have none
SAMPLES = 16  # or as many as these have: of wide vectors the sums, two in float64 a channel, would outweigh x
ROOM = 2**19  # numbers of y on their way from a kernel to a product: 2 MiB, which stay in the cache
ALONE = 2**17  # below so many numbers in x, a second thread costs more than it saves
LEAST = sys.float_info.min  # the smallest normal number
PRODUCTS = 16  # of a dense W, which take about as long as all else that is done to a number


def run(
    spec: BlockSpec,
    state: State,
    x: Tensor,
    conditions: Sequence[Tensor],
    ask: Callable[[Tensor], Tensor],
    reverse: bool,
) -> tuple[tuple[Tensor], Tensor]:
    """One pass: ``((y,), logdet)``. x, conditions, state: float32, on the CPU, of no subclass; B > 0."""
    return nodes.run(Plan, spec, state, x, conditions, ask, reverse)


class Turn(NamedTuple):
    """Groups that a kernel and then a product take before the next do: groups first to stop, samples start to end."""

    first: int
    stop: int
    start: int
    end: int
    whole: bool

    def of(self, v: Tensor) -> Tensor:
        """Their samples of v, (B, …)."""
        return v if self.whole else v[self.start : self.end]


class Plan(nodes.Plan):
    """The kernels' calls of one pass."""

    def __init__(self, spec: BlockSpec, state: State, B: int, reverse: bool) -> None:
        C, N = spec.C, spec.N
        # Rows: index and inverse of W (of W₀ with reflections), the same of W⁻¹, and 0, 1, 2, …
        self.index = np.empty((5, C), np.int64)
        self.index[STRAIGHT] = np.arange(C)
        super().__init__(spec, state, B, reverse)
        src, dst = self.src, self.dst
        index = cpu.address(self.index)
        self.from_there, self.to_there = src == STRAIGHT, dst == STRAIGHT
        # o by channel of z: as documented it stands where the channels of x or y do.
        self.o_map = self.index[STRAIGHT if not self.outside else src if reverse else dst]
        self.affine = np.empty((3, C), np.float32)
        s, o = state.scale.contiguous(), state.offset.contiguous()
        self.log_sigma = cpu.global_affine(self.kind, s.data_ptr(), o.data_ptr(), C, self.o_map, self.affine)
        if self.offset_apart:
            self.affine[2] = 0

        # Threads take groups of samples, or, of images fewer than threads, every lanes-th channel.
        numbers = B * C * N
        work = numbers * (1 + C // PRODUCTS) if any(type(v) is Dense for v in (*self.pre, *self.post)) else numbers
        self.threads = torch.get_num_threads() if work >= ALONE else 1
        self.groups = min(B, max(4 * self.threads, numbers // max(GROUP, SAMPLES * C)))
        self.lanes = 1 if N == 1 or self.threads <= self.groups else min(self.threads, C)
        self.inside = self._inside()
        self.turns = self._turns(ROOM if self.post and self.lanes == 1 else numbers, numbers)
        self.fixed = cpu.Job(
            B=B, C=C, N=N, A=self.A, P=self.P, first=self.first, passive=self.passive, width=self.width,
            groups=self.groups, src=index + 8 * C * src, dst=index + 8 * C * dst, table=cpu.address(self.affine),
            alpha=self.alpha, c=self.c, slope=self.slope, unit=self.unit, reverse=reverse, gin=self.gin,
            from_there=self.from_there, to_there=self.to_there,
        )  # fmt: skip

    def _turns(self, room: int, numbers: int) -> list[Turn]:
        """All groups, as many at a time as fit the room, yet enough for all threads."""
        B, groups = self.B, self.groups
        if numbers <= room:
            return [Turn(0, groups, 0, B, True)]
        count = -(-groups // max(self.threads, groups * room // numbers))
        ends = [groups * k // count for k in range(count + 1)]
        return [Turn(k, m, B * k // groups, B * m // groups, count == 1) for k, m in pairwise(ends)]

    def _inside(self) -> Tensor | None:
        """The W that the kernels of the coupling multiply images by themselves; taken from `post`."""
        dense = self.post[0] if len(self.post) == 1 else None
        if self.N == 1 or self.lanes > 1 or not isinstance(dense, Dense) or not self._tiled(self.B, self.N):
            return None
        self.post = []
        return dense.W

    # ---- W

    def _tiled(self, B: int, N: int) -> bool:
        """Whether the kernels' products serve: those of smaller sizes are left to torch, and of larger ones."""
        if N == 1:
            return cpu.LANES <= self.C <= cpu.LONGEST and cpu.HIGH <= B
        return cpu.HIGH <= self.C <= cpu.LONGEST and cpu.LANES <= N

    def permutes(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]:
        return [not self.spec.permute_soft and self._is_permutation(W, row) for W, row in wanted]

    def permutation(self, row: int) -> Tensor:
        return torch.from_numpy(self.index[row])

    def _is_permutation(self, W: Tensor, row: int) -> bool:
        W = W.detach().contiguous()
        index, inverse = self.index[row], self.index[row + 1]
        return bool(cpu.permutation_of(W.data_ptr(), W.dim() == 1, self.C, index, inverse))

    def product(self, W: Tensor, v: Tensor, out: Tensor | None) -> Tensor:
        B, C, N = v.shape
        if not self._tiled(B, N):
            return super().product(W, v, out)
        v = v.contiguous()
        out = torch.empty_like(v) if out is None else out
        kernel, parts = cpu.mix, B * -(-N // cpu.PANEL)
        if N == 1:
            panels = -(-C // cpu.PANEL)
            kernel, parts = cpu.mix_rows, panels * min(B // cpu.HIGH, -(-2 * self.threads // panels))
        self._call(kernel, parts, W, x=v.data_ptr(), y=out.data_ptr(), samples=B)
        return out

    def reflections(self, vectors: Tensor, row: int | None) -> Reflected:
        """K and U; with a row of self.index, along vectors that are permuted by it."""
        n, C = vectors.shape
        v = vectors.contiguous()
        self.wy = K, U, _ = np.empty((C, n)), np.empty((n, C)), np.empty((n, n))
        cpu.compact_wy(v.data_ptr(), n, C, *self.wy)
        self.order = None if row is None else self.index[row].copy()
        order = slice(None) if self.order is None else self.order
        return Reflected(*(torch.from_numpy(M[:, order].astype(np.float32, "C")) for M in (K.T, U)))

    def by_vectors(self, vectors: Tensor, gK: Tensor, gU: Tensor) -> Tensor:
        """Gradient by the vectors of those by Kᵀ and U, as the operators hold them."""
        back = slice(None) if self.order is None else np.argsort(self.order)
        v = vectors.detach().contiguous()
        gv = torch.empty_like(v)
        by = gK.numpy()[:, back].T.astype(np.float64, "C"), gU.numpy()[:, back].astype(np.float64, "C")
        cpu.compact_wy_back(v.data_ptr(), *v.shape, *self.wy, *by, gv.data_ptr())
        return gv.view(vectors.shape)

    # ---- the kernels' calls

    def _call(self, kernel: Any, parts: int, W: Tensor | None = None, pixels: int = 0, **given: int) -> None:
        """Calls a kernel once. Where it multiplies by W, each thread has room for a panel, and for so many pixels."""
        threads = 1 if _flushes() else min(self.threads, parts - given.get("begin", 0))
        if W is not None:
            room = _fresh((threads, self.C, cpu.PANEL + pixels))
            W = W if 1 in W.stride() else W.contiguous()
            given["row"], given["step"] = W.stride()
            given |= {"w": W.data_ptr(), "room": room.data_ptr()}
        pool.run(kernel, self.fixed.call(threads, parts=parts, **given))

    def _run(self, kernel: Any, turn: Turn | None = None, W: Tensor | None = None, **given: int) -> None:
        """Calls a kernel on tensors and arrays, given by their addresses: on all of x at once, or on a turn's part."""
        lanes, start, parts = 1, 0, self.groups
        stages: tuple[int, ...] = (3,)
        if turn is not None and self.lanes > 1:
            # Where lanes share a sample whose mean they need, all are to be through the first stage before the second.
            lanes = parts = self.lanes
            stages = (1, 2) if self.gin else stages
        elif turn is not None:
            start, parts = turn.first, turn.stop
        for stage in stages:
            self._call(kernel, parts, W, self.N, lanes=lanes, stage=stage, begin=start, **given)

    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The subnet's input, (B, P + ΣC_k, *S)."""
        B, P, S = self.B, self.P, self.spec.S
        if self.from_there and not self.reverse:
            # cat copies even a single tensor, so that a subnet that writes to its input reaches nobody else's.
            return torch.cat((data[:, self.passive : self.passive + P].view(B, P, *S), *conditions), 1)
        asked = _fresh((B, self.width, *S))
        self._run(cpu.ask, x=data.data_ptr(), asked=asked.data_ptr())
        at = P
        for c in conditions:
            asked.narrow(1, at, c.shape[1]).copy_(c)
            at += c.shape[1]
        return asked

    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor) -> np.ndarray:
        """Adds to gx the gradient by x of g by what was asked; gives those by σ and o, (groups, 2, C)."""
        by = np.zeros((self.groups, 2, self.C))
        self._run(cpu.ask_back, x=data.data_ptr(), g=g.data_ptr(), gx=gx.data_ptr(), part=cpu.address(by))
        return by

    def _couple(self, turn: Turn, data: Tensor, a: Tensor, y: Tensor, logs: np.ndarray, means: np.ndarray) -> None:
        """Output y of this turn's samples, before `post` is applied."""
        self._run(
            cpu.couple_rows if self.N == 1 else cpu.couple, turn, self.inside, x=data.data_ptr(), a=a.data_ptr(),
            y=self._whole(y, turn), logs=cpu.address(logs), means=cpu.address(means),
        )  # fmt: skip

    def _whole(self, part: Tensor, turn: Turn) -> int:
        """Where the first of all samples would lie, where these are a turn's."""
        return part.data_ptr() - 4 * self.C * self.N * turn.start

    def _room(self) -> Tensor:
        """Memory for the samples of any turn."""
        return _fresh((max(turn.end - turn.start for turn in self.turns), self.C, self.N))

    def coupled(self, data: Tensor, a: Tensor, own: bool = False) -> tuple[Tensor, Tensor, np.ndarray]:
        """y (B, C, *S), logdet (B,), and the means that GIN took off. Where data is the pass's own, it may be y.

        New memory costs more than what is written to it. So a dense product takes its input from a room that turns
        share, and its output may lie where data did. Where no channel moves, a kernel, too, reads what it overwrites
        first, but for images under GIN, whose y holds l meanwhile.
        """
        logs, means = np.empty((self.B, self.lanes)), np.empty(self.B, np.float32)
        a = a.detach().contiguous()
        room = self._room() if any(type(operator) is Dense for operator in self.post) else None
        stays = self.from_there and self.to_there and not (self.gin and self.N > 1)
        y = data if own and (stays or room is not None or self.inside is not None) else torch.empty_like(data)
        for turn in self.turns:
            out = turn.of(y)
            v = out if room is None else room if turn.whole else room[: len(out)]
            self._couple(turn, data, a, v, logs, means)
            self.through(self.post, v, own=True, out=out)
        logdet = _fresh((self.B,))
        if self.gin:
            logdet.zero_()
        else:
            sign = -1.0 if self.reverse else 1.0
            cpu.close_logdet(logs, self.N * self.log_sigma, sign, logdet.data_ptr())
        return shaped(y, (self.B, self.C, *self.spec.S)), logdet, means

    def coupled_back(
        self, data: Tensor, a: Tensor, gy: Tensor, gj: Tensor, means: np.ndarray
    ) -> tuple[Tensor, Tensor, np.ndarray, Tensor | None]:
        """Gradients by data, by a, by σ and o (groups, 2, C), by the vectors."""
        logs, by = np.empty((self.B, self.lanes)), np.zeros((self.groups, 2, self.C))
        gx, ga = torch.empty_like(data), torch.empty_like(a)
        room = self._room() if self.post and self.state.vectors is not None else None
        factors, inside = None, None if self.inside is None else self.inside.mT
        for turn in self.turns:
            g = turn.of(gy)
            if self.post:
                v = turn.of(data)
                if room is not None:
                    v = room[: len(v)]
                    self._couple(turn, data, a, v, logs, np.empty_like(means))
                g, found = self.back(self.post, g, v)
                g = g.contiguous()
                if found is not None:
                    factors = found if factors is None else (factors[0] + found[0], factors[1] + found[1])
            self._run(
                cpu.couple_rows_back if self.N == 1 else cpu.couple_back, turn, inside, x=data.data_ptr(),
                a=a.data_ptr(), g=self._whole(g, turn), j_=gj.data_ptr(), gx=gx.data_ptr(), ga=ga.data_ptr(),
                logs=cpu.address(logs), means=cpu.address(means), part=cpu.address(by),
            )  # fmt: skip
        return gx, ga, by, self.by_factors(factors)

    def by_affine(self, by: np.ndarray, s: Tensor | None, o: Tensor, gj: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Gradients by s, None where it is, and o."""
        gs, go = _fresh(o.shape), _fresh(o.shape)
        held = (o if s is None else s).detach().contiguous()
        j_, B = (0, 0) if gj is None or self.gin else (gj.data_ptr(), self.B)
        pixels = float(-self.N if self.reverse else self.N)
        cpu.close_affine(
            self.kind, held.data_ptr(), by, j_, B, pixels, self.o_map, gs.data_ptr(), go.data_ptr(),
        )  # fmt: skip
        return None if s is None else gs, go


def _flushes() -> bool:
    """Whether this thread takes subnormal numbers for 0, as after torch.set_flush_denormal(True).

    No other thread does: which of the bits came from whom would depend on timing, so that this one works alone.
    """
    return LEAST / 2 == 0


def _fresh(shape: Sequence[int]) -> Tensor:
    """New memory, whatever the default dtype and device."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")
