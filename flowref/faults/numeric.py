"""Faults of precision: accumulation, casts, autocast, approximations. Edits of plain.py, as in `corpus`."""

from flowref.faults.fault import PUBLIC, Fault, fault

MIX = "return (M @ columns).reshape(x.shape)"
COUPLING_SUM = "coupling = l.sum(dim=tuple(range(1, l.ndim)))"
TANH = "T = torch.tanh(k)"
CHECKED = "tensor, conditions = self.checked(x, c)"
AFFINE_SUM = "affine = self.spec.N * torch.log(sigma).sum()"
EXP_FORWARD = "return q * torch.exp(l) + t"
DIVIDE = "return (self.mix(V, y) - o) / sigma"

FAULTS: tuple[Fault, ...] = (
    fault(
        "half-reflections-mix-dtypes",
        "dtype.answers-in-bfloat16",
        "reflections start from a float32 matrix, whatever the block's dtype (bugs seen in three public blocks)",
        ("W = self.w_0\n", "W = self.w_0.float() if self.w_0.dtype != torch.float64 else self.w_0\n"),
    ),
    fault(
        "float16-scale-in-float32",
        "dtype.answers-in-float16",
        "the scale is computed in float32 and stays there, so float16 comes back as float32",
        (
            "s = self.global_scale\n        if self.spec.gin_block",
            "s = self.global_scale\n        s = s.float() if s.dtype == torch.float16 else s\n"
            "        if self.spec.gin_block",
        ),
    ),
    fault(
        "half-sums-in-half",
        "dtype.bfloat16-rounds-once",
        "the log-det is accumulated in the input's dtype, one rounding a term",
        (AFFINE_SUM, "affine = sum(v for v in torch.log(sigma).expand(1, *self.spec.dims).flatten())"),
    ),
    fault(
        "float16-log-det-in-half-steps",
        "dtype.float16-rounds-once",
        "each term of the global affine's share is rounded to float16 before it is added",
        (
            AFFINE_SUM,
            "terms = torch.log(sigma).expand(1, *self.spec.dims).flatten()\n"
            "        affine = terms[:1].sum()\n"
            "        for term in terms[1:]:\n"
            "            affine = affine + (term + 8) - 8",
        ),
    ),
    fault(
        "autocast-raises",
        "dtype.autocast-stays-within-bfloat16",
        "inputs of the parameters' dtype are asked for under autocast too, also of what the block itself computed",
        (
            "a = self.answered(self.subnet(torch.cat([p, *c], dim=1)), p)",
            "a = self.answered(self.subnet(torch.cat([p, *c], dim=1)), p)\n"
            "        if torch.is_autocast_enabled('cpu') or a.dtype != self.global_scale.dtype:\n"
            "            raise ValueError(f'the answer must be {self.global_scale.dtype}')",
        ),
    ),
    fault(
        "float64-input-cut-to-float32",
        "dtype.float64-keeps-every-bit",
        "inputs pass through float32 on their way into a float64 block",
        (CHECKED, CHECKED + "\n        tensor = tensor.float().to(tensor.dtype)"),
    ),
    fault(
        "float64-conditions-cut-to-float32",
        "dtype.float64-keeps-every-bit",
        "conditions pass through float32",
        (CHECKED, CHECKED + "\n        conditions = [v.float().to(v.dtype) for v in conditions]"),
    ),
    fault(
        "mixing-in-tf32",
        "reference.output-equals-reference",
        "both factors of W x are rounded to the 11 significant bits of TF32",
        (
            MIX,
            "bits = lambda v: (v.detach().float().view(torch.int32) + 0x1000) & ~0x1FFF\n"
            "        short = lambda v: v + (bits(v).view(torch.float32).to(v.dtype) - v).detach()\n"
            "        return (short(M) @ short(columns)).reshape(x.shape)",
        ),
    ),
    fault(
        "exp-keeps-12-bits",
        "reference.output-equals-reference",
        "exp(l) is cut to 12 significant bits",
        (
            EXP_FORWARD,
            "E = torch.exp(l)\n"
            "        E = (E.float().view(torch.int32) & ~0xFFF).view(torch.float32).to(E.dtype)\n"
            "        return q * E + t",
        ),
    ),
    fault(
        "tanh-off-by-3e-5",
        "logdet.equals-reference",
        "a tanh of an absolute accuracy of 3e-5",
        (TANH, "T = torch.tanh(k) + 3e-5 * torch.sin(37 * k)"),
    ),
    fault(
        "clamp-leaves-a-gap",
        "clamp.exhaustive-half",
        "two branches of a tanh do not meet: from 9 to 9 + 2⁻¹⁶ neither is taken",
        (TANH, "K = k.abs().double()\n        T = torch.where((K >= 9) & (K < 9 + 2**-16), 0, torch.tanh(k))"),
    ),
    fault(
        "clamp-wrong-at-one-coefficient",
        "clamp.exhaustive-float32",
        "a tanh is wrong at the float32 number that is nearest to π/4, which no half precision has",
        (TANH, "T = torch.where(k.float() == torch.tensor(0.7853982), 0, torch.tanh(k))"),
    ),
    fault(
        "divisor-plus-1e-6",
        "reference.output-equals-reference",
        "1e-6 is added to the scale before it divides",
        (DIVIDE, "return (self.mix(V, y) - o) / (sigma + 1e-6)"),
        dialects=PUBLIC,
    ),
)
