"""Faults that show in a pass, its log-det, its gradients or a new block; most were seen in public code before."""

from __future__ import annotations

from flowref.faults.fault import PUBLIC, UNDIVIDED, Fault, fault

# Texts of plain.py that several faults edit. Where a line stands in both passes, its neighbour tells which is meant.
VOLUME_FORWARD = "logdet = self.volume(l, sigma)"
VOLUME_REVERSE = "logdet = -self.volume(l, sigma)"
COUPLING_SUM = "coupling = l.sum(dim=tuple(range(1, l.ndim)))"
AFFINE_SUM = "affine = self.spec.N * torch.log(sigma).sum()"
TOTAL = "return coupling + affine"
TANH = "T = torch.tanh(k)"
K = "k = factor * a[:, : self.spec.A]"
T = "t = factor * a[:, self.spec.A :]"
FED = "torch.cat([p, *c], dim=1)), p)"
SHIFT_FIRST = "return (q - t) * torch.exp(-l)"
OFFSET_FORWARD = '"""W (σ u + o), as documented W (σ u) + o."""\n        o = self.global_offset\n'
OFFSET_REVERSE = '"""(V y − o) / σ, as documented V (y − o) / σ."""\n        o = self.global_offset\n'
SCALED = "return self.mix(W, sigma * u + o)"
SCALED_DOCUMENTED = "return self.mix(W, sigma * u) + o"
UNSCALED = "return (self.mix(V, y) - o) / sigma"
UNSCALED_DOCUMENTED = "return self.mix(V, y - o) / sigma"
MEAN = "axes = tuple(range(1, l.ndim))\n        return l - l.mean(dim=axes, keepdim=True)"
COEFFICIENTS_FORWARD = "p, q = self.split(z)\n        k, t = self.coefficients(p, c)"
COEFFICIENTS_REVERSE = "p, q = self.split(u)\n        k, t = self.coefficients(p, c)"
CENTRE_REVERSE = (
    "l = self.centre(l) if self.spec.gin_block else l  # noqa: E741\n        z = self.join(p, self.uncouple(q, l, t))"
)
FROM_LEFT = "for v in self.vk_householder.flip(0):\n                W = W - (2 / (v @ v)) * torch.outer(v, v @ W)"
FROM_RIGHT = "for v in self.vk_householder:\n                W = W - (2 / (v @ v)) * torch.outer(W @ v, v)"
ANSWER = "return (y,), logdet"
CHECKED = "tensor, conditions = self.checked(x, c)"
PERMUTED = 'pi = torch.randperm(C, device="cpu")'
HEAD = "class PlainBlock(nn.Module):"
MIXED = "return (M @ columns).reshape(x.shape)"

FAULTS: tuple[Fault, ...] = (
    # reference
    fault(
        "inference-overwrites-the-active-half",
        "reference.inference-equals-reference",
        "where no gradient is wanted, l of GIN is kept in the memory of q, which is read once more",
        (SHIFT_FIRST, "q = l if self.spec.gin_block and not torch.is_grad_enabled() else q\n        " + SHIFT_FIRST),
    ),
    # inverse
    fault(
        "reverse-keeps-offset",
        "inverse.reverse-undoes-forward",
        "the offset is not taken off again; blind: offset 0",
        (UNSCALED, "return self.mix(V, y) / sigma"),
        (UNSCALED_DOCUMENTED, "return self.mix(V, y) / sigma"),
    ),
    fault(
        "reverse-adds-shift",
        "inverse.reverse-undoes-forward",
        "sign of t in reverse; blind: zero subnet",
        (SHIFT_FIRST, "return (q + t) * torch.exp(-l)"),
    ),
    fault(
        "reverse-subtracts-shift-last",
        "inverse.forward-undoes-reverse",
        "order of shift and scaling; blind: l = 0 or t = 0",
        (SHIFT_FIRST, "return q * torch.exp(-l) - t"),
    ),
    fault(
        "reverse-scales-up-again",
        "inverse.forward-undoes-reverse",
        "sign of l in reverse; blind: l = 0",
        (SHIFT_FIRST, "return (q - t) * torch.exp(l)"),
    ),
    fault(
        "reverse-multiplies-by-scale",
        "inverse.forward-undoes-reverse",
        "σ for 1/σ in reverse; blind: σ = 1, GIN",
        (UNSCALED, "return (self.mix(V, y) - o) * sigma"),
        (UNSCALED_DOCUMENTED, "return self.mix(V, y - o) * sigma"),
    ),
    fault(
        "reverse-mixes-forward",
        "inverse.reverse-undoes-forward",
        "W where its inverse is due, at a stored matrix; blind: self-inverse permutations, reflections",
        (
            "return self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)",
            "return self.w_perm.reshape(C, C), self.w_perm.reshape(C, C)",
        ),
    ),
    fault(
        "reverse-ignores-conditions",
        "inverse.reverse-undoes-forward",
        "the subnet is given zeros for the conditions in reverse; blind: no condition",
        (
            COEFFICIENTS_REVERSE,
            "p, q = self.split(u)\n        k, t = self.coefficients(p, [torch.zeros_like(v) for v in c])",
        ),
    ),
    fault(
        "reverse-interleaves-coefficients",
        "inverse.reverse-undoes-forward",
        "even and odd channels in reverse, halves in forward; blind: A = 1",
        (
            COEFFICIENTS_REVERSE,
            "p, q = self.split(u)\n        k, t = self.coefficients(p, c)\n"
            "        a = torch.cat([k, t], dim=1)\n        k, t = a[:, 0::2], a[:, 1::2]",
        ),
    ),
    fault(
        "forward-drops-offset-after-reverse",
        "inverse.forward-undoes-reverse",
        "a block that has run in reverse forgets its offset; blind: forward on a block of its own, offset 0",
        (CHECKED, CHECKED + '\n        self.reversed = getattr(self, "reversed", False) or bool(rev)'),
        (OFFSET_FORWARD, OFFSET_FORWARD.replace("self.global", "(not self.reversed) * self.global")),
    ),
    fault(
        "second-pass-clamps-wider",
        "inverse.reverse-undoes-forward",
        "α is 1% larger from the second call of a block on; blind: one pass a block, l = 0",
        (CHECKED, CHECKED + '\n        self.passes = getattr(self, "passes", 0) + 1'),
        ("alpha = self.spec.affine_clamping", "alpha = self.spec.affine_clamping * (1.0 if self.passes < 2 else 1.01)"),
    ),
    fault(
        "reverse-logdet-keeps-sign",
        "inverse.log-dets-cancel",
        "the log-det of reverse has the sign of forward",
        (VOLUME_REVERSE, VOLUME_FORWARD),
    ),
    fault(
        "reverse-logdet-without-minus-of-scale",
        "inverse.log-dets-cancel",
        "only the coupling's part changes its sign; blind: σ = 1, GIN",
        (VOLUME_REVERSE, "logdet = -self.volume(l, 1 / sigma)"),
    ),
    fault(
        "reverse-logdet-without-minus-of-coupling",
        "inverse.log-dets-cancel",
        "only the scale's part changes its sign; blind: Σl = 0",
        (VOLUME_REVERSE, "logdet = -self.volume(-l, sigma)"),
    ),
    fault(
        "scale-is-one-plus-epsilon",
        "inverse.exact-where-the-arithmetic-is-exact",
        "within the bounds of other laws, but exp(0) is not 1",
        ("return q * torch.exp(l) + t", "return q * (torch.exp(l) * (1 + torch.finfo(l.dtype).eps)) + t"),
    ),
    # logdet
    fault(
        "logdets-both-negated",
        "logdet.equals-jacobian",
        "in both directions, so the two still cancel",
        (TOTAL, "return -(coupling + affine)"),
    ),
    fault(
        "logdet-forgets-coupling",
        "logdet.equals-jacobian",
        "only N Σ log σ; blind: Σl = 0",
        (TOTAL, "return 0 * coupling + affine"),
    ),
    fault(
        "logdet-forgets-scale",
        "logdet.equals-jacobian",
        "only Σ l; blind: σ = 1, GIN",
        (TOTAL, "return coupling"),
    ),
    fault(
        "logdet-averages-pixels",
        "logdet.equals-jacobian",
        "mean over pixels for the sum; blind: N = 1",
        (COUPLING_SUM, COUPLING_SUM + " / self.spec.N"),
    ),
    fault(
        "logdet-of-active-scales-only",
        "logdet.equals-jacobian",
        "Σ log σ leaves out the passive channels",
        (AFFINE_SUM, "affine = self.spec.N * torch.log(self.split(sigma)[1]).sum()"),
    ),
    fault(
        "logdet-of-unclamped-coefficients",
        "logdet.equals-jacobian",
        "Σ k for Σ l in forward; shows at curved coefficients or α ≠ 1",
        (VOLUME_FORWARD, "logdet = self.volume(k, sigma)"),
    ),
    fault(
        "logdet-of-absolute-log-scales",
        "logdet.equals-jacobian",
        "Σ |l|: it can't be negative; blind: l ≥ 0",
        (COUPLING_SUM, "coupling = l.abs().sum(dim=tuple(range(1, l.ndim)))"),
    ),
    fault(
        "logdet-logs-the-sum-of-scales",
        "logdet.equals-jacobian",
        "the sum is taken before the logarithm",
        (AFFINE_SUM, "affine = self.spec.N * torch.log(sigma.sum())"),
    ),
    fault(
        "logdet-log-of-scale-plus-1e-12",
        "logdet.equals-reference",
        "the reported volume is not the map's; float64, or small σ",
        (AFFINE_SUM, "affine = self.spec.N * torch.log(sigma + 1e-12).sum()"),
    ),
    fault(
        "logdet-log-of-clamped-scale",
        "logdet.equals-reference",
        "σ below 1/2 counts as 1/2",
        (AFFINE_SUM, "affine = self.spec.N * torch.log(sigma.clamp(min=0.5)).sum()"),
    ),
    fault(
        "logdet-adds-that-of-stored-w",
        "logdet.equals-reference",
        "N log|det W| of a matrix that is orthogonal up to rounding; soft, float64",
        (
            "logdet = self.volume(l, sigma)\n        return y, logdet",
            "logdet = self.volume(l, sigma) + self.spec.N * torch.linalg.slogdet(W).logabsdet\n"
            "        return y, logdet",
        ),
    ),
    fault(
        "logdet-in-bfloat16",
        "logdet.equals-reference",
        "the sum is rounded to 8 bits",
        (COUPLING_SUM, "coupling = l.to(torch.bfloat16).sum(dim=tuple(range(1, l.ndim))).to(l.dtype)"),
    ),
    fault(
        "logdet-forgets-channels-past-16",
        "logdet.equals-reference",
        "a tile of 16 active channels; shows at C > 32",
        (COUPLING_SUM, "coupling = l[:, :16].sum(dim=tuple(range(1, l.ndim)))"),
    ),
    fault(
        "logdet-forgets-pixels-past-256",
        "logdet.equals-reference",
        "a tile of 256 pixels",
        (COUPLING_SUM, "coupling = l.reshape(*l.shape[:2], self.spec.N)[..., :256].sum(dim=(1, 2))"),
    ),
    fault(
        "logdet-forgets-samples-past-64",
        "logdet.equals-reference",
        "the coupling's part is 0 from sample 65 on",
        (TOTAL, "return coupling * (torch.arange(len(l), device=l.device) < 64) + affine"),
    ),
    fault(
        "logdet-over-channels-only",
        "logdet.one-value-a-sample",
        "shape (B, *S); blind: rank 0",
        (COUPLING_SUM, "coupling = l.sum(dim=1)"),
    ),
    fault(
        "logdet-keeps-an-axis",
        "logdet.one-value-a-sample",
        "shape (B, 1)",
        (TOTAL, "return (coupling + affine).reshape(len(l), 1)"),
    ),
    fault(
        "logdet-squeezed-at-batch-1",
        "logdet.one-value-a-sample",
        "0-dimensional; blind: B ≠ 1",
        (TOTAL, "return (coupling + affine).squeeze()"),
    ),
    fault(
        "logdet-is-one-number-under-gin",
        "logdet.one-value-a-sample",
        "GIN answers one 0 for the whole batch",
        (TOTAL, "return coupling.new_zeros(()) if self.spec.gin_block else coupling + affine"),
    ),
    fault(
        "logdet-sums-over-the-batch",
        "logdet.independent-of-the-batch",
        "Σ l over samples too; blind: B = 1, GIN",
        (COUPLING_SUM, "coupling = l.sum().expand(len(l))"),
    ),
    fault(
        "logdet-counts-batch-times-pixels",
        "logdet.independent-of-the-batch",
        "B N Σ log σ; blind: B = 1, σ = 1, GIN",
        (AFFINE_SUM, "affine = len(l) * self.spec.N * torch.log(sigma).sum()"),
    ),
    fault(
        "jac-false-skips-global-affine",
        "logdet.jac-false-changes-no-output",
        "σ = 1 without jac; blind: σ = 1, GIN",
        (
            "y, logdet = self.pass_reverse(",
            "self.jac = jac\n        y, logdet = self.pass_reverse(",
        ),
        (
            "if self.spec.gin_block:\n            return torch.ones_like(s)",
            "if self.spec.gin_block or not self.jac:\n            return torch.ones_like(s)",
        ),
    ),
    fault(
        "logdet-sums-one-by-one",
        "logdet.long-sums-stay-accurate",
        "a naive running sum; float32, about a thousand terms or more of like size",
        (
            COUPLING_SUM,
            "coupling = l.new_zeros(len(l))\n"
            "        for term in l.flatten(1).unbind(1):\n"
            "            coupling = coupling + term",
        ),
    ),
    # reference
    fault(
        "matrices-exchanged",
        "reference.output-equals-reference",
        "W⁻¹ in forward, W in reverse, at a stored matrix; consistent, so only the reference tells",
        (
            "return self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)",
            "return self.w_perm_inv.reshape(C, C), self.w_perm.reshape(C, C)",
        ),
    ),
    fault(
        "offset-subtracted",
        "reference.output-equals-reference",
        "− o in forward, + o in reverse: consistent",
        (SCALED, "return self.mix(W, sigma * u - o)"),
        (SCALED_DOCUMENTED, "return self.mix(W, sigma * u) - o"),
        (UNSCALED, "return (self.mix(V, y) + o) / sigma"),
        (UNSCALED_DOCUMENTED, "return self.mix(V, y + o) / sigma"),
    ),
    fault(
        "offset-forgotten-past-16-channels",
        "reference.output-equals-reference",
        "consistent in both directions; C > 16",
        (OFFSET_FORWARD, OFFSET_FORWARD + "        o = torch.cat([o[:, :16], 0 * o[:, 16:]], dim=1)\n"),
        (OFFSET_REVERSE, OFFSET_REVERSE + "        o = torch.cat([o[:, :16], 0 * o[:, 16:]], dim=1)\n"),
    ),
    fault(
        "column-129-of-w-forgotten",
        "reference.output-equals-reference",
        "a tile of 128 columns; C > 128",
        (MIXED, "return (M[:, :128] @ columns[:, :128]).reshape(x.shape)"),
    ),
    fault(
        "shift-forgotten-past-32-samples",
        "reference.output-equals-reference",
        "consistent in both directions; B > 32",
        (T, T + "\n        t = torch.cat([t[:32], 0 * t[32:]], dim=0)"),
    ),
    fault(
        "shift-forgotten-past-256-pixels",
        "reference.output-equals-reference",
        "consistent in both directions; N > 256",
        (
            T,
            T
            + "\n        kept = (torch.arange(self.spec.N, device=t.device) < 256).reshape(self.spec.S)"
            + "\n        t = t * kept",
        ),
    ),
    fault(
        "odd-active-part-forgets-its-last-channel",
        "reference.output-equals-reference",
        "channels are coupled in pairs; A odd",
        (K, K + "\n        k = torch.cat([k[:, : self.spec.A // 2 * 2], 0 * k[:, self.spec.A // 2 * 2 :]], dim=1)"),
    ),
    fault(
        "mixing-in-bfloat16",
        "reference.output-equals-reference",
        "half precision inside",
        (MIXED, "return (M.bfloat16() @ columns.bfloat16()).to(x.dtype).reshape(x.shape)"),
    ),
    fault(
        "mixing-in-float32",
        "reference.output-equals-reference",
        "float64 is not float64; blind: float32, hard permutations of short numbers",
        (MIXED, "return (M.float() @ columns.float()).to(x.dtype).reshape(x.shape)"),
    ),
    fault(
        "clamp-in-float16",
        "reference.output-equals-reference",
        "half precision inside",
        (TANH, "T = torch.tanh(k.half()).to(k.dtype)"),
    ),
    fault(
        "exp-through-a-short-constant",
        "reference.output-equals-reference",
        "2^(1.4427 l) in both directions: inverse holds",
        ("return q * torch.exp(l) + t", "return q * torch.exp2(1.4427 * l) + t"),
        (SHIFT_FIRST, "return (q - t) * torch.exp2(-1.4427 * l)"),
    ),
    fault(
        "scale-and-offset-share-their-storage",
        "reference.output-equals-reference",
        "loading one overwrites the other",
        (
            "self.global_offset = nn.Parameter(torch.zeros(1, C, *ones))",
            "self.global_offset = nn.Parameter(self.global_scale.data)",
        ),
    ),
    fault(
        "coefficients-not-scaled-by-0.1",
        "reference.output-equals-reference",
        "k = a, t = a, as documented",
        ("factor = 1.0 if self.spec.dialect is Dialect.DOCUMENTED else 0.1", "factor = 1.0"),
        dialects=PUBLIC,
    ),
    fault(
        "square-images-transposed",
        "reference.output-equals-reference",
        "rank 2 with equal axes only",
        (
            MIXED,
            "mixed = (M @ columns).reshape(x.shape)\n"
            "        return mixed.transpose(2, 3) if x.ndim == 4 and x.shape[2] == x.shape[3] else mixed",
        ),
    ),
    fault(
        "soft-matrix-transposed-before-reflections",
        "reference.output-equals-reference",
        "only with permute_soft and reflections together",
        ("W = self.w_0\n", "W = self.w_0.T if self.spec.permute_soft else self.w_0\n"),
    ),
    fault(
        "clamp-hard",
        "reference.output-equals-reference",
        "α max(−1, min(1, k)): bounded and odd, slope right",
        (TANH, "T = k.clamp(-1, 1)"),
    ),
    fault(
        "clamp-softsign",
        "reference.output-equals-reference",
        "α k / (1 + |k|): bounded and odd, slope right",
        (TANH, "T = k / (1 + k.abs())"),
    ),
    # gin
    fault(
        "gin-logdet-before-centring",
        "gin.logdet-is-0",
        "forward reports Σ l of the log-scales as they were",
        (VOLUME_FORWARD, "logdet = self.volume(self.clamp(k), sigma)"),
    ),
    fault(
        "gin-centres-in-forward-only",
        "gin.logdet-is-0",
        "reverse scales with the log-scales as they were",
        (CENTRE_REVERSE, "z = self.join(p, self.uncouple(q, l, t))"),
    ),
    fault(
        "gin-does-not-centre",
        "gin.preserves-volume",
        "consistent in both directions",
        (MEAN, "return l"),
    ),
    fault(
        "gin-mean-over-channels-only",
        "gin.mean-is-per-sample",
        "the log-det is still 0; blind: N = 1",
        (MEAN, "return l - l.mean(dim=1, keepdim=True)"),
    ),
    fault(
        "gin-mean-per-channel",
        "gin.mean-is-per-sample",
        "the log-det is still 0; blind: A = 1, rank 0",
        (MEAN, "axes = tuple(range(2, l.ndim)) or (1,)\n        return l - l.mean(dim=axes, keepdim=True)"),
    ),
    fault(
        "gin-mean-over-the-batch",
        "gin.mean-is-per-sample",
        "samples share one mean; blind: B = 1",
        (MEAN, "return l - l.mean()"),
    ),
    fault(
        "gin-mean-of-padded-tiles",
        "gin.mean-is-per-sample",
        "the sum is divided by a multiple of 4; blind: A N a multiple of 4",
        (
            MEAN,
            "axes = tuple(range(1, l.ndim))\n"
            "        return l - l.sum(dim=axes, keepdim=True) / max(4, -(-self.spec.A * self.spec.N // 4) * 4)",
        ),
    ),
    fault(
        "gin-keeps-global-scale",
        "gin.ignores-global-scale",
        "σ = Ψ(s) under GIN; blind: σ = 1",
        (
            "if self.spec.gin_block:\n            return torch.ones_like(s)",
            "if False:\n            return torch.ones_like(s)",
        ),
    ),
    # affine
    fault(
        "initial-scale-is-log-g",
        "affine.initial-scale-is-g",
        "Ψ(log g) is 1.19 at g = 1",
        ("return 2 + math.log(g) - math.log(10 - g)", "return math.log(g)"),
    ),
    fault(
        "initial-softplus-scale-is-10-g",
        "affine.initial-scale-is-g",
        "nearly right at g = 1, wrong below",
        ("return 2 * (5 * g + math.log(-math.expm1(-5 * g)))", "return 10 * g"),
    ),
    fault(
        "initial-softplus-scale-in-float32",
        "affine.initial-scale-is-g",
        "log(exp(5g) − 1): infinite from g = 18 on, inaccurate at small g",
        (
            "return 2 * (5 * g + math.log(-math.expm1(-5 * g)))",
            "return 2 * float(torch.log(torch.exp(torch.tensor(5 * g, dtype=torch.float32)) - 1))",
        ),
    ),
    fault(
        "initial-scale-ignores-g",
        "affine.initial-scale-is-g",
        "g has no effect; blind: g = 1",
        ("g = self.spec.global_affine_init", "g = 1.0"),
    ),
    fault(
        "sigmoid-scale-off-by-shift",
        "affine.scale-follows-its-activation",
        "Ψ(s) = 10 sigmoid(s), and the initial value to match",
        ("return 10 * torch.sigmoid(s - 2)", "return 10 * torch.sigmoid(s)"),
        ("return 2 + math.log(g) - math.log(10 - g)", "return math.log(g) - math.log(10 - g)"),
    ),
    fault(
        "softplus-of-slope-1",
        "affine.scale-follows-its-activation",
        "Ψ(s) = 0.1 log(1 + exp(s)), and the initial value to match",
        ("return 0.2 * functional.softplus(s / 2)", "return 0.1 * functional.softplus(s)"),
        ("return 2 * (5 * g + math.log(-math.expm1(-5 * g)))", "return 10 * g + math.log(-math.expm1(-10 * g))"),
    ),
    fault(
        "exp-scale-capped",
        "affine.scale-follows-its-activation",
        "EXP stops growing at s = 1",
        ("return torch.exp(s)\n", "return torch.exp(s.clamp(max=1))\n"),
    ),
    fault(
        "scale-fixed-by-the-constructor",
        "affine.scale-follows-its-activation",
        "σ from the initial s for ever",
        (
            "self.global_offset = nn.Parameter(torch.zeros(1, C, *ones))",
            "self.global_offset = nn.Parameter(torch.zeros(1, C, *ones))\n"
            '        self.register_buffer("first_scale", self.global_scale.detach().clone(), persistent=False)',
        ),
        ("s = self.global_scale\n", "s = self.first_scale\n"),
    ),
    fault(
        "scale-of-the-first-channel-everywhere",
        "affine.scale-enters-once",
        "consistent in both directions; blind: all channels alike",
        ("s = self.global_scale\n", "s = self.global_scale[:, :1].expand_as(self.global_scale)\n"),
    ),
    fault(
        "scale-applied-after-mixing",
        "affine.scale-enters-once",
        "σ (W u) for W (σ u), o in its place; consistent; blind: all scales alike",
        (SCALED, "return sigma * self.mix(W, u) + self.mix(W, o.expand_as(u))"),
        (SCALED_DOCUMENTED, "return sigma * self.mix(W, u) + o"),
        (UNSCALED, "return self.mix(V, (y - self.mix(V.T, o.expand_as(y))) / sigma)"),
        (UNSCALED_DOCUMENTED, "return self.mix(V, (y - o) / sigma)"),
    ),
    fault(
        "scale-enters-twice",
        "affine.scale-enters-once",
        "σ² in forward and reverse, log σ once",
        (SCALED, "return self.mix(W, sigma * (sigma * u) + o)"),
        (SCALED_DOCUMENTED, "return self.mix(W, sigma * (sigma * u)) + o"),
        (UNSCALED, "return (self.mix(V, y) - o) / sigma / sigma"),
        (UNSCALED_DOCUMENTED, "return self.mix(V, y - o) / sigma / sigma"),
    ),
    fault(
        "scale-skips-the-passive-part",
        "affine.scale-enters-once",
        "σ = 1 there, log-det to match; SOFTPLUS",
        (
            "return 0.2 * functional.softplus(s / 2)",
            "return self.join(torch.ones_like(self.split(s)[0]), self.split(0.2 * functional.softplus(s / 2))[1])",
        ),
    ),
    fault(
        "offset-before-scale",
        "affine.offset-enters-once",
        "σ (u + o), consistent; blind: σ = 1",
        (SCALED, "return self.mix(W, sigma * (u + o))"),
        (UNSCALED, "return self.mix(V, y) / sigma - o"),
        dialects=PUBLIC,
    ),
    fault(
        "offset-after-mixing",
        "affine.offset-enters-once",
        "W (σ u) + o, consistent: the documented place",
        (SCALED, "return self.mix(W, sigma * u) + o"),
        (UNSCALED, "return self.mix(V, y - o) / sigma"),
        dialects=PUBLIC,
    ),
    fault(
        "offset-before-mixing",
        "affine.offset-enters-once",
        "W (σ u + o), consistent: the public code's place",
        (SCALED_DOCUMENTED, "return self.mix(W, sigma * u + o)"),
        (UNSCALED_DOCUMENTED, "return (self.mix(V, y) - o) / sigma"),
        dialects=("documented",),
    ),
    fault(
        "offset-enters-twice",
        "affine.offset-enters-once",
        "o counts double, in both directions",
        (OFFSET_FORWARD, OFFSET_FORWARD.replace("self.global", "2 * self.global")),
        (OFFSET_REVERSE, OFFSET_REVERSE.replace("self.global", "2 * self.global")),
    ),
    fault(
        "offset-ignored",
        "affine.offset-enters-once",
        "in both directions",
        (OFFSET_FORWARD, OFFSET_FORWARD.replace("self.global", "0 * self.global")),
        (OFFSET_REVERSE, OFFSET_REVERSE.replace("self.global", "0 * self.global")),
    ),
    fault(
        "offset-ignored-under-gin",
        "affine.offset-enters-once",
        "in both directions",
        (OFFSET_FORWARD, OFFSET_FORWARD.replace("self.global", "(not self.spec.gin_block) * self.global")),
        (OFFSET_REVERSE, OFFSET_REVERSE.replace("self.global", "(not self.spec.gin_block) * self.global")),
    ),
    fault(
        "offset-ignored-with-reverse-permutation-and-exp",
        "reference.output-equals-reference",
        "one pair of flags, in both directions",
        (
            OFFSET_FORWARD,
            OFFSET_FORWARD
            + '        o = 0 * o if self.spec.reverse_permutation and self.spec.global_affine_type == "EXP" else o\n',
        ),
        (
            OFFSET_REVERSE,
            OFFSET_REVERSE
            + '        o = 0 * o if self.spec.reverse_permutation and self.spec.global_affine_type == "EXP" else o\n',
        ),
    ),
    fault(
        "logdet-forgets-pixels",
        "affine.logdet-counts-every-pixel",
        "Σ log σ for N Σ log σ; blind: N = 1, σ = 1",
        (AFFINE_SUM, "affine = torch.log(sigma).sum()"),
    ),
    fault(
        "logdet-counts-the-last-axis",
        "affine.logdet-counts-every-pixel",
        "pixels of one axis; blind: ranks 0 and 1",
        (AFFINE_SUM, "affine = (self.spec.S or (1,))[-1] * torch.log(sigma).sum()"),
    ),
    fault(
        "logdet-counts-two-axes",
        "affine.logdet-counts-every-pixel",
        "rank 3 only",
        (AFFINE_SUM, "affine = math.prod(self.spec.S[:2]) * torch.log(sigma).sum()"),
    ),
    # clamp
    fault(
        "clamp-missing",
        "clamp.bounded-by-alpha",
        "l = α k, or k",
        (TANH, "T = k"),
    ),
    fault(
        "clamp-reaches-past-alpha",
        "clamp.bounded-by-alpha",
        "α atan(k) reaches π/2 α",
        (TANH, "T = torch.atan(k)"),
    ),
    fault(
        "clamp-divides-by-alpha",
        "clamp.accurate-near-0",
        "α tanh(k / α): another dialect's slope; blind: α = 1",
        (TANH, "T = torch.tanh(k / alpha)"),
        dialects=UNDIVIDED,
    ),
    fault(
        "clamp-does-not-divide-by-alpha",
        "clamp.accurate-near-0",
        "α tanh(k): another dialect's slope; blind: α = 1",
        ("k = k / alpha if self.spec.dialect is Dialect.FREIA_MAIN else k", "k = 1 * k"),
        dialects=("freia-main",),
    ),
    fault(
        "tanh-loses-digits-near-0",
        "clamp.accurate-near-0",
        "2 sigmoid(2k) − 1 loses its relative accuracy near 0",
        (TANH, "T = 2 * torch.sigmoid(2 * k) - 1"),
    ),
    fault(
        "clamp-flushes-small-coefficients",
        "clamp.accurate-near-0",
        "0 where |k| < 10⁻⁵",
        (TANH, "T = torch.tanh(k) * (k.abs() >= 1e-5)"),
    ),
    fault(
        "clamp-one-sided",
        "clamp.odd",
        "it can stretch but not shrink",
        (TANH, "T = torch.tanh(functional.softplus(k))"),
    ),
    fault(
        "clamp-leaky-below-0",
        "clamp.odd",
        "negative coefficients count 1/8 less",
        (TANH, "T = torch.tanh(torch.where(k < 0, 0.875 * k, k))"),
    ),
    fault(
        "clamp-through-exp-overflows",
        "clamp.saturates-without-overflow",
        "(e^2k − 1) / (e^2k + 1) is Inf / Inf at large k",
        (TANH, "T = (torch.exp(2 * k) - 1) / (torch.exp(2 * k) + 1)"),
    ),
    fault(
        "clamp-logs-what-saturates",
        "clamp.saturates-without-overflow",
        "0 · log(1 − T²) is NaN from |k| = 20 on",
        (TANH, "T = torch.tanh(k) + 0 * torch.log(1 - torch.tanh(k).square())"),
    ),
    fault(
        "alpha-0-divides",
        "clamp.alpha-0-switches-scaling-off",
        "0/0 is NaN",
        (TANH, "T = torch.tanh(k) * (torch.full_like(k, alpha) / alpha)"),
        dialects=UNDIVIDED,
    ),
    fault(
        "alpha-0-taken-for-unset",
        "clamp.alpha-0-switches-scaling-off",
        "`alpha or 1`",
        ("alpha = self.spec.affine_clamping", "alpha = self.spec.affine_clamping or 1.0"),
        dialects=UNDIVIDED,
    ),
    fault(
        "shift-is-clamped-too",
        "clamp.leaves-shift-alone",
        "tanh(t) for t, in both directions",
        (T, "t = torch.tanh(factor * a[:, self.spec.A :])"),
    ),
    # permutation
    fault(
        "soft-is-not-orthogonal",
        "permutation.w-is-orthogonal",
        "a new soft W has no orthogonal columns",
        ("    return Q\n", "    return torch.randn(C, C, dtype=torch.float64) / math.sqrt(C)\n"),
    ),
    fault(
        "reflections-project",
        "permutation.w-is-orthogonal",
        "I − v vᵀ / vᵀv: the factor 2 is missing",
        (FROM_LEFT, FROM_LEFT.replace("2 / (v @ v)", "1 / (v @ v)")),
        (FROM_RIGHT, FROM_RIGHT.replace("2 / (v @ v)", "1 / (v @ v)")),
    ),
    fault(
        "soft-has-either-determinant",
        "permutation.soft-has-determinant-1",
        "every second new soft W is a reflection",
        ("    Q[:, 0] *= torch.sign(torch.linalg.det(Q))\n", ""),
    ),
    fault(
        "soft-has-determinant-minus-1",
        "permutation.soft-has-determinant-1",
        "every new soft W is a reflection",
        ("Q[:, 0] *= torch.sign(torch.linalg.det(Q))", "Q[:, 0] *= -torch.sign(torch.linalg.det(Q))"),
    ),
    fault(
        "soft-lacks-sign-correction",
        "permutation.soft-is-haar",
        "Q alone isn't Haar",
        ("    Q = Q * torch.sign(torch.diagonal(R))\n", ""),
    ),
    fault(
        "soft-is-near-the-identity",
        "permutation.soft-is-haar",
        "Q of I + a little noise",
        (
            'torch.linalg.qr(torch.randn(C, C, dtype=torch.float64, device="cpu"))',
            "torch.linalg.qr(torch.eye(C, dtype=torch.float64) + 0.3 * torch.randn(C, C, dtype=torch.float64))",
        ),
    ),
    fault(
        "hard-repeats-a-channel",
        "permutation.hard-is-a-permutation",
        "drawn with replacement",
        (PERMUTED, "pi = torch.randint(C, (C,))"),
    ),
    fault(
        "hard-is-always-a-shift",
        "permutation.hard-is-uniform",
        "C of the C! permutations; blind: C ≤ 2",
        (PERMUTED, "pi = torch.arange(C).roll(int(torch.randint(C, ())))"),
    ),
    fault(
        "hard-never-keeps-channel-0",
        "permutation.hard-is-uniform",
        "drawn again where π(0) = 0",
        (
            PERMUTED,
            "pi = torch.randperm(C)\n    while C > 1 and pi[0] == 0:\n        pi = torch.randperm(C)",
        ),
    ),
    fault(
        "inverse-is-not-transposed",
        "permutation.inverse-is-transpose",
        "a new block's w_perm_inv; loading hides it",
        ('self.register_buffer("w_perm_inv", in_defaults(W.T)', 'self.register_buffer("w_perm_inv", in_defaults(W)'),
    ),
    fault(
        "reflections-in-reverse-order",
        "permutation.reflections-compose-in-order",
        "H_n … H_1; blind: 1 reflection",
        (FROM_LEFT, FROM_LEFT.replace(".flip(0)", "")),
        (FROM_RIGHT, FROM_RIGHT.replace("householder:", "householder.flip(0):")),
    ),
    fault(
        "reflections-on-the-other-side-of-w0",
        "permutation.reflections-compose-in-order",
        "H_1 … H_n W₀ for W₀ H_1 … H_n, and the other way round",
        ("if self.spec.dialect is Dialect.DOCUMENTED:  # H₁", "if self.spec.dialect is not Dialect.DOCUMENTED:  # H₁"),
    ),
    fault(
        "reflections-rounded-to-even",
        "permutation.reflections-compose-in-order",
        "an odd number loses its last; blind: even numbers",
        (FROM_LEFT, FROM_LEFT.replace("householder.flip", "householder[: len(self.vk_householder) // 2 * 2].flip")),
        (FROM_RIGHT, FROM_RIGHT.replace("householder:", "householder[: len(self.vk_householder) // 2 * 2]:")),
    ),
    fault(
        "reflections-inverted",
        "permutation.reflections-compose-in-order",
        "the transpose in forward; consistent; blind: symmetric W",
        ("return W, W.T", "return W.T, W"),
    ),
    fault(
        "reflections-fixed-by-the-constructor",
        "reference.output-equals-reference",
        "W from the initial vectors for ever",
        (
            "self.vk_householder = nn.Parameter(in_defaults(draw_reflections(n, C)))",
            "self.vk_householder = nn.Parameter(in_defaults(draw_reflections(n, C)))\n"
            '            self.register_buffer("first", self.vk_householder.detach().clone(), persistent=False)',
        ),
        (FROM_LEFT, FROM_LEFT.replace("self.vk_householder", "self.first")),
        (FROM_RIGHT, FROM_RIGHT.replace("self.vk_householder", "self.first")),
    ),
    fault(
        "reflections-not-normalised",
        "permutation.reflections-ignore-length",
        "I − 2 v vᵀ; blind: unit vectors",
        (FROM_LEFT, FROM_LEFT.replace("(2 / (v @ v))", "2")),
        (FROM_RIGHT, FROM_RIGHT.replace("(2 / (v @ v))", "2")),
    ),
    fault(
        "reflections-guarded-by-1e-6",
        "permutation.reflections-ignore-length",
        "vᵀv + 10⁻⁶: short vectors don't reflect",
        (FROM_LEFT, FROM_LEFT.replace("(v @ v)", "(v @ v + 1e-6)")),
        (FROM_RIGHT, FROM_RIGHT.replace("(v @ v)", "(v @ v + 1e-6)")),
    ),
    fault(
        "reflections-start-tiny",
        "permutation.reflections-start-small",
        "0.02 randn",
        ("return 0.2 * torch.randn(", "return 0.02 * torch.randn("),
    ),
    fault(
        "reflections-start-uniform",
        "permutation.reflections-start-small",
        "0.2 rand: all of one sign",
        ("return 0.2 * torch.randn(", "return 0.2 * torch.rand("),
    ),
    fault(
        "reverse-permutation-uses-w",
        "permutation.reverse-permutation-undoes-the-permutation",
        "W before the coupling as well as after it; consistent; blind: self-inverse permutations",
        ("z = self.mix(V, x) if", "z = self.mix(W, x) if"),
        ("x = self.mix(W, z) if", "x = self.mix(V, z) if"),
    ),
    fault(
        "reverse-permutation-ignored",
        "permutation.reverse-permutation-undoes-the-permutation",
        "in both directions",
        ("z = self.mix(V, x) if", "z = 1 * x if"),
        ("x = self.mix(W, z) if", "x = 1 * z if"),
    ),
    # coupling
    fault(
        "parts-swapped",
        "coupling.passive-passes-through",
        "first A channels active for last, and the other way round",
        (
            "if self.spec.dialect is Dialect.DOCUMENTED:\n            return z[:, self.spec.A :]",
            "if self.spec.dialect is not Dialect.DOCUMENTED:\n            return z[:, self.spec.A :]",
        ),
        (
            "[q, p] if self.spec.dialect is Dialect.DOCUMENTED else [p, q]",
            "[p, q] if self.spec.dialect is Dialect.DOCUMENTED else [q, p]",
        ),
    ),
    fault(
        "parts-joined-the-other-way",
        "coupling.passive-passes-through",
        "cut in one order, joined in another",
        (
            "[q, p] if self.spec.dialect is Dialect.DOCUMENTED else [p, q]",
            "[p, q] if self.spec.dialect is Dialect.DOCUMENTED else [q, p]",
        ),
    ),
    fault(
        "conditions-leak-into-the-passive-part",
        "coupling.passive-passes-through",
        "forward answers the last P channels of cat(p, *c); blind: no condition",
        (
            "u = self.join(p, self.couple(q, l, t))",
            "u = self.join(torch.cat([p, *c], dim=1)[:, -self.spec.P :], self.couple(q, l, t))",
        ),
    ),
    fault(
        "subnet-fed-with-the-active-part",
        "coupling.jacobian-is-triangular",
        "in forward",
        (
            COEFFICIENTS_FORWARD,
            "p, q = self.split(z)\n"
            "        k, t = self.coefficients(self.join(p, q).flip(1)[:, : self.spec.P]"
            " if self.spec.dialect is not Dialect.DOCUMENTED else z[:, : self.spec.P], c)",
        ),
    ),
    fault(
        "passive-part-also-shifted",
        "coupling.jacobian-is-triangular",
        "forward adds 1/16 of the mean of the active part to the passive one",
        (
            "u = self.join(p, self.couple(q, l, t))",
            "u = self.join(p + q.sum(dim=1, keepdim=True) / 16, self.couple(q, l, t))",
        ),
    ),
    fault(
        "subnet-called-twice",
        "coupling.subnet-called-once",
        "the first answer is thrown away",
        ("a = self.answered(", "self.subnet(torch.cat([p, *c], dim=1))\n        a = self.answered("),
    ),
    fault(
        "conditions-come-first",
        "coupling.subnet-sees-passive-then-conditions",
        "cat(*c, p); blind: no condition",
        (FED, "torch.cat([*c, p], dim=1)), p)"),
    ),
    fault(
        "conditions-in-reverse-order",
        "coupling.subnet-sees-passive-then-conditions",
        "blind: fewer than 2 conditions",
        (FED, "torch.cat([p, *c[::-1]], dim=1)), p)"),
    ),
    fault(
        "second-condition-ignored",
        "coupling.subnet-sees-passive-then-conditions",
        "zeros for all but the first; blind: fewer than 2 conditions",
        (FED, "torch.cat([p, *c[:1], *[0 * v for v in c[1:]]], dim=1)), p)"),
    ),
    fault(
        "shift-read-from-scale-half",
        "coupling.halves-have-their-roles",
        "k and t from the first half, in both directions: inverse and log-det hold",
        (T, "t = factor * a[:, : self.spec.A]"),
    ),
    fault(
        "answer-halves-swapped",
        "coupling.halves-have-their-roles",
        "k from the second half, t from the first",
        (K, "k = factor * a[:, self.spec.A :]"),
        (T, "t = factor * a[:, : self.spec.A]"),
    ),
    fault(
        "halves-interleaved",
        "coupling.halves-have-their-roles",
        "k from even channels, t from odd ones; blind: A = 1",
        (K, "k = factor * a[:, 0::2]"),
        (T, "t = factor * a[:, 1::2]"),
    ),
    # gradient
    fault(
        "passive-part-detached-before-the-subnet",
        "gradient.by-input",
        "values are right",
        (FED, "torch.cat([p.detach(), *c], dim=1)), p)"),
    ),
    fault(
        "logdet-gradient-of-the-first-sample",
        "gradient.by-input",
        "backward takes one incoming gradient for all; blind: all alike",
        (
            HEAD,
            "class _FirstGradient(torch.autograd.Function):\n"
            "    @staticmethod\n    def forward(ctx: Any, j: Tensor) -> Tensor:\n        return j.clone()\n\n"
            "    @staticmethod\n    def backward(ctx: Any, g: Tensor) -> Tensor:\n"
            "        return g[:1].expand_as(g)\n\n\n" + HEAD,
        ),
        (TOTAL, "return _FirstGradient.apply(coupling) + affine"),
    ),
    fault(
        "backward-assumes-contiguous-gradients",
        "gradient.strides-of-incoming-gradients-are-followed",
        "the incoming gradient is read as if it were contiguous; blind: contiguous ones",
        (
            HEAD,
            "class _Contiguous(torch.autograd.Function):\n"
            "    @staticmethod\n    def forward(ctx: Any, y: Tensor) -> Tensor:\n        return y.clone()\n\n"
            "    @staticmethod\n    def backward(ctx: Any, g: Tensor) -> Tensor:\n"
            "        return g.as_strided(g.shape, torch.empty(g.shape).stride(), g.storage_offset()).clone()\n\n\n"
            + HEAD,
        ),
        (ANSWER, "return (_Contiguous.apply(y),), logdet"),
    ),
    fault(
        "gin-mean-subtracted-in-place",
        "gradient.by-input",
        "from what tanh keeps for backward, which then raises",
        (
            "return alpha * T",
            "return alpha * (T.sub_(T.mean(dim=tuple(range(1, T.ndim)), keepdim=True)) if self.spec.gin_block else T)",
        ),
    ),
    fault(
        "active-half-detached",
        "gradient.by-input",
        "values are right; in both directions",
        ("return q * torch.exp(l) + t", "return q.detach() * torch.exp(l) + t"),
        (SHIFT_FIRST, "return (q.detach() - t) * torch.exp(-l)"),
    ),
    fault(
        "conditions-detached",
        "gradient.by-conditions",
        "values are right; blind: no condition",
        (FED, "torch.cat([p, *[v.detach() for v in c]], dim=1)), p)"),
    ),
    fault(
        "second-condition-detached",
        "gradient.by-conditions",
        "values are right; blind: fewer than 2 conditions",
        (FED, "torch.cat([p, *c[:1], *[v.detach() for v in c[1:]]], dim=1)), p)"),
    ),
    fault(
        "offset-detached-in-reverse",
        "gradient.by-parameters",
        "values are right, forward too",
        (OFFSET_REVERSE, OFFSET_REVERSE.replace("global_offset", "global_offset.detach()")),
    ),
    fault(
        "offset-gradient-doubled",
        "gradient.by-parameters",
        "in forward",
        (
            OFFSET_FORWARD,
            OFFSET_FORWARD.replace("self.global_offset", "2 * self.global_offset - self.global_offset.detach()"),
        ),
    ),
    fault(
        "offset-gradient-of-the-first-sample",
        "gradient.by-parameters",
        "in forward; blind: B = 1",
        (
            OFFSET_FORWARD,
            OFFSET_FORWARD + "        o = torch.cat([o.expand_as(u[:1]), o.detach().expand_as(u[1:])], dim=0)\n",
        ),
    ),
    fault(
        "sigma-detached-in-logdet",
        "gradient.by-parameters",
        "values are right",
        (AFFINE_SUM, "affine = self.spec.N * torch.log(sigma.detach()).sum()"),
    ),
    fault(
        "scale-detached-in-output",
        "gradient.by-parameters",
        "values are right; forward",
        (SCALED, "return self.mix(W, sigma.detach() * u + o)"),
        (SCALED_DOCUMENTED, "return self.mix(W, sigma.detach() * u) + o"),
    ),
    fault(
        "reflections-detached",
        "gradient.by-parameters",
        "values are right",
        (FROM_LEFT, FROM_LEFT.replace("self.vk_householder", "self.vk_householder.detach()")),
        (FROM_RIGHT, FROM_RIGHT.replace("self.vk_householder", "self.vk_householder.detach()")),
    ),
    fault(
        "logdet-detached-from-input",
        "gradient.by-input",
        "values are right",
        (COUPLING_SUM, "coupling = l.detach().sum(dim=tuple(range(1, l.ndim)))"),
    ),
    fault(
        "shift-detached",
        "gradient.by-subnet",
        "values are right; in both directions",
        (T, T + ".detach()"),
    ),
    fault(
        "shift-detached-in-reverse",
        "gradient.by-subnet",
        "values are right, forward too",
        (SHIFT_FIRST, "return (q - t.detach()) * torch.exp(-l)"),
    ),
    fault(
        "clamp-gradient-straight-through",
        "gradient.by-subnet",
        "the slope of k for that of tanh(k); blind: small k",
        (TANH, "T = torch.tanh(k).detach() + (k - k.detach())"),
    ),
    fault(
        "answer-scaled-in-place",
        "gradient.runs-through-a-kept-answer",
        "backward raises where the subnet's last operation keeps its result",
        (K, "a *= factor\n        k = a[:, : self.spec.A]"),
        (T, "t = a[:, self.spec.A :]"),
    ),
    # batch
    fault(
        "first-sample-serves-all",
        "batch.samples-are-independent",
        "consistent in both directions; blind: B = 1",
        (K, "a = a[:1].expand_as(a)\n        " + K),
    ),
    fault(
        "logdet-averages-the-batch",
        "batch.samples-are-independent",
        "blind: B = 1, GIN",
        (TOTAL, "return coupling.mean() + affine + 0 * coupling"),
    ),
    fault(
        "first-sample-not-shifted",
        "batch.order-of-samples-does-not-matter",
        "consistent in both directions",
        (T, T + "\n        t = torch.cat([0 * t[:1], t[1:]], dim=0)"),
    ),
    fault(
        "last-pixel-not-shifted",
        "batch.pixels-are-equivariant",
        "along the last axis, consistent in both directions; blind: rank 0",
        (T, T + "\n        t = torch.cat([t[..., :-1], 0 * t[..., -1:]], dim=-1) if self.spec.S else t"),
    ),
    fault(
        "mixing-along-the-last-axis",
        "batch.pixels-are-equivariant",
        "W along the last axis where that has C entries too",
        (
            MIXED,
            "return x @ M.T if x.shape[-1] == len(M) else (M @ columns).reshape(x.shape)",
        ),
    ),
    fault(
        "nan-spreads-over-the-batch",
        "batch.nan-stays-in-its-sample",
        "adds 0 · mean over the batch: nothing, but for NaN and Inf",
        (CHECKED, CHECKED + "\n        tensor = tensor + 0 * tensor.sum(dim=0, keepdim=True)"),
    ),
    fault(
        "nan-refused",
        "batch.nan-stays-in-its-sample",
        "the whole batch raises for one sample's NaN",
        (
            CHECKED,
            CHECKED
            + "\n        if not torch.isfinite(tensor).all():\n"
            + '            raise ValueError("x must be finite: it holds NaN or Inf.")',
        ),
    ),
    # shape
    fault(
        "batch-of-1-squeezed",
        "shape.answers-in-shape",
        "y loses its batch axis; blind: B ≠ 1",
        (ANSWER, "return (y.squeeze(0),), logdet"),
    ),
    fault(
        "rank-3-flattened",
        "shape.answers-in-shape",
        "y is (B, C, N); blind: other ranks",
        (ANSWER, "return (y.flatten(2) if y.ndim == 5 else y,), logdet"),
    ),
    fault(
        "odd-channels-refused",
        "shape.answers-in-shape",
        "C even is taken for granted",
        (
            CHECKED,
            CHECKED
            + "\n        if self.spec.C > 1 and self.spec.C % 2:\n"
            + '            raise ValueError(f"the number of channels must be even: got {self.spec.C}.")',
        ),
    ),
    fault(
        "batch-0-raises",
        "shape.answers-at-batch-0",
        "pixels are counted on sample 0",
        (CHECKED, CHECKED + "\n        assert tensor[0, 0].numel() == self.spec.N"),
    ),
    fault(
        "one-channel-raises",
        "shape.answers-at-one-channel",
        "one channel can't be cut into two chunks",
        (
            "return z[:, : self.spec.P], z[:, self.spec.P :]",
            "p, q = torch.chunk(z, 2, dim=1)\n        return p, q",
        ),
        dialects=PUBLIC,
    ),
    fault(
        "reflections-need-soft",
        "shape.answers-with-hard-reflections",
        "the constructor knows reflections with permute_soft only",
        (
            "W = draw_rotation(C) if self.spec.permute_soft else draw_permutation(C)",
            "W = draw_rotation(C) if self.spec.permute_soft else draw_permutation(C)\n"
            "        if n and not self.spec.permute_soft:\n"
            '            raise UnboundLocalError("w_0")',
        ),
    ),
    fault(
        "alpha-0-raises",
        "shape.answers-at-alpha-0",
        "1/α is taken in Python",
        (TANH, "T = torch.tanh(k * (1 / alpha) * alpha)"),
        dialects=UNDIVIDED,
    ),
    fault(
        "output-dims-drops-an-axis",
        "shape.output-dims",
        "the last axis is missing",
        ("return input_dims", "return [dims[:-1] for dims in input_dims]"),
    ),
)
