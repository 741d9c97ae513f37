"""The block in numpy, forward and reverse: what a port looks like, in any precision. Letters as in docs/block.md."""

import numpy as np


def run(spec, state, answer, x, c, rev):
    """``(out, logdet)`` of one pass. state: arrays by name; answer(v): the subnet; x: (B, C, *S), its dtype decides."""
    documented, gin = spec["dialect"] == "documented", spec["gin_block"]
    (B, C), S, alpha = x.shape[:2], x.shape[2:], x.dtype.type(spec["affine_clamping"])
    N, A, P = int(np.prod(S)), C // 2, C - C // 2
    column = (1, C) + (1,) * len(S)
    s, o = state["global_scale"].reshape(column), state["global_offset"].reshape(column)
    sigma = np.ones_like(s) if gin else scale(spec["global_affine_type"], s)
    W = matrix(state, C, documented)

    def mix(M, v):
        return (M @ v.reshape(B, C, N)).reshape(x.shape)

    if not rev:
        z = mix(W.T, x) if spec["reverse_permutation"] else x
    else:
        z = (mix(W.T, x - o) if documented else mix(W.T, x) - o) / sigma
    p, q = (z[:, A:], z[:, :A]) if documented else (z[:, :P], z[:, P:])
    a = answer(np.concatenate([p, *c], 1)) / x.dtype.type(1 if documented else 10)
    k, t = a[:, :A], a[:, A:]
    l = alpha * np.tanh(k / alpha if spec["dialect"] == "freia-main" else k)  # noqa: E741
    axes = tuple(range(1, x.ndim))
    if gin and A:
        l = l - l.mean(axis=axes, keepdims=True)  # noqa: E741
    logdet = l.sum(axis=axes) * 0 if gin else l.sum(axis=axes) + N * np.log(sigma).sum()
    q = (q - t) * np.exp(-l) if rev else q * np.exp(l) + t
    u = np.concatenate([q, p] if documented else [p, q], 1)
    if rev:
        return mix(W, u) if spec["reverse_permutation"] else u, -logdet
    return (mix(W, sigma * u) + o if documented else mix(W, sigma * u + o)), logdet


def scale(kind, s):
    """Ψ(s)."""
    if kind == "SIGMOID":
        return 10 / (1 + np.exp(2 - s))
    return np.logaddexp(0, s / 2) / 5 if kind == "SOFTPLUS" else np.exp(s)


def matrix(state, C, documented):
    """W; with reflections W₀ H₁ … H_n, documented H₁ … H_n W₀."""
    if "w_perm" in state:
        return state["w_perm"].reshape(C, C)
    H = np.eye(C, dtype=state["w_0"].dtype)
    for v in state["vk_householder"]:
        H = H - 2 * np.outer(H @ v, v) / (v @ v)
    return H @ state["w_0"] if documented else state["w_0"] @ H
