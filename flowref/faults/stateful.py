"""Faults of purity, state and randomness: what a pass changes or leaves behind. Edits of plain.py."""

from flowref.faults.fault import PUBLIC, Fault, fault
from flowref.faults.source import Edit

CHECKED = "tensor, conditions = self.checked(x, c)"
ANSWERED = "return (y,), logdet"
CHECKED_STATE = 'for name in ("w_perm", "w_perm_inv", "w_0"):'
SCALE_READ = "s = self.global_scale\n        if self.spec.gin_block:"
ASKED = "a = self.answered(self.subnet(torch.cat([p, *c], dim=1)), p)"
K = "k = factor * a[:, : self.spec.A]"
COUPLED = "return q * torch.exp(l) + t"
TOTAL = "return coupling + affine"
FORWARD = "p, q = self.split(z)\n        k, t = self.coefficients(p, c)"
REVERSE = '"""x and log-det: the inverse of the same map, in the opposite order."""\n        W, V = self.mixing()\n'
OFFSET_FORWARD = '"""W (σ u + o), as documented W (σ u) + o."""\n        o = self.global_offset\n'
OFFSET_REVERSE = '"""(V y − o) / σ, as documented V (y − o) / σ."""\n        o = self.global_offset\n'
UNSCALED = "return (self.mix(V, y) - o) / sigma"
UNSCALED_DOCUMENTED = "return self.mix(V, y - o) / sigma"
SCALE = "def scale(self) -> Tensor:"
MIXING = "def mixing(self) -> tuple[Tensor, Tensor]:"
STORED = "return self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)"
REFLECTED = "return W, W.T\n"
STARTED = "W = self.w_0\n"
MIXED = "return (M @ columns).reshape(x.shape)"
KEEP_W = 'self.register_buffer("w_perm", in_defaults(W).reshape(shape))'
KEEP_V = 'self.register_buffer("w_perm_inv", in_defaults(W.T).reshape(shape))'
KEEP_REFLECTIONS = "self.vk_householder = nn.Parameter(in_defaults(draw_reflections(n, C)))"
MADE = "self.subnet = subnet_constructor(self.spec.subnet_in, self.spec.subnet_out)"
LOADED = "super()._load_from_state_dict(state_dict, prefix, *rest)"
FORM = "M = W if W.is_floating_point() else one_hot(W)"
METHODS = "    # What is refused.\n"
HEAD = "class PlainBlock(nn.Module):"
INITIAL = "limits = torch.finfo(torch.get_default_dtype())"
PERMUTED = 'pi = torch.randperm(C, device="cpu")'
GAUSSIAN = 'torch.randn(C, C, dtype=torch.float64, device="cpu")'
REFLECTIONS = 'return 0.2 * torch.randn(n, C, dtype=torch.float64, device="cpu")'
DEFAULTS = "return torch.empty(a.shape).copy_(a)"


def entering(*lines: str) -> Edit:
    """Lines at the beginning of each pass, its arguments checked."""
    return CHECKED, "\n        ".join((CHECKED, *lines))


def leaving(*lines: str) -> Edit:
    """Lines at the end of each pass, y and logdet made."""
    return ANSWERED, "\n        ".join((*lines, ANSWERED))


def loading(*lines: str) -> Edit:
    """Lines at the beginning of each loading of a state."""
    return CHECKED_STATE, "\n        ".join((*lines, CHECKED_STATE))


def method(text: str) -> Edit:
    """One more method."""
    return METHODS, text + "\n\n" + METHODS


def cached(head: str, name: str, kept: str, when: str) -> Edit:
    """A method whose result is kept from the first call on, where ``when`` holds; ``head`` is its first line."""
    plain = head.replace("def ", "def computed_")
    inner = plain.removeprefix("def ").partition("(")[0]
    return head, (
        f"{head}\n"
        f"        if not ({when}):\n"
        f"            return self.{inner}()\n"
        f'        if not hasattr(self, "{name}"):\n'
        f"            made = self.{inner}()\n"
        f"            self.{name} = {kept}\n"
        f"        return self.{name}\n\n"
        f"    {plain}"
    )


BOTH_COPIED = "tuple(M.detach().clone() for M in made)"
# A hard permutation kept as an index vector; {0} is what is made of the index.
INDEXED = (
    (STORED, "return self.matrix(self.w_perm), self.matrix(self.w_perm_inv)"),
    method(
        "    def matrix(self, W: Tensor) -> Tensor:\n"
        "        M = W if W.is_floating_point() else one_hot(W).to(self.global_scale)\n"
        "        return M.reshape(self.spec.C, self.spec.C)"
    ),
    (
        "state_dict[prefix + name] = M.reshape(getattr(self, name).shape)",
        "held = getattr(self, name)\n            state_dict[prefix + name] = "
        "M.reshape(held.shape) if held.is_floating_point() else M.flatten(1).argmax(1)",
    ),
    ("if W is not None and V is not None and not", "if W is not None and V is not None and W.ndim > 1 and not"),
)


def indexed(made: str) -> tuple[Edit, ...]:
    """INDEXED, with what is made of an index i in ``made``."""
    one, other = made.replace("$", "W.argmax(1)"), made.replace("$", "W.T.argmax(1)")
    return (
        (
            KEEP_V,
            KEEP_V + "\n        if not self.spec.permute_soft:\n"
            "            del self.w_perm, self.w_perm_inv\n"
            f"            {one.replace('NAME', 'w_perm')}\n            {other.replace('NAME', 'w_perm_inv')}",
        ),
        *INDEXED,
    )


FAULTS: tuple[Fault, ...] = (
    # purity
    fault(
        "active-half-updated-in-place",
        "purity.inputs-keep-their-bits",
        "the active half is a view of x, and is scaled and shifted where it lies; blind: reverse_permutation",
        (COUPLED, "return q.mul_(torch.exp(l)).add_(t)"),
    ),
    fault(
        "conditions-cleared-after-use",
        "purity.inputs-keep-their-bits",
        "conditions are zeroed once the subnet was called",
        (ASKED, ASKED + "\n        for v in c:\n            v.detach().zero_()"),
    ),
    fault(
        "conditions-taken-out-of-their-list",
        "purity.lists-keep-their-tensors",
        "the caller's list of conditions is empty after the pass; blind: a list made for the call",
        (CHECKED, CHECKED + "\n        if isinstance(c, list):\n            c.clear()"),
    ),
    fault(
        "incoming-gradient-cleared",
        "purity.backward-changes-nothing",
        "the gradient that comes in by y is zeroed after use; blind: losses in which it is an intermediate value",
        leaving(
            "def spent(g: Tensor) -> Tensor:",
            "    kept = g.clone()",
            "    g.zero_()",
            "    return kept",
            "if y.requires_grad:",
            "    y.register_hook(spent)",
        ),
    ),
    fault(
        "input-takes-its-gradient",
        "purity.backward-changes-nothing",
        "the gradient by x is written into x's memory, past the version counter",
        entering(
            "if tensor.requires_grad:",
            "    tensor.register_hook(lambda g: (tensor.data.copy_(g), None)[1])",
        ),
    ),
    fault(
        "answer-overwritten-through-data",
        "purity.answer-keeps-its-bits",
        "the coefficients take the place of the answer that they were made from",
        (K, K + "\n        a.data[:, : self.spec.A] = k.detach()"),
    ),
    fault(
        "expanded-answer-refused",
        "purity.answer-keeps-its-bits",
        "an answer with stride 0 raises",
        (
            ASKED,
            ASKED + "\n        if any(step == 0 and size > 1 for step, size in zip(a.stride(), a.shape)):\n"
            '            raise RuntimeError("the answer must not be expanded")',
        ),
    ),
    fault(
        "subnet-input-cleared",
        "purity.answer-keeps-its-bits",
        "what the subnet was given is zeroed after the call, with an answer that is a view of it",
        (
            ASKED,
            "given = torch.cat([p, *c], dim=1)\n        a = self.answered(self.subnet(given), p)\n"
            "        given.data.zero_()",
        ),
    ),
    fault(
        "reflections-normalised-in-place",
        "purity.state-keeps-its-bits",
        "W is the same; blind: no reflections, vectors of length 1",
        (
            STARTED,
            STARTED + "        self.vk_householder.data /= self.vk_householder.data.norm(dim=1, keepdim=True)\n",
        ),
    ),
    fault(
        "passes-counted-in-the-state",
        "purity.state-keeps-its-bits",
        "the first pass registers a buffer",
        entering(
            'if "passes" not in self._buffers:',
            '    self.register_buffer("passes", torch.zeros(()))',
            "self.passes = self.passes + 1",
        ),
    ),
    fault(
        "grad-mode-switched-on",
        "purity.settings-stay",
        "blind: passes with gradients",
        entering("torch.set_grad_enabled(True)"),
    ),
    fault(
        "default-dtype-moved",
        "purity.settings-stay",
        "set to float64 and left there",
        entering("torch.set_default_dtype(torch.float64)"),
    ),
    fault(
        "threads-set",
        "purity.settings-stay",
        "the thread count is set to 2",
        entering("torch.set_num_threads(2)"),
    ),
    fault(
        "tf32-switched-on",
        "purity.settings-stay",
        "for the whole process",
        entering("torch.backends.cuda.matmul.allow_tf32 = True"),
    ),
    fault(
        "determinism-switched-on",
        "purity.settings-stay",
        "for the whole process",
        entering("torch.use_deterministic_algorithms(True)"),
    ),
    fault(
        "zero-log-det-is-kept",
        "purity.outputs-are-the-callers",
        "GIN answers the same zeros each time; blind: no GIN, reverse",
        (
            TOTAL,
            "if self.spec.gin_block:\n"
            '            if len(getattr(self, "zeros", ())) != len(l) or self.zeros.dtype != l.dtype:\n'
            "                self.zeros = l.new_zeros(len(l))\n"
            "            return self.zeros\n        " + TOTAL,
        ),
    ),
    fault(
        "output-is-a-kept-buffer",
        "purity.outputs-are-the-callers",
        "without gradients y is written into the buffer of the last pass",
        leaving(
            'room = getattr(self, "room", None)',
            "if not y.requires_grad:",
            "    self.room = room if room is not None and room.shape == y.shape else torch.empty_like(y)",
            "    y = self.room.copy_(y)",
        ),
    ),
    fault(
        "last-input-kept",
        "purity.nothing-stays-alive",
        "the block remembers x",
        entering("self.last = tensor"),
    ),
    fault(
        "log-dets-added-up",
        "purity.nothing-stays-alive",
        "a running sum with its graph: memory grows with every pass; blind: no gradients",
        leaving('self.sum = getattr(self, "sum", 0.0) + logdet.sum()'),
    ),
    fault(
        "w-kept-with-its-graph",
        "purity.nothing-stays-alive",
        "each pass adds its W to a list; blind: no reflections",
        (HEAD, "KEPT: list[Tensor] = []\n\n\n" + HEAD),
        (REFLECTED, "KEPT.append(W)\n        " + REFLECTED),
    ),
    fault(
        "first-reverse-divides",
        "purity.called-again-gives-the-same-bits",
        "later calls multiply by 1/σ, which rounds otherwise; blind: forward, GIN",
        (OFFSET_REVERSE, OFFSET_REVERSE + '        first, self.warm = not getattr(self, "warm", False), True\n'),
        (UNSCALED, "v = self.mix(V, y) - o\n        return v / sigma if first else v * (1 / sigma)"),
        (UNSCALED_DOCUMENTED, "v = self.mix(V, y - o)\n            return v / sigma if first else v * (1 / sigma)"),
    ),
    fault(
        "largest-batch-decides",
        "purity.called-again-gives-the-same-bits",
        "batches below the largest seen so far take another way that rounds otherwise; forward",
        (
            COUPLED,
            'self.most = max(getattr(self, "most", 0), len(q))\n'
            "        return q * torch.exp(l) + t if len(q) == self.most else q / torch.exp(-l) + t",
        ),
    ),
    fault(
        "active-half-handed-over-on-the-block",
        "purity.a-pass-inside-a-pass-is-harmless",
        "q waits on the block while the subnet runs; forward",
        (
            FORWARD,
            "p, self.q = self.split(z)\n        k, t = self.coefficients(p, c)\n        q, self.q = self.q, None",
        ),
    ),
    fault(
        "w-handed-over-on-the-block",
        "purity.a-pass-inside-a-pass-takes-no-gradient",
        "W waits on the block while the subnet runs, as in three public blocks; forward, reflections",
        (REFLECTED, "self.W = W\n        " + REFLECTED),
        ("y = self.affine_forward(W, sigma, u)", 'y = self.affine_forward(getattr(self, "W", W), sigma, u)'),
    ),
    fault(
        "w-kept-on-the-class",
        "purity.instances-do-not-know-of-each-other",
        "the block that was loaded last lends all others its W; blind: reflections, one block at a time",
        (
            LOADED,
            LOADED + '\n        type(self).lent = (getattr(self, "w_perm", None), getattr(self, "w_perm_inv", None))',
        ),
        (
            STORED,
            'W, V = getattr(type(self), "lent", (None, None))\n'
            "        if W is None or W.shape != self.w_perm.shape or W.dtype != self.w_perm.dtype:\n"
            "            W, V = self.w_perm, self.w_perm_inv\n"
            "        return W.reshape(C, C), V.reshape(C, C)",
        ),
    ),
    fault(
        "workspace-of-all-blocks",
        "purity.instances-do-not-know-of-each-other",
        "without gradients all blocks write y into one buffer of its shape",
        (HEAD, "ROOM: dict[Any, Tensor] = {}\n\n\n" + HEAD),
        leaving(
            "if not y.requires_grad:",
            "    y = ROOM.setdefault((y.shape, y.dtype, y.device), torch.empty_like(y)).copy_(y)",
        ),
    ),
    fault(
        "train-averages-for-eval",
        "purity.modes-alternate",
        "training keeps an average of y that evaluation adds; blind: one mode alone",
        leaving(
            "if self.training:",
            '    self.average = 0.9 * getattr(self, "average", 0.0) + 0.1 * float(y.detach().mean())',
            "else:",
            '    y = y + 1e-3 * getattr(self, "average", 0.0)',
        ),
    ),
    fault(
        "eval-forgets-the-offset",
        "purity.eval-computes-the-map",
        "in both directions; blind: training mode, offset 0",
        (OFFSET_FORWARD, OFFSET_FORWARD + "        o = o if self.training else torch.zeros_like(o)\n"),
        (OFFSET_REVERSE, OFFSET_REVERSE + "        o = o if self.training else torch.zeros_like(o)\n"),
    ),
    # state
    fault(
        "state-has-an-entry-more",
        "state.entries-are-the-documented-ones",
        "a counter in the state dict: no checkpoint of another block loads",
        (MADE, MADE + '\n        self.register_buffer("steps", torch.zeros(()))'),
    ),
    fault(
        "index-vector-is-int32",
        "state.entries-are-the-documented-ones",
        "hard permutations without reflections",
        *indexed('self.register_buffer("NAME", $.to(torch.int32))'),
    ),
    fault(
        "permutation-is-trained",
        "state.trains-what-is-documented",
        "W and its inverse are parameters with gradients; blind: reflections",
        (KEEP_W, "self.w_perm = nn.Parameter(in_defaults(W).reshape(shape))"),
        (KEEP_V, "self.w_perm_inv = nn.Parameter(in_defaults(W.T).reshape(shape))"),
    ),
    fault(
        "reflections-are-not-trained",
        "state.trains-what-is-documented",
        "vk_householder is a buffer",
        (KEEP_REFLECTIONS, 'self.register_buffer("vk_householder", in_defaults(draw_reflections(n, C)))'),
    ),
    fault(
        "state-dict-rounds-to-half",
        "state.state-dict-is-the-whole-state",
        "the scale is saved with 11 bits",
        method(
            "    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:\n"
            "        super()._save_to_state_dict(destination, prefix, keep_vars)\n"
            '        s = destination[prefix + "global_scale"]\n'
            '        destination[prefix + "global_scale"] = s.half().to(s.dtype)'
        ),
    ),
    fault(
        "inverse-saved-for-w",
        "state.state-dict-is-the-whole-state",
        "w_perm_inv is saved under both names; blind: reflections, permutations that are their own inverse",
        method(
            "    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:\n"
            "        super()._save_to_state_dict(destination, prefix, keep_vars)\n"
            '        if "w_perm" in self._buffers:\n'
            '            destination[prefix + "w_perm"] = destination[prefix + "w_perm_inv"]'
        ),
    ),
    fault(
        "w-cached-at-first-pass",
        "state.changes-are-seen",
        "a stored W and its inverse; blind: reflections, one state a block",
        cached(MIXING, "mixed", BOTH_COPIED, "not self.spec.learned_householder_permutation"),
    ),
    fault(
        "scale-cached-at-first-pass",
        "state.changes-are-seen",
        "σ of the first pass without gradients; blind: GIN",
        cached(SCALE, "kept_scale", "made", "not torch.is_grad_enabled()"),
    ),
    fault(
        "inverse-cached-at-first-reverse",
        "state.changes-are-seen",
        "W⁻¹ of the first reverse pass; blind: reflections, forward",
        (
            REVERSE,
            REVERSE + "        if not self.spec.learned_householder_permutation:\n"
            '            self.inverse = getattr(self, "inverse", V.clone())\n'
            "            V = self.inverse\n",
        ),
    ),
    fault(
        "w-cached-until-loading",
        "state.changes-are-seen",
        "load_state_dict drops what was kept, a change in place does not",
        cached(MIXING, "mixed", BOTH_COPIED, "not self.spec.learned_householder_permutation"),
        (LOADED, LOADED + '\n        self.__dict__.pop("mixed", None)'),
    ),
    fault(
        "scale-cached-by-version",
        "state.changes-are-seen",
        "σ is computed anew where the parameter's version counter has moved, which .data does not do; no gradients",
        cached(SCALE, "kept_scale", "made", "not torch.is_grad_enabled() and self.unchanged()"),
        method(
            "    def unchanged(self) -> bool:\n"
            "        version, self.version = getattr(self, 'version', None), self.global_scale._version\n"
            "        if version != self.version:\n"
            '            self.__dict__.pop("kept_scale", None)\n'
            "        return True"
        ),
    ),
    fault(
        "offset-copied-when-loaded",
        "state.changes-are-seen",
        "without gradients forward adds the offset that was loaded last",
        (LOADED, LOADED + "\n        self.o = self.global_offset.detach().clone()"),
        (OFFSET_FORWARD, OFFSET_FORWARD + '        o = o if torch.is_grad_enabled() else getattr(self, "o", o)\n'),
    ),
    fault(
        "eval-keeps-w",
        "state.changes-are-seen",
        "the first pass in eval mode computes W for all that follow",
        cached(MIXING, "mixed", BOTH_COPIED, "not self.training"),
    ),
    fault(
        "parameters-kept-in-a-list",
        "state.changes-are-seen",
        "σ is of the parameter that the constructor made, which loading with assign=True replaces",
        (MADE, MADE + "\n        self.kept = [self.global_scale]"),
        (SCALE_READ, SCALE_READ.replace("self.global_scale", "self.kept[0]")),
    ),
    fault(
        "missing-scale-starts-anew",
        "state.a-part-loads-alone",
        "a part of a state without the scale sets it to 0",
        loading('if prefix + "global_scale" not in state_dict:', "    self.global_scale.data.zero_()"),
    ),
    fault(
        "offset-is-loaded-with-the-scale-alone",
        "state.a-part-loads-alone",
        "and is ignored without; strict loads are right",
        loading('if prefix + "global_scale" not in state_dict:', '    state_dict.pop(prefix + "global_offset", None)'),
    ),
    fault(
        "missing-entries-are-filled-in",
        "state.missing-entries-are-told",
        "with what the block holds",
        loading(
            "for name, v in (*self._parameters.items(), *self._buffers.items()):",
            "    state_dict.setdefault(prefix + name, v.detach().clone())",
        ),
    ),
    fault(
        "constants-outside-of-the-state",
        "state.emptied-and-loaded-is-the-same",
        "the factor of the coefficients is a buffer that is not saved; blind: documented",
        (
            MADE,
            MADE + '\n        self.register_buffer("tenth", torch.tensor(0.1, dtype=torch.float64), persistent=False)',
        ),
        (
            "factor = 1.0 if self.spec.dialect is Dialect.DOCUMENTED else 0.1",
            "factor = 1.0 if self.spec.dialect is Dialect.DOCUMENTED else self.tenth",
        ),
        dialects=PUBLIC,
    ),
    fault(
        "parameters-kept-when-loaded",
        "state.functional-call-takes-the-state-given",
        "σ is of the parameter that is there behind the last loading, with assign=True too",
        (MADE, MADE + "\n        self.kept = [self.global_scale]"),
        (LOADED, LOADED + "\n        self.kept = [self.global_scale]"),
        (SCALE_READ, SCALE_READ.replace("self.global_scale", "self.kept[0]")),
    ),
    fault(
        "w-left-on-the-block-with-its-graph",
        "state.deepcopy-works",
        "a tensor with a graph can't be copied, as in three public blocks; blind: no reflections, no gradients",
        (REFLECTED, "self.W = W\n        " + REFLECTED),
    ),
    fault(
        "copies-share-their-buffers",
        "state.copies-share-nothing",
        "a deep copy goes on with the original's W",
        ("import math\n", "import copy\nimport math\n"),
        method(
            "    def __deepcopy__(self, memo: dict[int, Any]) -> Any:\n"
            "        memo.update({id(v): v for v in self.buffers()})\n"
            "        memo[id(self)] = new = self.__class__.__new__(self.__class__)\n"
            "        new.__dict__.update(copy.deepcopy(self.__dict__, memo))\n"
            "        return new"
        ),
    ),
    fault(
        "activation-is-a-local-function",
        "state.pickle-works",
        "kept on the block, as in a public one",
        (MADE, MADE + "\n        self.activation = lambda s: torch.exp(s)"),
    ),
    fault(
        "inverse-is-not-contiguous",
        "state.safetensors-keeps-the-state",
        "w_perm_inv is a transposed copy",
        (KEEP_V, 'self.register_buffer("w_perm_inv", in_defaults(W).T.reshape(shape))'),
    ),
    fault(
        "inverse-is-a-view",
        "state.entries-share-no-memory",
        "w_perm_inv is w_perm transposed, in the same memory",
        (KEEP_V, 'self.register_buffer("w_perm_inv", self.w_perm.transpose(0, 1))'),
    ),
    fault(
        "w-is-a-frozen-parameter",
        "state.training-keeps-w-orthogonal",
        "a parameter without gradient, until requires_grad_(True); blind: reflections",
        (KEEP_W, "self.w_perm = nn.Parameter(in_defaults(W).reshape(shape), requires_grad=False)"),
        (KEEP_V, "self.w_perm_inv = nn.Parameter(in_defaults(W.T).reshape(shape), requires_grad=False)"),
    ),
    fault(
        "index-vectors-are-parameters",
        "state.averaging-keeps-w-orthogonal",
        "an average of whole numbers is cut off; hard permutations without reflections",
        *indexed("self.NAME = nn.Parameter($, requires_grad=False)"),
    ),
    fault(
        "identity-kept-in-its-first-dtype",
        "state.float64-and-back-changes-nothing",
        "a helper made in the first pass is not converted with the block",
        (
            MIXED,
            'self.identity = getattr(self, "identity", torch.eye(self.spec.C).to(M))\n'
            "        return ((M @ self.identity) @ columns).reshape(x.shape)",
        ),
    ),
    fault(
        "index-vectors-refused",
        "state.either-form-of-w-loads",
        "the loader takes matrices alone",
        (
            FORM,
            "if not W.is_floating_point():\n"
            '                raise ValueError(f"{name} must be a matrix.")\n            M = W',
        ),
    ),
    fault(
        "soft-w-refused-by-a-hard-block",
        "state.hard-block-loads-a-soft-w",
        "the loader of a hard block takes permutations alone",
        (
            FORM,
            FORM + "\n            if not self.spec.permute_soft and not ((M == 0) | (M == 1)).all():\n"
            '                raise ValueError(f"{name} must be a permutation.")',
        ),
    ),
    # random
    fault(
        "permutation-drawn-from-numpy",
        "random.manual-seed-reproduces-a-block",
        "as in public blocks",
        (PERMUTED, "import numpy\n\n    pi = torch.from_numpy(numpy.random.permutation(C))"),
    ),
    fault(
        "rotation-drawn-from-numpy",
        "random.manual-seed-reproduces-a-block",
        "as in public blocks, through scipy",
        (GAUSSIAN, '__import__("torch").from_numpy(__import__("numpy").random.standard_normal((C, C)))'),
    ),
    fault(
        "reflections-drawn-from-python",
        "random.manual-seed-reproduces-a-block",
        "W₀ is drawn from torch's generator, the reflections are not",
        (
            REFLECTIONS,
            "from random import gauss\n\n"
            "    return torch.tensor([[gauss(0, 0.2) for _ in range(C)] for _ in range(n)]).double()",
        ),
    ),
    fault(
        "construction-reseeds-numpy",
        "random.construction-moves-torchs-generator-alone",
        "from entropy, so that nothing after it can be reproduced",
        (INITIAL, "import numpy\n\n    numpy.random.seed()\n    " + INITIAL),
    ),
    fault(
        "construction-shuffles-by-python",
        "random.construction-moves-torchs-generator-alone",
        "a draw that decides nothing",
        (INITIAL, "import random\n\n    random.random()\n    " + INITIAL),
    ),
    fault(
        "pass-draws-noise",
        "random.pass-draws-nothing",
        "from torch's generator, and does not use it",
        entering("torch.rand(())"),
    ),
    fault(
        "pass-draws-from-numpy",
        "random.pass-draws-nothing",
        "and does not use it",
        entering("__import__('numpy').random.rand()"),
    ),
    fault(
        "w-always-in-float32",
        "random.follows-the-default-dtype",
        "whatever the default dtype",
        (DEFAULTS, "return torch.empty(a.shape, dtype=torch.float32).copy_(a)"),
    ),
    fault(
        "w-always-on-the-cpu",
        "random.follows-the-default-device",
        "whatever the default device",
        (DEFAULTS, 'return torch.empty(a.shape, device="cpu").copy_(a)'),
    ),
)
