"""Whole wrong ports: blocks that hold together in themselves, but are not the block.

PORTS         all of them, in the order of the constructor's arguments, then of a pass
build(port)   the class, compiled afresh
find(id)      the port of that id

Where a fault (`corpus`) is an accident in one line, a port is a decision: an argument that is accepted and not used,
two that are swapped, a flag read as another type, a formula of another paper, in forward and reverse alike, so that
many undo themselves. Illegal arguments are still refused, that one cause stays one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from flowref.faults.source import Edit, compiled

COUPLING, CLAMP, GIN, AFFINE, MIXING, LOGDET = "coupling", "clamp", "GIN mean", "global affine", "W", "log-det"


@dataclass(frozen=True)
class Port:
    """One wrong port: ``steps`` to which it may lead, any of them right, and ``edits`` of plain.py (anomalib)."""

    id: str
    steps: tuple[str, ...]
    note: str
    edits: tuple[Edit, ...]


def build(port: Port) -> type[nn.Module]:
    """The wrong class, in a fresh module namespace."""
    return compiled(f"port-{port.id}", port.edits)


def find(id: str) -> Port:
    """The port of this id. Raises KeyError."""
    return next((port for port in PORTS if port.id == id), None) or _unknown(id)


def _unknown(id: str) -> Port:
    raise KeyError(f"no port {id!r}.")


def port(id: str, steps: str | tuple[str, ...], note: str, *edits: Edit) -> Port:
    """A Port, its edits written one after another."""
    return Port(id, (steps,) if isinstance(steps, str) else steps, note, edits)


# Texts of plain.py that ports edit.
KNOWN = "        n = self.spec.learned_householder_permutation\n"
SUBNET = "self.subnet = subnet_constructor(self.spec.subnet_in, self.spec.subnet_out)"
START = "s = initial_scale(g, self.spec.global_affine_type)"
CAT = "torch.cat([p, *c], dim=1)"
K = "k = factor * a[:, : self.spec.A]"
T = "t = factor * a[:, self.spec.A :]"
FACTOR = "factor = 1.0 if self.spec.dialect is Dialect.DOCUMENTED else 0.1"
SPLIT = "return z[:, : self.spec.P], z[:, self.spec.P :]"
JOIN = "return torch.cat([q, p] if self.spec.dialect is Dialect.DOCUMENTED else [p, q], dim=1)"
TANH = "T = torch.tanh(k)\n        return alpha * T"
CENTRED = "return l - l.mean(dim=axes, keepdim=True)"
COUPLE, UNCOUPLE = "return q * torch.exp(l) + t", "return (q - t) * torch.exp(-l)"
PSI = "s = self.global_scale\n        if self.spec.gin_block:"
ONE = "return torch.ones_like(s)"
SIGMOID, SOFTPLUS = "return 10 * torch.sigmoid(s - 2)", "return 0.2 * functional.softplus(s / 2)"
START_SIGMOID = "return 2 + math.log(g) - math.log(10 - g)"
START_SOFTPLUS = "return 2 * (5 * g + math.log(-math.expm1(-5 * g)))"
FORWARD, REVERSE = "return self.mix(W, sigma * u + o)", "return (self.mix(V, y) - o) / sigma"
SUM_L, SUM_S = "coupling = l.sum(dim=tuple(range(1, l.ndim)))", "affine = self.spec.N * torch.log(sigma).sum()"
VOLUME = "return coupling + affine"
MIX = "return (M @ columns).reshape(x.shape)"
STORED = "return self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)"
W_0 = "        W = self.w_0\n"
REFLECT = "W = W - (2 / (v @ v)) * torch.outer(W @ v, v)"
TURNS = "            for v in self.vk_householder:\n"
MIX_BACK, MIX_AGAIN = (
    "z = self.mix(V, x) if self.spec.reverse_permutation else x",
    "x = self.mix(W, z) if self.spec.reverse_permutation else z",
)
BOTH_WAYS = "y, logdet = self.pass_reverse(tensor, conditions) if rev else self.pass_forward(tensor, conditions)"
RANK = "        ones = (1,) * self.spec.rank\n"
MEAN_L = "l = self.centre(l) if self.spec.gin_block else l  # noqa: E741 (the letter of the formula)"


def taken(changed: str) -> Edit:
    """The arguments are checked as given, then read as ``changed`` says; ``of`` stands for what was given."""
    read = f"        of = self.spec\n        self.spec = __import__('dataclasses').replace(of, {changed})\n"
    return KNOWN, read + KNOWN


PORTS: tuple[Port, ...] = (
    # Arguments that are accepted and not used.
    port("clamping-ignored", CLAMP, "α is 1.9 whatever is given", taken("affine_clamping=1.9")),
    port("gin-ignored", GIN, "no GIN", taken("gin_block=False")),
    port(
        "init-ignored",
        AFFINE,
        "every block starts at g = 1",
        (START, f"{START}\n        s = initial_scale(1.0, self.spec.global_affine_type)"),
    ),
    port("every-type-softplus", AFFINE, "the type is not looked at", taken("global_affine_type='SOFTPLUS'")),
    port("every-type-exp", AFFINE, "the type is not looked at", taken("global_affine_type='EXP'")),
    port(
        "every-type-sigmoid",
        AFFINE,
        "the type is not looked at; g is cut to its range",
        taken("global_affine_type='SIGMOID', global_affine_init=min(of.global_affine_init, 9.99)"),
    ),
    port("soft-ignored", MIXING, "every new W is a permutation", taken("permute_soft=False")),
    port("reflections-ignored", MIXING, "no reflections", taken("learned_householder_permutation=0")),
    port(
        "one-reflection-at-most",
        MIXING,
        "a number is read as a flag",
        taken("learned_householder_permutation=int(bool(of.learned_householder_permutation))"),
    ),
    port("reverse-permutation-left-out", MIXING, "no W before the coupling", taken("reverse_permutation=False")),
    port(
        "reverse-permutation-always",
        MIXING,
        "W before the coupling, asked for or not",
        taken("reverse_permutation=True"),
    ),
    port(
        "conditions-left-out",
        COUPLING,
        "the subnet is given the passive part alone",
        (SUBNET, "self.subnet = subnet_constructor(self.spec.P, self.spec.subnet_out)"),
        (CAT, "p"),
    ),
    port(
        "subclass-takes-shapes-alone",
        (CLAMP, GIN, AFFINE, MIXING),
        "all flags are accepted and ignored",
        taken(
            "affine_clamping=2.0, gin_block=False, global_affine_init=1.0, global_affine_type='SOFTPLUS', "
            "permute_soft=False, learned_householder_permutation=0, reverse_permutation=False"
        ),
    ),
    # Arguments that are swapped.
    port(
        "clamping-and-init-swapped",
        (CLAMP, AFFINE),
        "given by position, in another order",
        taken("affine_clamping=of.global_affine_init, global_affine_init=min(of.affine_clamping or 1.0, 9.0)"),
    ),
    port(
        "soft-and-reverse-swapped",
        MIXING,
        "given by position, in another order",
        taken("permute_soft=of.reverse_permutation, reverse_permutation=of.permute_soft"),
    ),
    port(
        "soft-and-reflections-swapped",
        MIXING,
        "given by position, in another order",
        taken(
            "permute_soft=bool(of.learned_householder_permutation), "
            "learned_householder_permutation=int(of.permute_soft)"
        ),
    ),
    port(
        "gin-and-reverse-swapped",
        (GIN, MIXING),
        "given by position, in another order",
        taken("gin_block=of.reverse_permutation, reverse_permutation=of.gin_block"),
    ),
    port(
        "subnet-sizes-swapped",
        ("answer", COUPLING),
        "the constructor is given (out, in)",
        (SUBNET, "self.subnet = subnet_constructor(self.spec.subnet_out, self.spec.subnet_in)"),
    ),
    port(
        "halves-of-the-answer-swapped",
        COUPLING,
        "shift first, then scale",
        (K, "k = factor * a[:, self.spec.A :]"),
        (T, "t = factor * a[:, : self.spec.A]"),
    ),
    port(
        "scale-and-offset-swapped",
        AFFINE,
        "each parameter has the other's part",
        (PSI, "s = self.global_offset\n        if self.spec.gin_block:"),
        (
            f"{FORWARD}\n\n    def affine_reverse",
            "return self.mix(W, sigma * u + self.global_scale)\n\n    def affine_reverse",
        ),
        (REVERSE, "return (self.mix(V, y) - self.global_scale) / sigma"),
    ),
    # Flags read as another type, and other ranges.
    port("init-is-the-raw-scale", AFFINE, "g is taken for s", (START, f"{START}\n        s = g")),
    port("init-is-log-g-for-every-type", AFFINE, "as for EXP", (START, f"{START}\n        s = math.log(g)")),
    port("init-is-1-over-g", AFFINE, "the inverse start", (START, f"{START}\n        s = -math.log(g)")),
    port(
        "sigmoid-spelt-in-small-letters",
        AFFINE,
        "so SIGMOID falls through to exp",
        (
            'if self.spec.global_affine_type == "SIGMOID":\n            return 10',
            'if self.spec.global_affine_type == "sigmoid":\n            return 10',
        ),
    ),
    port("type-by-a-flag", AFFINE, "SOFTPLUS or else SIGMOID", ("return torch.exp(s)", SIGMOID)),
    port(
        "exp-refused",
        AFFINE,
        "EXP is not supported",
        (
            RANK,
            RANK + "        if self.spec.global_affine_type == 'EXP':\n            raise NotImplementedError('EXP')\n",
        ),
    ),
    port(
        "soft-is-a-number-of-reflections",
        MIXING,
        "True is 1",
        taken("learned_householder_permutation=max(of.learned_householder_permutation, int(of.permute_soft))"),
    ),
    port(
        "clamping-whole",
        CLAMP,
        "α is read as an int, at least 1",
        taken("affine_clamping=float(max(1, int(of.affine_clamping)))"),
    ),
    port(
        "reverse-permutation-transposes",
        MIXING,
        "read as: use W⁻¹ for W",
        taken("reverse_permutation=False"),
        (
            STORED,
            "pair = self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)\n"
            "            return pair[::-1] if self.flipped else pair",
        ),
        ("        return W, W.T\n", "        return (W.T, W) if self.flipped else (W, W.T)\n"),
        (RANK, RANK + "        self.flipped = of.reverse_permutation\n"),
    ),
    port(
        "reverse-permutation-backwards",
        MIXING,
        "W where W⁻¹ is meant, both ways",
        (MIX_BACK, MIX_BACK.replace("V", "W")),
        (MIX_AGAIN, MIX_AGAIN.replace("W", "V")),
    ),
    # Ranks and conditions.
    port(
        "images-alone",
        "answer",
        "rank 3 is refused",
        (RANK, RANK + "        if self.spec.rank == 3:\n            raise NotImplementedError('3d')\n"),
    ),
    port(
        "no-vectors",
        "answer",
        "rank 0 is refused",
        (RANK, RANK + "        if not self.spec.rank:\n            raise NotImplementedError('0d')\n"),
    ),
    port("conditions-first", COUPLING, "cat(*c, p)", (CAT, "torch.cat([*c, p], dim=1)")),
    port("conditions-backwards", COUPLING, "cat(p, *c reversed)", (CAT, "torch.cat([p, *c[::-1]], dim=1)")),
    port(
        "first-condition-alone",
        COUPLING,
        "one condition is taken",
        (
            SUBNET,
            "self.subnet = subnet_constructor(\n            self.spec.P + sum(d[0] for d in self.spec.dims_c[:1]),"
            " self.spec.subnet_out)",
        ),
        (CAT, "torch.cat([p, *c[:1]], dim=1)"),
    ),
    port(
        "conditions-added",
        COUPLING,
        "the sum of the first is added to p; zeros fill the place",
        (CAT, "torch.cat([p + sum(v.sum(1, keepdim=True) for v in c), *(0 * v for v in c)], dim=1)"),
    ),
    port("conditions-halved", COUPLING, "c/2", (CAT, "torch.cat([p, *(v / 2 for v in c)], dim=1)")),
    port(
        "subnet-sees-channels-backwards",
        COUPLING,
        "p from its last channel to its first",
        (CAT, "torch.cat([p.flip(1), *c], dim=1)"),
    ),
    # The coupling.
    port(
        "other-half-active",
        COUPLING,
        "the first A channels are transformed",
        (SPLIT, "return z[:, self.spec.A :], z[:, : self.spec.A]"),
        (JOIN, "return torch.cat([q, p], dim=1)"),
    ),
    port(
        "parts-come-out-swapped",
        COUPLING,
        "cat(q, p), taken apart again on the way back",
        (JOIN, "return torch.cat([q, p], dim=1)"),
    ),
    port(
        "every-other-channel-active",
        COUPLING,
        "even channels passive, odd ones active",
        (SPLIT, "return z[:, ::2], z[:, 1::2]"),
        (
            JOIN,
            "z = torch.empty_like(torch.cat([p, q], dim=1))\n        z[:, ::2], z[:, 1::2] = p, q\n        return z",
        ),
    ),
    port(
        "shift-before-scale",
        COUPLING,
        "(q + t) exp(l)",
        (COUPLE, "return (q + t) * torch.exp(l)"),
        (UNCOUPLE, "return q * torch.exp(-l) - t"),
    ),
    port(
        "shift-subtracted",
        COUPLING,
        "q exp(l) − t",
        (COUPLE, "return q * torch.exp(l) - t"),
        (UNCOUPLE, "return (q + t) * torch.exp(-l)"),
    ),
    port("shift-not-scaled", COUPLING, "t = a_t", (T, "t = a[:, self.spec.A :]")),
    port("answer-not-scaled", (COUPLING, CLAMP), "k = a_k, t = a_t", (FACTOR, "factor = 1.0")),
    port("answer-scaled-by-1-percent", (COUPLING, CLAMP), "another factor", (FACTOR, "factor = 0.01")),
    port(
        "shift-left-out",
        COUPLING,
        "a scale alone",
        (COUPLE, "return q * torch.exp(l)"),
        (UNCOUPLE, "return q * torch.exp(-l)"),
    ),
    port("shift-through-tanh", COUPLING, "t = tanh(0.1 a_t)", (T, "t = torch.tanh(factor * a[:, self.spec.A :])")),
    port("additive-coupling", (COUPLING, CLAMP), "q + t, with a log-det of none", (TANH, "return 0 * alpha * k")),
    port(
        "scale-is-a-sigmoid",
        (COUPLING, CLAMP),
        "q·2·sigmoid(2l), as Glow scales",
        (TANH, "return math.log(2) + functional.logsigmoid(2 * alpha * torch.tanh(k))"),
    ),
    port(
        "scale-is-1-plus-l",
        (COUPLING, CLAMP),
        "q (1 + l) for q exp(l), log-det Σ l",
        (COUPLE, "return q * (1 + l) + t"),
        (UNCOUPLE, "return (q - t) / (1 + l)"),
    ),
    port("scale-divides", (COUPLING, CLAMP), "q exp(−l), and its log-det", (TANH, "return -alpha * torch.tanh(k)")),
    # The clamp.
    port("clamp-is-atan", CLAMP, "α·2/π·atan(k)", (TANH, "return alpha * (2 / math.pi) * torch.atan(k)")),
    port(
        "clamp-is-atan-of-k-by-alpha",
        CLAMP,
        "0.636 α atan(k / α)",
        (TANH, "return alpha * 0.636 * torch.atan(k / (alpha or 1.0))"),
    ),
    port("clamp-is-sigmoid", CLAMP, "α (2 sigmoid(k) − 1)", (TANH, "return alpha * (2 * torch.sigmoid(k) - 1)")),
    port("clamp-is-none", CLAMP, "l = α k", (TANH, "return alpha * k")),
    port("clamp-cuts", CLAMP, "k between −α and α", (TANH, "return k.clamp(-alpha, alpha)")),
    port(
        "alpha-inside", CLAMP, "α tanh(k / α), as freia-main", (TANH, "return alpha * torch.tanh(k / (alpha or 1.0))")
    ),
    port("alpha-inside-alone", CLAMP, "tanh(α k)", (TANH, "return torch.tanh(alpha * k)")),
    port("clamp-is-softsign", CLAMP, "α k / (1 + |k|)", (TANH, "return alpha * k / (1 + k.abs())")),
    port("clamp-is-twice-as-wide", CLAMP, "2α tanh(k / 2)", (TANH, "return 2 * alpha * torch.tanh(k / 2)")),
    # GIN.
    port(
        "gin-keeps-the-scale",
        (AFFINE, GIN),
        "σ stays, and its log-det",
        (PSI, "s = self.global_scale\n        if False:"),
    ),
    port(
        "gin-drops-the-offset",
        (AFFINE, GIN),
        "no global affine map at all",
        (f"        {FORWARD}\n\n", f"        o = 0 * o if self.spec.gin_block else o\n        {FORWARD}\n\n"),
        (REVERSE, "o = 0 * o if self.spec.gin_block else o\n        " + REVERSE),
    ),
    port("gin-mean-over-the-batch", GIN, "the mean of all samples", (CENTRED, "return l - l.mean()")),
    port("gin-mean-over-channels", GIN, "each pixel for itself", (CENTRED, "return l - l.mean(dim=1, keepdim=True)")),
    port(
        "gin-mean-over-pixels",
        GIN,
        "each channel for itself",
        (CENTRED, "return l - l.flatten(2).mean(2).reshape(*l.shape[:2], *(1,) * (l.ndim - 2)) if l.ndim > 2 else l"),
    ),
    port(
        "gin-last-channel-balances",
        GIN,
        "l_A = −Σ of the others, as the paper has it",
        (CENTRED, "return torch.cat([l[:, :-1], -l[:, :-1].sum(dim=1, keepdim=True)], dim=1)"),
    ),
    port("gin-without-scales", GIN, "l = 0", (CENTRED, "return 0 * l")),
    port(
        "gin-centres-before-the-clamp",
        GIN,
        "clamp(k − mean k)",
        (TANH, "k = self.middle(k) if self.spec.gin_block else k\n        return alpha * torch.tanh(k)"),
        (CENTRED, "return l"),
        (
            "    def couple(self, q",
            "    def middle(self, k: Tensor) -> Tensor:\n"
            "        return k - k.mean(dim=tuple(range(1, k.ndim)), keepdim=True)\n\n    def couple(self, q",
        ),
    ),
    # The global affine map.
    port(
        "softplus-without-beta",
        AFFINE,
        "0.2 log(1 + exp(s)), and its start",
        (SOFTPLUS, "return 0.2 * functional.softplus(s)"),
        (START_SOFTPLUS, START_SOFTPLUS.replace("2 *", "1 *", 1)),
    ),
    port("softplus-without-factor", AFFINE, "log(1 + exp(s/2))", (SOFTPLUS, "return functional.softplus(s / 2)")),
    port(
        "softplus-starts-at-g", AFFINE, "another start", (START_SOFTPLUS, "return math.log(math.expm1(min(g, 80.0)))")
    ),
    port(
        "sigmoid-without-shift",
        AFFINE,
        "10 sigmoid(s), and its start",
        (SIGMOID, "return 10 * torch.sigmoid(s)"),
        (START_SIGMOID, START_SIGMOID.replace("2 + ", "")),
    ),
    port("sigmoid-up-to-1", AFFINE, "sigmoid(s − 2)", (SIGMOID, "return torch.sigmoid(s - 2)")),
    port("sigmoid-by-2", AFFINE, "2 sigmoid(s), as others have it", (SIGMOID, "return 2 * torch.sigmoid(s)")),
    port(
        "one-scale-for-all-channels",
        AFFINE,
        "the first channel's σ",
        (PSI, "s = self.global_scale[:, :1].expand_as(self.global_scale)\n        if self.spec.gin_block:"),
    ),
    port(
        "scale-after-mixing",
        AFFINE,
        "σ ⊙ (W u) + o, as act norm",
        (f"        {FORWARD}\n\n", "        return sigma * self.mix(W, u) + o\n\n"),
        (REVERSE, "return self.mix(V, (y - o) / sigma)"),
    ),
    port(
        "scale-divides-globally",
        AFFINE,
        "u / σ + o",
        (f"        {FORWARD}\n\n", "        return self.mix(W, u / sigma + o)\n\n"),
        (REVERSE, "return (self.mix(V, y) - o) * sigma"),
        (SUM_S, SUM_S.replace("= self", "= -self")),
    ),
    port(
        "offset-mixed-never",
        AFFINE,
        "W (σ u) + o",
        (f"        {FORWARD}\n\n", "        return self.mix(W, sigma * u) + o\n\n"),
        (REVERSE, "return self.mix(V, y - o) / sigma"),
    ),
    port(
        "offset-subtracted",
        AFFINE,
        "σ u − o",
        (f"        {FORWARD}\n\n", "        return self.mix(W, sigma * u - o)\n\n"),
        (REVERSE, "return (self.mix(V, y) + o) / sigma"),
    ),
    port(
        "offset-before-scale",
        AFFINE,
        "σ (u + o)",
        (f"        {FORWARD}\n\n", "        return self.mix(W, sigma * (u + o))\n\n"),
        (REVERSE, "return self.mix(V, y) / sigma - o"),
    ),
    port(
        "no-global-offset",
        AFFINE,
        "a parameter without use",
        (f"        {FORWARD}\n\n", "        return self.mix(W, sigma * u)\n\n"),
        (REVERSE, "return self.mix(V, y) / sigma"),
    ),
    port(
        "no-global-affine",
        AFFINE,
        "parameters without use",
        (PSI, "s = self.global_scale\n        return torch.ones_like(s)\n        if self.spec.gin_block:"),
        (f"        {FORWARD}\n\n", "        return self.mix(W, u)\n\n"),
        (REVERSE, "return self.mix(V, y)"),
    ),
    # W.
    port("w-transposed", MIXING, "rows for columns: x W", (MIX, "return (M.T @ columns).reshape(x.shape)")),
    port(
        "hard-w-transposed",
        MIXING,
        "the index goes the other way",
        (
            STORED,
            "pair = self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)\n"
            "            return pair if self.spec.permute_soft else pair[::-1]",
        ),
    ),
    port(
        "reverse-mixes-with-w",
        MIXING,
        "W for W⁻¹",
        (STORED, "return self.w_perm.reshape(C, C), self.w_perm.reshape(C, C)"),
    ),
    port(
        "w-flips-channels",
        MIXING,
        "a fixed reversal of channels for W",
        (STORED, "F = torch.eye(C).to(self.w_perm).flip(0)\n            return F, F"),
    ),
    port("w-left-out", MIXING, "W = I", (STORED, "I = torch.eye(C).to(self.w_perm)\n            return I, I")),
    port("reflections-without-w0", MIXING, "H₁ … H_n alone", (W_0, "        W = torch.eye(C).to(self.w_0)\n")),
    port(
        "reflections-backwards", MIXING, "W₀ H_n … H₁", (TURNS, "            for v in self.vk_householder.flip(0):\n")
    ),
    port(
        "reflections-of-unit-vectors",
        MIXING,
        "I − 2 v vᵀ, as if |v| = 1",
        (REFLECT, "W = W - 2 * torch.outer(W @ v, v)"),
    ),
    port("reflections-left-of-w0", MIXING, "H_n … H₁ W₀", (REFLECT, "W = W - (2 / (v @ v)) * torch.outer(v, v @ W)")),
    port(
        "w-before-the-coupling",
        (MIXING, COUPLING, AFFINE),
        "σ u + o of W x",
        (f"        {FORWARD}\n\n", "        return sigma * u + o\n\n"),
        (REVERSE, "return (y - o) / sigma"),
        (MIX_BACK, "z = self.mix(W, self.mix(V, x) if self.spec.reverse_permutation else x)"),
        (MIX_AGAIN, "x = self.mix(V, z)\n        x = self.mix(W, x) if self.spec.reverse_permutation else x"),
    ),
    # The log-det.
    port(
        "logdet-is-a-mean",
        LOGDET,
        "means over channels and pixels",
        (SUM_L, "coupling = l.mean(dim=tuple(range(1, l.ndim)))"),
        (SUM_S, "affine = torch.log(sigma).mean()"),
    ),
    port("logdet-without-pixels", LOGDET, "no N at Σ log σ", (SUM_S, "affine = torch.log(sigma).sum()")),
    port("logdet-of-the-coupling-alone", LOGDET, "no Σ log σ", (VOLUME, "return coupling")),
    port("logdet-of-the-scale-alone", LOGDET, "no Σ l", (VOLUME, "return 0 * coupling + affine")),
    port("logdet-has-the-other-sign", LOGDET, "as a loss wants it", (VOLUME, "return -(coupling + affine)")),
    port(
        "logdet-of-raw-scale",
        LOGDET,
        "Σ s for Σ log σ",
        (SUM_S, "affine = self.spec.N * self.global_scale.sum() * (not self.spec.gin_block)"),
    ),
    port(
        "logdet-with-epsilon", LOGDET, "log(σ + 10⁻³)", (SUM_S, "affine = self.spec.N * torch.log(sigma + 1e-3).sum()")
    ),
)
