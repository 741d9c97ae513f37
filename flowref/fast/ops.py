"""What the fast block is made of, as functions of tensors: nothing here holds state or changes a tensor.

Shapes: v is (B, C, *S), a matrix (C, C), an index (C,), reflection vectors (n, C). The caller hands floats over
in the dtype to compute in, which is float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

# log(1 + exp(z)) is z to within rounding from here on, in float64 too. torch's own threshold, 20, costs float64
# 1e-10 in the value and 2e-9 in the gradient; exp(40) is far from overflow even in float32.
SOFTPLUS_LINEAR_FROM = 40.0

# Known from torch 2.7 on: in older ones an export is traced as a compiled pass is, so ONNX can't be had of it.
_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


# ---- global scale


def global_scale(kind: str, s: Tensor) -> Tensor:
    """σ = Ψ(s): 10·sigmoid(s − 2), 0.2·log(1 + exp(s/2)) or exp(s). Any shape."""
    if kind == "SIGMOID":
        return 10 * torch.sigmoid(s - 2)
    if kind == "SOFTPLUS":
        return 0.2 * F.softplus(s / 2, threshold=SOFTPLUS_LINEAR_FROM)
    return torch.exp(s)


def scale_slope(kind: str, s: Tensor, sigma: Tensor) -> Tensor:
    """Ψ'(s), of the rounded σ where it is made of it."""
    if kind == "SIGMOID":
        return sigma * (1 - sigma / 10)
    return 0.1 * torch.sigmoid(s / 2) if kind == "SOFTPLUS" else sigma


def initial_scale(kind: str, g: float) -> float:
    """The s with Ψ(s) = g, in the form of each that neither cancels nor overflows."""
    if kind == "SIGMOID":
        return 2 + math.log(g) - math.log(10 - g)
    if kind == "SOFTPLUS":
        return 2 * (5 * g + math.log(-math.expm1(-5 * g)))
    return math.log(g)


# ---- channel mixing


def one_hot_index(W: Tensor) -> Tensor | None:
    """The index i with W v = v[:, i], or None where a gather can't stand for W.

    None as well where the values can't be looked at: under compile and vmap, on the meta device, while a CUDA graph
    is captured (there a look would be an illegal wait), and where W itself is differentiated. The product is right
    for every W. The look is taken anew each pass, so a W that was written to in between is seen.
    """
    if torch.compiler.is_compiling() or W.is_meta or W.requires_grad:
        return None
    if W.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    index = W.argmax(1)
    peaks = W.gather(1, index[:, None])
    try:
        hard = bool((peaks == 1).all() & (torch.count_nonzero(W) == len(W)))
    except RuntimeError:  # vmap: a stack of matrices has no single answer
        return None
    return index if hard else None


def multiply(W: Tensor, v: Tensor) -> Tensor:
    """W v over the channels of v, at every pixel. W: (C', C); gives (B, C', *S)."""
    if v.dim() == 2:
        return F.linear(v, W)
    B, C, *S = v.shape
    y = torch.bmm(W.expand(B, *W.shape), v.reshape(B, C, math.prod(S)))
    return shaped(y, (B, len(W), *S))


def shaped(y: Tensor, shape: Sequence[int]) -> Tensor:
    """y, which no one else holds, in that shape, and no view of it: the caller may change the result in place.

    A view that is made within an autograd node, or under no_grad, refuses that.
    """
    return torch.ops.aten._unsafe_view(y, shape)


def mix(W: Tensor, v: Tensor, *, may_gather: bool) -> Tensor:
    """W v, for a stored W: an index vector, or a matrix with any number of axes of 1 behind its two.

    A matrix that holds a permutation is applied as a gather if `may_gather`, which is exact and reads v once.
    """
    if W.dim() == 1:
        return v.index_select(1, W)
    matrix = W.reshape(len(W), len(W)).to(v.dtype)
    if not may_gather or W.requires_grad or _exporting():
        return multiply(matrix, v)
    if torch.compiler.is_compiling():
        return multiply(matrix, v) if _transformed() else _looked_at_when_run(matrix, v)
    index = one_hot_index(matrix)
    return v.index_select(1, index) if index is not None else multiply(matrix, v)


@torch.library.custom_op("flowref::mix", mutates_args=(), schema="(Tensor W, Tensor v) -> Tensor")
def _looked_at_when_run(W: Tensor, v: Tensor) -> Tensor:
    """W v for a W that is seldom no permutation, one operator of a compiled graph, so that each run looks at W."""
    index = one_hot_index(W)
    return v.index_select(1, index).contiguous() if index is not None else multiply(W, v).contiguous()


@_looked_at_when_run.register_fake
def _(W: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _back(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
    return None, _looked_at_when_run(ctx.saved_tensors[0].mT, g)


_looked_at_when_run.register_autograd(_back, setup_context=_keep)


def _transformed() -> bool:
    """Whether torch.func's transforms or dual numbers are at work, for which the operator has no rule."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


# Asked while a graph is traced: what torch.compiler.assume_constant_result marks, without importing the compiler here.
_transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Reflections(NamedTuple):
    """Q = H_1 H_2 … H_n = I − K U, in compact WY form; Qᵀ = I − Uᵀ Kᵀ. K: (C, n), U: (n, C)."""

    K: Tensor
    U: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Reflections:
        """From the rows v_k of (n, C), H_k = I − 2 v_k v_kᵀ / (v_kᵀ v_k).

        U holds the normalised rows, so that no later product can leave the range of the dtype, whatever the
        vectors' lengths. K = Uᵀ M⁻¹, M = triu(U Uᵀ, 1) + diag(U Uᵀ)/2, the triangular form of the compact WY
        factor (Joffrain et al., ACM TOMS 32(2), 2006): its inverse has entries of at most 4, however parallel the
        vectors, so solving with it is stable.
        """
        U = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if _exporting():  # ONNX has no triangular solve: column by column, H_1 … H_k u_(k+1)
            K = 2 * U[:1].mT
            for k in range(1, len(U)):
                u = U[k : k + 1].mT
                K = torch.cat((K, 2 * (u - K @ (U[:k] @ u))), 1)
            return cls(K, U)
        gram = U @ U.mT
        M = gram.triu(1) + torch.diag_embed(gram.diagonal() / 2)
        return cls(torch.linalg.solve_triangular(M, U.mT, upper=True, left=False), U)

    def apply(self, v: Tensor) -> Tensor:
        """Q v."""
        return v - multiply(self.K, multiply(self.U, v))

    def undo(self, v: Tensor) -> Tensor:
        """Qᵀ v."""
        return v - multiply(self.U.mT, multiply(self.K.mT, v))


# ---- permutations: drawing, and the two forms in which they are stored


def draw_rotation(C: int) -> Tensor:
    """A sample of SO(C) by Haar measure, float64, from torch's CPU generator.

    QR of a normal sample is Haar on O(C) once R's diagonal is made positive (Mezzadri, Notices AMS 54(5), 2007);
    negating a column of those with determinant −1 maps them to SO(C) and keeps the measure.
    """
    Q, R = torch.linalg.qr(torch.randn(C, C, dtype=torch.float64, device="cpu"))
    Q = torch.where(R.diagonal() < 0, -Q, Q)
    flip = torch.ones(C, dtype=torch.float64, device="cpu")
    flip[0] = torch.linalg.slogdet(Q).sign
    return Q * flip


def draw_index(C: int) -> Tensor:
    """A uniformly drawn permutation, int64, from torch's CPU generator."""
    return torch.randperm(C, dtype=torch.int64, device="cpu")


def matrix_of(index: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix W with W v = v[:, index]: W[i, j] = 1 where j = index[i]."""
    return (index[:, None] == torch.arange(len(index), device=index.device)).to(dtype)


def is_permutation(index: Tensor) -> bool:
    """Whether each of 0..C−1 occurs once."""
    return torch.equal(index.sort().values, torch.arange(len(index), device=index.device))


def distance_from_orthogonal(W: Tensor) -> float:
    """The largest magnitude of an element of WᵀW − I, in float64. NaN where W is not finite."""
    W = W.double()
    return float((W.mT @ W - torch.eye(len(W), dtype=W.dtype, device=W.device)).abs().max())
