"""Faults of what a block takes and refuses, of layouts, incoming gradients, devices, transforms. Edits of plain.py."""

from __future__ import annotations

from flowref.faults.fault import Fault, fault
from flowref.faults.source import Edit

HEAD = "class PlainBlock(nn.Module):"
CHECKED = "tensor, conditions = self.checked(x, c)"
ANSWER = "return (y,), logdet"
PASSED = "y, logdet = self.pass_reverse(tensor, conditions) if rev else self.pass_forward(tensor, conditions)"
DIMS = "            dims_in,\n            dims_c,\n            subnet_constructor,\n"
CLAMPING = "affine_clamping=affine_clamping,"
INIT = "global_affine_init=global_affine_init,"
REFLECTIONS = "learned_householder_permutation=learned_householder_permutation,"
NORMAL = "if not limits.tiny <= g <= limits.max:"
CONDITIONS = "c = [] if c is None else c"
ONE = "if not isinstance(x, (list, tuple)) or len(x) != 1 or not isinstance(x[0], Tensor):"
ALL = 'for name, tensor, dims in [("x", v, self.spec.dims), *zip(names(c), c, self.spec.dims_c, strict=True)]:'
SHAPE = "if tuple(tensor.shape) != (v.shape[0] if v.ndim else 0, *dims):"
SHAPE_SAID = "raise ValueError(f\"{name} must have the shape {('B', *dims)}, got {tuple(tensor.shape)}.\")"
DEVICE = "if tensor.device != self.global_scale.device:"
DTYPE = "if tensor.dtype != self.global_scale.dtype and not torch.is_autocast_enabled(tensor.device.type):"
ASKED = "a = self.answered(self.subnet(torch.cat([p, *c], dim=1)), p)"
ANSWERED = "if not isinstance(a, Tensor) or tuple(a.shape) != want:"
ANSWERED_SAID = 'raise ValueError(f"the subnet must answer with the shape {want}, got {shown(a)}.")'
ORTHOGONAL = "or not is_orthogonal(M):"
FORM = "            M = W if W.is_floating_point() else one_hot(W)\n"
LOADING = '        for name in ("w_perm", "w_perm_inv", "w_0"):\n'
PAIR = '        W, V = state_dict.get(prefix + "w_perm"), state_dict.get(prefix + "w_perm_inv")\n'
TRANSPOSE = "not torch.equal(W.transpose(0, 1), V)"
T = "t = factor * a[:, self.spec.A :]"
COUPLED = "return q * torch.exp(l) + t"
COUPLING_SUM = "coupling = l.sum(dim=tuple(range(1, l.ndim)))"
TOTAL = "return coupling + affine"
SCALED = '"""W (σ u + o), as documented W (σ u) + o."""\n        o = self.global_offset\n'


def dims(dims_in: str = "dims_in", dims_c: str = "dims_c", subnet: str = "subnet_constructor") -> Edit:
    """Other shapes or another subnet handed to the checks."""
    return DIMS, f"            {dims_in},\n            {dims_c},\n            {subnet},\n"


def entering(*lines: str) -> Edit:
    """Lines at the beginning of each pass, its arguments checked."""
    return CHECKED, "\n        ".join((CHECKED, *lines))


def function(name: str, *backward: str) -> Edit:
    """An autograd function that hands on a copy, with these lines as its backward of g; x is what it was given."""
    lines = "\n        ".join(("(x,) = ctx.saved_tensors", *backward))
    return HEAD, (
        f"class {name}(torch.autograd.Function):\n"
        "    generate_vmap_rule = True\n\n"
        "    @staticmethod\n    def forward(x: Tensor) -> Tensor:\n        return x.clone()\n\n"
        "    @staticmethod\n    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:\n"
        "        ctx.save_for_backward(*inputs)\n\n"
        f"    @staticmethod\n    def backward(ctx: Any, g: Tensor) -> Tensor:\n        {lines}\n\n\n{HEAD}"
    )


def coupling(l: str, decorated: str = "") -> tuple[Edit, Edit]:  # noqa: E741
    """The coupling of forward as an autograd function, whose backward takes exp of ``l``."""
    made = (
        "class Other(torch.autograd.Function):\n    generate_vmap_rule = True\n\n"
        "    @staticmethod\n    def forward(q: Tensor, l: Tensor, t: Tensor) -> Tensor:\n"
        "        return q * torch.exp(l) + t\n\n"
        "    @staticmethod\n    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:\n"
        "        ctx.save_for_backward(*inputs)\n\n"
        f"    @staticmethod\n{decorated}    def backward(ctx: Any, g: Tensor) -> Any:\n"
        f"        q, l, t = ctx.saved_tensors\n        g_q = g * torch.exp({l})\n"
        "        return g_q, g_q * q, g\n\n\n"
    )
    return (COUPLED, "return Other.apply(q, l, t)"), (HEAD, made + HEAD)


def contiguous(name: str) -> str:
    """What lies where a tensor begins, in contiguous order."""
    return f"{name}.as_strided({name}.shape, torch.empty({name}.shape).stride(), {name}.storage_offset())"


ROW = (
    "if 0 in g.stride():",
    "    n = min(g.numel(), g.untyped_storage().nbytes() // g.element_size())",
    "    row = torch.zeros(g.numel(), dtype=g.dtype)",
    "    row[:n] = g.as_strided((n,), (1,), 0)",
    "    g = row.reshape(g.shape)",
    "return g.clone()",
)
Y_THROUGH = "return (Other.apply(y),), logdet"
LOGDET_THROUGH = "return (y,), Other.apply(logdet)"

FAULTS: tuple[Fault, ...] = (
    # error: the constructor's arguments
    fault(
        "second-input-shape-ignored",
        "error.refused-arguments",
        "the first entry of dims_in is taken",
        dims("list(dims_in)[:1]"),
    ),
    fault(
        "shapes-rounded",
        "error.refused-arguments",
        "int() of every size",
        dims("[tuple(int(n) for n in d) for d in dims_in]"),
    ),
    fault(
        "axes-without-pixels-filled",
        "error.refused-arguments",
        "0 pixels count as 1",
        dims("[(d[0], *(max(1, n) for n in d[1:])) for d in dims_in]"),
    ),
    fault(
        "no-channels-taken-for-one",
        "error.refused-arguments",
        "C = 0 counts as 1",
        dims("[(d[0] or 1, *d[1:]) for d in dims_in]"),
    ),
    fault(
        "fourth-axis-folded",
        "error.refused-arguments",
        "rank 4 becomes rank 3",
        dims("[(*d[:3], math.prod(d[3:])) if len(d) > 4 else d for d in dims_in]"),
    ),
    fault(
        "only-the-first-condition-shape-checked",
        "error.refused-arguments",
        "others are given the input's spatial shape; blind: one condition",
        dims(dims_c="[(d[0], *dims_in[0][1:]) if k else d for k, d in enumerate(dims_c or ())]"),
    ),
    fault(
        "subnet-constructor-optional",
        "error.refused-arguments",
        "None makes a subnet that answers with its input",
        dims(subnet="subnet_constructor or nn.Identity"),
        ("assert subnet_constructor is not None  # the spec refuses None", "make = subnet_constructor or nn.Identity"),
        ("self.subnet = subnet_constructor(", "self.subnet = make("),
    ),
    fault(
        "unknown-activation-taken-for-exp",
        "error.refused-arguments",
        "the last branch takes all",
        (
            "global_affine_type=global_affine_type,",
            'global_affine_type=global_affine_type if global_affine_type in ("SIGMOID", "SOFTPLUS") else "EXP",',
        ),
    ),
    fault(
        "clamp-of-either-sign",
        "error.refused-arguments",
        "|α| for α",
        (CLAMPING, "affine_clamping=abs(affine_clamping) if affine_clamping is not None else None,"),
    ),
    fault(
        "infinite-clamp-capped",
        "error.refused-arguments",
        "min(α, 88)",
        (CLAMPING, "affine_clamping=min(affine_clamping, 88.0) if affine_clamping is not None else None,"),
    ),
    fault(
        "clamp-of-0-divided-by",
        "error.refused-arguments",
        "α = 0 is taken where the formula divides by it",
        (CLAMPING, "affine_clamping=affine_clamping or 1e-30,"),
        dialects=("freia-main",),
    ),
    fault(
        "scale-of-0-taken-for-unset",
        "error.refused-arguments",
        "`g or 1`",
        (INIT, "global_affine_init=global_affine_init or 1.0,"),
    ),
    fault(
        "sigmoid-scale-capped",
        "error.refused-arguments",
        "g of 10 and above counts as 9.99",
        (INIT, 'global_affine_init=min(g, 9.99) if global_affine_type == "SIGMOID" else g,'),
        ("        self.spec = BlockSpec", "        g = global_affine_init\n        self.spec = BlockSpec"),
    ),
    fault(
        "scale-beyond-the-dtype",
        "error.refused-arguments",
        "a g that is no normal number of float32 is taken",
        (NORMAL, "if False:"),
    ),
    fault(
        "negative-reflections-taken-for-none",
        "error.refused-arguments",
        "max(0, n)",
        (REFLECTIONS, "learned_householder_permutation=max(0, learned_householder_permutation),"),
    ),
    fault(
        "reflections-cut-to-a-whole-number",
        "error.refused-arguments",
        "int(n)",
        (REFLECTIONS, "learned_householder_permutation=int(learned_householder_permutation),"),
    ),
    fault(
        "arguments-refused-without-a-name",
        "error.named-arguments",
        "one message for all",
        (
            HEAD,
            "def spec_of(*arguments: Any, **flags: Any) -> BlockSpec:\n    try:\n"
            "        return BlockSpec.from_arguments(*arguments, **flags)\n"
            '    except IllegalArgument:\n        raise ValueError("an argument is illegal") from None\n\n\n' + HEAD,
        ),
        ("self.spec = BlockSpec.from_arguments(", "self.spec = spec_of("),
    ),
    fault(
        "scale-refused-as-a-number",
        "error.named-arguments",
        "a g that is no normal number of float32",
        ('"global_affine_init", g, f"is no normal', '"value", g, f"is no normal'),
    ),
    # error: inputs
    fault(
        "bare-tensor-taken-for-a-list",
        "error.refused-inputs",
        "of the shape (1, B, C, *S)",
        (ONE, "if len(x) != 1 or not isinstance(x[0], Tensor):"),
    ),
    fault(
        "second-input-ignored", "error.refused-inputs", "the first is taken", (ONE, ONE.replace("len(x) != 1", "not x"))
    ),
    fault(
        "pixels-of-the-input-unchecked",
        "error.refused-inputs",
        "batch and channels only",
        (
            SHAPE,
            'if tuple(tensor.shape)[:2] != (v.shape[0] if v.ndim else 0, *dims)[:2] or (name != "x" and '
            + SHAPE[3:-1]
            + "):",
        ),
    ),
    fault(
        "checks-left-to-torch",
        "error.refused-inputs",
        "a view of the right shape is asked for",
        (SHAPE_SAID, "tensor.view(v.shape[0] if v.ndim else 0, *dims)"),
    ),
    fault("input-on-another-device-unchecked", "error.refused-inputs", "torch stumbles on it", (DEVICE, "if False:")),
    fault("input-of-another-dtype-unchecked", "error.refused-inputs", "torch stumbles on it", (DTYPE, "if False:")),
    fault(
        "refusal-swallowed",
        "error.refused-inputs",
        "the checks' exception is caught",
        (
            CHECKED,
            "try:\n            "
            + CHECKED
            + "\n        except ValueError:\n            tensor, conditions = x[0], list(c or ())",
        ),
    ),
    fault(
        "input-checked-after-the-pass",
        "error.refused-inputs",
        "the subnet is called first",
        (CHECKED, "tensor, conditions = x[0], list(c or ())"),
        (ANSWER, "self.checked(x, c)\n        " + ANSWER),
    ),
    fault(
        "inputs-refused-by-assertion",
        "error.refused-inputs",
        "an AssertionError, absent under -O",
        (SHAPE_SAID, SHAPE_SAID.replace("ValueError", "AssertionError")),
    ),
    fault(
        "inputs-refused-without-a-name",
        "error.named-inputs",
        "one message for all",
        (
            'raise ValueError(f"x must be a list of one tensor',
            'raise ValueError("illegal input") if x is not None else ValueError(f"x must be a list of one tensor',
        ),
    ),
    # error: conditions
    fault(
        "conditions-of-an-unconditional-block-ignored",
        "error.refused-conditions",
        "blind: blocks with conditions",
        (CONDITIONS, "c = [] if c is None or not self.spec.dims_c else c"),
    ),
    fault(
        "only-the-sum-of-condition-channels-checked",
        "error.refused-conditions",
        "they are cut anew where the sum fits; blind: fewer than 2",
        (
            CONDITIONS,
            CONDITIONS + "\n        sizes = [d[0] for d in self.spec.dims_c]\n"
            "        alike = len({v.shape[:1] + v.shape[2:] for v in c}) == 1\n"
            "        if alike and sum(v.shape[1] for v in c) == sum(sizes):\n"
            "            c = list(torch.cat(list(c), dim=1).split(sizes, dim=1))",
        ),
    ),
    fault(
        "only-the-first-condition-checked",
        "error.refused-conditions",
        "blind: fewer than 2 conditions",
        (ALL, ALL.replace("zip(names(c), c, self.spec.dims_c, strict=True)", "zip(names(c)[:1], c, self.spec.dims_c)")),
    ),
    fault(
        "condition-of-one-sample-broadcast",
        "error.refused-conditions",
        "to all samples of the input",
        (CONDITIONS, CONDITIONS + "\n        c = [v.expand(len(x[0]), *v.shape[1:]) if len(v) == 1 else v for v in c]"),
    ),
    fault(
        "missing-conditions-are-zeros",
        "error.refused-conditions",
        "None for them",
        (CONDITIONS, "c = [x[0].new_zeros(len(x[0]), *d) for d in self.spec.dims_c] if c is None else c"),
    ),
    fault(
        "conditions-refused-without-a-name",
        "error.named-conditions",
        "their number",
        (
            'raise ValueError(f"c must be a list of {len(self.spec.dims_c)} conditions, got {shown(c)}.")',
            'raise ValueError("wrong arguments")',
        ),
    ),
    # error: answers
    fault(
        "answer-unchecked",
        "error.refused-answers",
        "what can be broadcast is",
        (ANSWERED, "if not isinstance(a, Tensor):"),
    ),
    fault(
        "only-the-channels-of-the-answer-checked",
        "error.refused-answers",
        "pooled answers are broadcast",
        (ANSWERED, "if not isinstance(a, Tensor) or a.shape[1] != want[1]:"),
    ),
    fault(
        "answer-broadcast-to-its-shape",
        "error.refused-answers",
        "sizes of 1 are expanded",
        (
            ANSWERED,
            "if a.ndim == len(want) and all(n in (1, m) for n, m in zip(a.shape, want, strict=True)):\n"
            "            a = a.expand(want)\n        " + ANSWERED,
        ),
    ),
    fault(
        "answer-reshaped",
        "error.refused-answers",
        "by torch, which refuses or finds a way",
        (ANSWERED_SAID, "a = a.reshape(want)"),
    ),
    fault(
        "answer-asked-for-again",
        "error.refused-answers",
        "a wrong one is given a second chance",
        (
            ASKED,
            "fed = torch.cat([p, *c], dim=1)\n        a = self.subnet(fed)\n"
            "        a = self.answered(a if a.shape[1] == self.spec.subnet_out else self.subnet(fed), p)",
        ),
    ),
    fault(
        "answers-refused-without-a-name",
        "error.named-answers",
        "no numbers",
        (ANSWERED_SAID, 'raise ValueError("wrong shape")'),
    ),
    # error: loaded states
    fault(
        "loaded-index-unchecked",
        "error.refused-states",
        "an index vector becomes a matrix whatever it holds",
        (
            LOADING,
            '        V = state_dict.get(prefix + "w_perm")\n'
            "        whole = V is not None and not V.is_floating_point()\n" + LOADING,
        ),
        (ORTHOGONAL, "or (W.is_floating_point() and not is_orthogonal(M)):"),
        (PAIR, PAIR + "        V = W.transpose(0, 1) if whole else V\n"),
    ),
    fault(
        "loaded-w-may-be-anything",
        "error.refused-states",
        "only w_0 is checked",
        (ORTHOGONAL, 'or (name == "w_0" and not is_orthogonal(M)):'),
    ),
    fault(
        "loaded-w0-may-be-anything",
        "error.refused-states",
        "only w_perm is checked; blind: no reflections",
        (ORTHOGONAL, 'or (name != "w_0" and not is_orthogonal(M)):'),
    ),
    fault(
        "loaded-inverse-may-be-anything",
        "error.refused-states",
        "an orthogonal matrix, but not the transpose",
        (TRANSPOSE, "W.shape != V.shape"),
    ),
    fault(
        "loaded-inverse-only-near-the-transpose",
        "error.refused-states",
        "within 10⁻⁴",
        (TRANSPOSE, "(W.transpose(0, 1) - V).abs().max() > 1e-4"),
    ),
    fault(
        "states-refused-without-a-name",
        "error.named-states",
        "which of the entries is left open",
        ('raise ValueError(f"{name} must be orthogonal', 'raise ValueError(f"a matrix must be orthogonal'),
    ),
    # error: what is legal
    fault(
        "conditions-must-be-a-list",
        "error.legal-neighbours-pass",
        "a tuple is refused",
        ("if not isinstance(c, (list, tuple)) or", "if not isinstance(c, list) or"),
    ),
    fault("rounded-w-refused", "error.legal-neighbours-pass", "10⁻⁴ for 1/64", ("<= 1 / 64)", "<= 1e-4)")),
    fault(
        "sigmoid-refuses-large-g",
        "error.legal-neighbours-pass",
        "from 9 on",
        (
            "        return 2 + math.log(g)",
            '        if g > 9:\n            raise ValueError(f"g={g} is too large.")\n        return 2 + math.log(g)',
        ),
    ),
    fault(
        "reverse-only-for-true",
        "error.rev-is-read-by-its-truth-value",
        "other true values run forward",
        (PASSED, PASSED.replace("if rev", "if rev is True")),
    ),
    fault(
        "reverse-only-for-one",
        "error.rev-is-read-by-its-truth-value",
        "other true values run forward",
        (PASSED, PASSED.replace("if rev", "if rev == 1")),
    ),
    fault(
        "reverse-unless-false",
        "error.rev-is-read-by-its-truth-value",
        "0 runs in reverse",
        (PASSED, PASSED.replace("if rev", "if rev is not False")),
    ),
    fault(
        "sign-from-a-power-of-rev",
        "error.rev-is-read-by-its-truth-value",
        "(−1)^rev; blind: True and False",
        (ANSWER, "return (y,), -logdet * (-1) ** rev if rev else logdet"),
    ),
    # condition
    fault(
        "condition-leaks-past-the-subnet",
        "condition.reaches-nothing-but-the-subnet",
        "2⁻⁸⁰ of it is added to the shift; shows at large conditions",
        (T, T + " + 2.0**-80 * sum(v.sum(dim=1, keepdim=True) for v in c)"),
    ),
    fault(
        "non-finite-conditions-refused",
        "condition.nan-stays-in-its-sample",
        "though other samples are finite",
        entering(
            "if not all(bool(v.isfinite().all()) for v in conditions):",
            '    raise ValueError("c must be finite.")',
        ),
    ),
    fault(
        "non-finite-condition-masks-the-batch",
        "condition.nan-stays-in-its-sample",
        "a condition that is not finite in one sample is 0 in all",
        entering("conditions = [v if bool(v.isfinite().all()) else torch.zeros_like(v) for v in conditions]"),
    ),
    # layout
    fault(
        "input-read-as-contiguous",
        "layout.strides-are-followed",
        "whatever its strides",
        entering(f"tensor = {contiguous('tensor')}"),
    ),
    fault(
        "conditions-read-as-contiguous",
        "layout.strides-are-followed",
        "whatever their strides; blind: no condition",
        entering(f"conditions = [{contiguous('v')} for v in conditions]"),
    ),
    fault(
        "channels-last-taken-for-contiguous",
        "layout.strides-are-followed",
        "rank 2 only",
        entering(
            "if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):",
            f"    tensor = {contiguous('tensor')}",
        ),
    ),
    fault(
        "samples-behind-the-storage-are-zero",
        "layout.strides-are-followed",
        "of an input that is expanded over the batch, the first is read",
        entering("if tensor.stride(0) == 0:", "    tensor = torch.cat([tensor[:1], 0 * tensor[1:]], dim=0)"),
    ),
    fault(
        "scale-read-as-contiguous",
        "layout.strides-of-the-state-are-followed",
        "whatever its strides; blind: a scale that lies as it was made",
        ("s = self.global_scale\n", f"s = self.global_scale\n        s = {contiguous('s')}\n"),
    ),
    fault(
        "saved-input-read-as-contiguous",
        "layout.strides-are-followed-in-backward",
        "what backward kept of the input",
        function("Other", f"return g + ({contiguous('x')} - x)"),
        entering("tensor = Other.apply(tensor)"),
    ),
    fault(
        "input-read-from-the-start-of-its-storage",
        "layout.nothing-outside-is-read",
        "its offset is ignored",
        entering("tensor = tensor.as_strided(tensor.shape, tensor.stride(), 0)"),
    ),
    fault(
        "reads-past-the-end-times-0",
        "layout.nothing-outside-is-read",
        "what lies behind is masked by a product; shows where it is not finite",
        entering(
            "end = tensor.storage_offset() + tensor.numel()",
            "if tensor.is_contiguous() and tensor.untyped_storage().nbytes() // tensor.element_size() > end:",
            "    tensor = tensor + 0 * tensor.as_strided((1,), (1,), end)",
        ),
    ),
    fault(
        "gin-logdet-not-written",
        "layout.every-element-is-written",
        "0 is hoped for",
        (TOTAL, "return l.new_empty(len(l)) if self.spec.gin_block else coupling + affine"),
    ),
    fault(
        "masked-sum-over-unwritten-memory",
        "layout.every-element-is-written",
        "padding is masked by a product; shows where it is not finite",
        (
            COUPLING_SUM,
            "wide = l.new_empty(len(l), l[:1].numel() + 3)\n        wide[:, :-3] = l.flatten(1)\n"
            "        mask = torch.arange(wide.shape[1], device=l.device) < wide.shape[1] - 3\n"
            "        coupling = (wide * mask).sum(1)",
        ),
    ),
    # gradient
    fault(
        "logdet-gradient-assumed-contiguous",
        "gradient.strides-of-incoming-gradients-are-followed",
        "read as if it were contiguous",
        function("Other", f"return {contiguous('g')}.clone()"),
        (ANSWER, LOGDET_THROUGH),
    ),
    fault(
        "gradient-read-from-the-start-of-its-storage",
        "gradient.strides-of-incoming-gradients-are-followed",
        "its offset is ignored",
        function("Other", "return g.as_strided(g.shape, g.stride(), 0).clone()"),
        (ANSWER, Y_THROUGH),
    ),
    fault(
        "expanded-gradient-read-as-a-row",
        "gradient.expanded-incoming-gradients-are-followed",
        "of stride 0, the gradient of the output",
        function("Other", *ROW),
        (ANSWER, Y_THROUGH),
    ),
    fault(
        "logdet-gradient-of-a-sum-read-as-a-row",
        "gradient.expanded-incoming-gradients-are-followed",
        "of stride 0, the gradient of the log-det",
        function("Other", *ROW),
        (ANSWER, LOGDET_THROUGH),
    ),
    fault(
        "offset-gradient-accumulated-twice",
        "gradient.accumulates-once",
        "what the call before left counts double",
        (
            ANSWER,
            "def again(g: Tensor) -> None:\n            if self.global_offset.grad is not None:\n"
            "                self.global_offset.grad *= 2\n\n"
            "        if y.requires_grad:\n            y.register_hook(again)\n        " + ANSWER,
        ),
    ),
    fault(
        "pass-clears-gradients",
        "gradient.accumulates-once",
        "what the call before left is lost",
        entering("self.global_scale.grad = None", "self.global_offset.grad = None"),
    ),
    fault(
        "frozen-scale-thawed",
        "gradient.frozen-stays-frozen",
        "by each pass",
        entering("self.global_scale.requires_grad_()"),
    ),
    fault(
        "input-made-to-need-a-gradient",
        "gradient.frozen-stays-frozen",
        "in place",
        entering("tensor.requires_grad_()"),
    ),
    fault(
        "graph-made-under-no-grad",
        "gradient.no-graph-under-no-grad",
        "gradients are switched on for the pass",
        (PASSED, "with torch.enable_grad():\n            " + PASSED),
    ),
    # device
    fault(
        "logdet-left-on-another-device",
        "device.results-are-where-inputs-are",
        "on meta here, on the host elsewhere",
        (ANSWER, 'return (y,), logdet.to("meta" if y.device.type == "cpu" else "cpu")'),
    ),
    fault(
        "pass-on-the-default-stream",
        "device.runs-on-the-current-stream",
        "CUDA only",
        (PASSED, "with torch.cuda.stream(torch.cuda.default_stream(tensor.device)):\n            " + PASSED),
    ),
    fault(
        "pass-waits-for-the-host",
        "device.replays-from-a-graph",
        "CUDA only: a number is read on the host",
        entering("assert tensor.sum().item() is not None"),
    ),
    fault(
        "pass-on-the-current-device",
        "device.follows-its-inputs-to-another-device",
        "two GPUs only: a constant is made on the current one",
        (ANSWER, 'return (y + torch.zeros(1, device="cuda"),), logdet'),
    ),
    # state
    fault(
        "clamping-of-1.9-by-default",
        "state.defaults-are-the-documented-ones",
        "whoever leaves the argument out gets another map",
        ("affine_clamping: float = 2.0,", "affine_clamping: float = 1.9,"),
    ),
    # compile
    fault(
        "compiled-pass-forgets-the-shift",
        "compile.compiled-equals-eager",
        "a branch of its own under compilation; forward",
        (COUPLED, "return q * torch.exp(l) + (0 * t if torch.compiler.is_compiling() else t)"),
    ),
    fault(
        "added-into-an-unbatched-tensor",
        "compile.mapped-over-samples",
        "in place, which vmap can't map",
        (
            TOTAL,
            "total = torch.zeros(len(coupling), dtype=coupling.dtype, device=coupling.device)\n"
            "        total += coupling\n        return total + affine",
        ),
    ),
    fault(
        "backward-adds-into-an-unbatched-tensor",
        "compile.jacrev-is-the-jacobian",
        "in place, which jacrev can't map",
        function("Other", "total = torch.zeros_like(x)", "total += g", "return total"),
        (ANSWER, Y_THROUGH),
    ),
    fault(
        "backward-differentiable-once",
        "compile.second-backward-is-right",
        "the coupling's, in forward",
        *coupling("l", decorated="    @torch.autograd.function.once_differentiable\n"),
    ),
    fault(
        "backward-cut-off-from-its-factors",
        "compile.second-backward-is-right",
        "exp(l) is detached in backward: first gradients are right",
        *coupling("l.detach()"),
    ),
    fault(
        "second-backward-takes-the-clamp-as-straight",
        "compile.second-backward-is-curved",
        "1 − tanh² is a number in backward: first gradients are right, and so is what exp(l) adds to second ones",
        (
            "T = torch.tanh(k)",
            "T = torch.tanh(k.detach())\n        T = T + (k - k.detach()) * (1 - T * T)",
        ),
    ),
    fault(
        "reverse-backward-cut-off-from-its-factors",
        "compile.second-backward-is-curved",
        "exp(−l) and q − t are numbers in the backward of a reverse pass: first gradients are right",
        (
            "return (q - t) * torch.exp(-l)",
            "E = torch.exp(-l.detach())\n        d = q - t\n        return d * E - d.detach() * E * (l - l.detach())",
        ),
    ),
)
