"""A pass with the kernels of `flowref.fast.cpu`. Float32 on the CPU; the caller has looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowref.fast import cpu, nodes, pool
from flowref.fast.eager import State
from flowref.fast.nodes import STRAIGHT, Reflected
from flowref.spec import BlockSpec

GROUPS = 64  # at most so many groups of samples, each summed by itself
ALONE = 2**17  # below so many numbers in x, a second thread costs more than it saves


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


class Plan(nodes.Plan):
    """The kernels' calls of one pass."""

    def __init__(self, spec: BlockSpec, state: State, B: int, reverse: bool) -> None:
        C, N = spec.C, spec.N
        # Rows: index and inverse of W (of W₀ with reflections), the same of W⁻¹, and 0, 1, 2, …
        self.index = np.empty((5, C), np.int64)
        self.index[STRAIGHT] = np.arange(C)
        super().__init__(spec, state, B, reverse)
        src, dst = self.src, self.dst
        src_, dst_ = (self.index.ctypes.data + 8 * C * row for row in (src, dst))
        self.from_there, self.to_there = src == STRAIGHT, dst == STRAIGHT
        # o by channel of z: as documented it stands where the channels of x or y do.
        self.o_map = self.index[STRAIGHT if not self.outside else src if reverse else dst]
        self.affine = np.empty((3, C), np.float32)
        s, o = state.scale.contiguous(), state.offset.contiguous()
        self.log_sigma = cpu.global_affine(self.kind, s.data_ptr(), o.data_ptr(), C, self.o_map, self.affine)
        if self.offset_apart:
            self.affine[2] = 0

        # Threads take groups of samples, or, of images fewer than threads, every lanes-th channel.
        self.threads = torch.get_num_threads() if B * C * N >= ALONE else 1
        self.groups = min(B, GROUPS)
        self.lanes = 1 if N == 1 or self.threads <= self.groups else min(self.threads, C)
        self.job = np.zeros(1, cpu.JOB)
        for name, value in {
            "B": B, "C": C, "N": N, "A": spec.A, "P": spec.P, "first": self.first, "passive": self.passive,
            "width": self.width, "groups": self.groups, "src": src_, "dst": dst_, "table": self.affine.ctypes.data,
            "alpha": self.alpha, "c": self.c, "slope": self.slope, "unit": self.unit, "reverse": reverse,
            "gin": self.gin, "from_there": self.from_there, "to_there": self.to_there, "stage": 3,
        }.items():  # fmt: skip
            self.job[name] = value

    # ---- W

    def permutes(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]:
        return [not self.spec.permute_soft and self._is_permutation(W, row) for W, row in wanted]

    def _is_permutation(self, W: Tensor, row: int) -> bool:
        W = W.detach().contiguous()
        index, inverse = self.index[row], self.index[row + 1]
        return bool(cpu.permutation_of(W.data_ptr(), W.dim() == 1, self.C, index, inverse))

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

    def _run(self, kernel: Any, lanes: int, **given: int) -> None:
        """Calls a kernel on tensors and arrays, given by their addresses."""
        job = self.job.view(np.uint8).copy().view(cpu.JOB)  # numpy copies records field by field
        for name, value in given.items():
            job[name] = value
        job["lanes"], job["parts"] = lanes, self.groups if lanes == 1 else lanes
        # Where lanes share a sample whose mean they need, all are to be through the first stage before the second.
        for stage in (1, 2) if self.gin and lanes > 1 else (3,):
            job["stage"], job["next"] = stage, 0
            pool.run(kernel, job, self.threads)

    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The subnet's input, (B, P + ΣC_k, *S)."""
        B, P, S = self.B, self.P, self.spec.S
        if self.from_there and not self.reverse:
            # cat copies even a single tensor, so that a subnet that writes to its input reaches nobody else's.
            return torch.cat((data[:, self.passive : self.passive + P].view(B, P, *S), *conditions), 1)
        asked = _fresh((B, self.width, *S))
        self._run(cpu.ask, 1, x=data.data_ptr(), asked=asked.data_ptr())
        at = P
        for c in conditions:
            asked.narrow(1, at, c.shape[1]).copy_(c)
            at += c.shape[1]
        return asked

    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor) -> np.ndarray:
        """Adds to gx the gradient by x of g by what was asked; gives those by σ and o, (groups, 2, C)."""
        by = np.zeros((self.groups, 2, self.C))
        self._run(cpu.ask_back, 1, x=data.data_ptr(), g=g.data_ptr(), gx=gx.data_ptr(), part=by.ctypes.data)
        return by

    def _kernel(
        self, data: Tensor, a: Tensor, logs: np.ndarray, means: np.ndarray, own: bool = False
    ) -> tuple[Tensor, Tensor]:
        """y, before `post` is applied, and a as the kernels read it; where data is the pass's own, maybe in its memory.

        New memory costs more than what is written to it. Where no channel moves, a kernel reads what it overwrites
        first, but for images under GIN, whose y holds l meanwhile.
        """
        stays = self.from_there and self.to_there and not (self.gin and self.N > 1)
        a, y = a.detach().contiguous(), data if own and stays else torch.empty_like(data)
        self._run(
            cpu.couple_rows if self.N == 1 else cpu.couple, self.lanes, x=data.data_ptr(), a=a.data_ptr(),
            y=y.data_ptr(), logs=logs.ctypes.data, means=means.ctypes.data,
        )  # fmt: skip
        return y, a

    def coupled(self, data: Tensor, a: Tensor, own: bool = False) -> tuple[Tensor, Tensor, np.ndarray]:
        """y (B, C, *S), logdet (B,), and the means that GIN took off. Where data is the pass's own, it may be y."""
        logs, means = np.empty((self.B, self.lanes)), np.empty(self.B if self.gin else 0, np.float32)
        y, _ = self._kernel(data, a, logs, means, own)
        y = self.through(self.post, y, own=True)
        if self.gin:
            logdet = _fresh((self.B,)).zero_()
        else:
            logdet = _fresh((self.B,))
            sign = -1.0 if self.reverse else 1.0
            cpu.close_logdet(logs, self.N * self.log_sigma, sign, logdet.data_ptr())
        return y.view(self.B, self.C, *self.spec.S), logdet, means

    def coupled_back(
        self, data: Tensor, a: Tensor, gy: Tensor, gj: Tensor, means: np.ndarray
    ) -> tuple[Tensor, Tensor, np.ndarray, Tensor | None]:
        """Gradients by data, by a, by σ and o (groups, 2, C), by the vectors."""
        logs = np.empty((self.B, self.lanes))
        g, by_vectors = gy, None
        if self.post:
            u = data
            if self.state.vectors is not None:
                u, _ = self._kernel(data, a, logs, np.empty_like(means))
            g, by_vectors = self.back(self.post, g, u)
            g = g.contiguous()
        gx, ga = torch.empty_like(data), torch.empty_like(a)
        by = np.zeros((self.groups, 2, self.C))
        self._run(
            cpu.couple_rows_back if self.N == 1 else cpu.couple_back, self.lanes, x=data.data_ptr(), a=a.data_ptr(),
            g=g.data_ptr(), j_=gj.data_ptr(), gx=gx.data_ptr(), ga=ga.data_ptr(), logs=logs.ctypes.data,
            means=means.ctypes.data, part=by.ctypes.data,
        )  # fmt: skip
        return gx, ga, by, by_vectors

    def by_affine(self, by: np.ndarray, s: Tensor | None, o: Tensor, gj: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Gradients by s, None where it is, and o."""
        gs, go = _fresh(o.shape), _fresh(o.shape)
        through = 0.0 if gj is None or self.gin else self.N * float(gj.sum(dtype=torch.float64))
        held = (o if s is None else s).detach().contiguous()
        cpu.close_affine(
            self.kind, held.data_ptr(), by, -through if self.reverse else through, self.o_map, gs.data_ptr(),
            go.data_ptr(),
        )  # fmt: skip
        return None if s is None else gs, go


def _fresh(shape: Sequence[int]) -> Tensor:
    """New memory, whatever the default dtype and device."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")
