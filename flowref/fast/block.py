"""`AllInOneBlock`, fast form: one pass of docs/block.md in torch's own operators.

A pass holds nothing back: what it derives from the state (gather indices, the WY form of the reflections, σ) lives
in local variables, so every change of the state is seen by the next pass, and a pass inside a pass disturbs nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from flowref.fast import choice, eager, ops
from flowref.spec import BlockSpec, Dialect, IllegalArgument

# How far an element of WᵀW − I may lie from 0 in a matrix that is loaded: rounding to bfloat16 stays below.
ORTHOGONAL_WITHIN = 1 / 64
PLAIN = (Tensor, nn.Parameter)
# The same words for every block of a net, so that Python's filter shows them once.
INDEX_FROM_FREIA_MAIN = (
    "w_perm is an index vector, as FrEIA's main branch stores it, and is loaded into a block of dialect 'anomalib', "
    "where affine_clamping means something else: l = α tanh(k), not α tanh(k/α). Build the block with "
    'dialect="freia-main", unless the state was trained in this dialect.'
)

Base = nn.Module
if not TYPE_CHECKING:
    try:  # FrEIA's containers know a block that is already made by this class alone
        from FrEIA.modules import InvertibleModule as Base
    except Exception:  # it is not there, or not fit for what is installed beside it; nothing here needs it
        pass


class WrongShape(ValueError, RuntimeError):
    """An input or condition of another shape than the block was built for; FrEIA's users expect a RuntimeError."""


class AllInOneBlock(Base):
    """One invertible step of a normalizing flow: coupling, global affine, channel mixing.

        z      = W⁻¹ x  if reverse_permutation, else x;  p, q = its passive and active channels
        k, t   = coefficients of subnet(cat(p, *c));  l = clamp(k), less its mean per sample if gin_block
        y      = W (σ ⊙ cat(p, q ⊙ exp(l) + t) + o),  σ = Ψ(global_scale), or 1 if gin_block
        logdet = Σ l + N Σ log σ

    In the dialect `documented` the active channels come first, o is added after W, and k, t are not scaled by 0.1.

    Arguments are those of FrEIA and anomalib, checked by `BlockSpec` (IllegalArgument, a ValueError), and `dialect`,
    one of "anomalib", "freia-main", "documented"; it is not part of the state. Random initial values come from torch's
    CPU generator alone, whatever the default dtype and device.

    State: `global_scale`, `global_offset` (1, C, 1…), trained; without reflections the buffers `w_perm`, `w_perm_inv`,
    (C, C, 1…), or index vectors (C,) for a hard permutation in `freia-main`; with reflections the buffer `w_0` (C, C)
    and `vk_householder` (n, C), trained; `subnet.*`. W is held in buffers, so that neither `requires_grad_(True)` nor
    an optimizer or an average over parameters can touch it.
    """

    not_claimed: frozenset[str] = frozenset()
    kernels = staticmethod(choice.kernels)  # for the gate's report

    global_scale: nn.Parameter
    global_offset: nn.Parameter
    w_perm: Tensor
    w_perm_inv: Tensor
    w_0: Tensor
    vk_householder: nn.Parameter

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]] | None = None,
        subnet_constructor: Callable[[int, int], nn.Module] | None = None,
        affine_clamping: float = 2.0,
        gin_block: bool = False,
        global_affine_init: float = 1.0,
        global_affine_type: str = "SOFTPLUS",
        permute_soft: bool = False,
        learned_householder_permutation: int = 0,
        reverse_permutation: bool = False,
        *,
        dialect: Dialect | str = "anomalib",
    ) -> None:
        nn.Module.__init__(self)  # FrEIA's class only sets dims_in and dims_c besides, unchecked
        spec = BlockSpec.from_arguments(
            dims_in,
            dims_c,
            subnet_constructor,
            affine_clamping=affine_clamping,
            gin_block=gin_block,
            global_affine_init=global_affine_init,
            global_affine_type=global_affine_type,
            permute_soft=permute_soft,
            learned_householder_permutation=learned_householder_permutation,
            reverse_permutation=reverse_permutation,
            dialect=dialect,
        )
        self.spec = spec
        self.dialect = spec.dialect
        # As FrEIA's containers expect of a module.
        self.dims_in, self.dims_c = [spec.dims], list(spec.dims_c)

        C, ones = spec.C, (1,) * spec.rank
        dtype, device = torch.get_default_dtype(), torch.empty(0).device
        _check_clamping(spec, dtype)
        s = _initial_scale(spec, dtype)
        self.global_scale = nn.Parameter(torch.full((1, C, *ones), s, dtype=dtype, device=device))
        self.global_offset = nn.Parameter(torch.zeros((1, C, *ones), dtype=dtype, device=device))

        index = None if spec.permute_soft else ops.draw_index(C)
        n = spec.learned_householder_permutation
        if index is not None and not n and spec.dialect is Dialect.FREIA_MAIN:  # no matrix is made: C may be large
            self.register_buffer("w_perm", index.to(device))
            self.register_buffer("w_perm_inv", index.argsort().to(device))
        else:
            W = _own(ops.draw_rotation(C) if index is None else ops.matrix_of(index, torch.float64)).to(device, dtype)
            if n:
                self.register_buffer("w_0", W)
                vectors = 0.2 * torch.randn(n, C, dtype=torch.float64, device="cpu")
                self.vk_householder = nn.Parameter(vectors.to(device, dtype))
            else:
                self.register_buffer("w_perm", W.reshape(C, C, *ones))
                self.register_buffer("w_perm_inv", _own(W.mT).reshape(C, C, *ones))

        assert subnet_constructor is not None  # BlockSpec has refused all that can't be called
        subnet = subnet_constructor(spec.subnet_in, spec.subnet_out)
        if not isinstance(subnet, nn.Module):
            raise IllegalArgument(
                "subnet_constructor",
                subnet_constructor,
                f"gave {subnet!r:.80}",
                "a torch.nn.Module from (channels_in, channels_out)",
                "Return the module that it builds.",
            )
        self.subnet = subnet

    # ---- one pass

    def forward(
        self, x: Sequence[Tensor], c: Sequence[Tensor] | None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        """``((y,), logdet)`` of the pass, or of its inverse where `rev` is true.

        x: one tensor (B, C, *S) in a sequence; c: one tensor (B, C_k, *S) for each entry of dims_c. logdet: (B,), given
        whatever `jac` says. Raises TypeError, ValueError or RuntimeError before the subnet is called, or, where its
        answer has another shape than (B, 2A, *S), after its one call.

        float16 and bfloat16 are computed in float32 and rounded once, at the end. Under autocast only the subnet runs
        in the lower precision, and the results have the dtype of the parameters.
        """
        reverse = bool(rev)
        z, conditions = self._admit(x, c)
        given, owned = z.dtype, self.global_scale.dtype
        work = _work(owned)
        _check_clamping(self.spec, owned)  # anew: the block may have been built in another dtype

        state = self._state
        if any(v is not None and v.device != z.device for v in state):
            raise self._scattered(z.device)  # torch itself may read a meta tensor as if it had numbers
        fused = _kernels(state, (z, *conditions))
        if fused is not None:
            return fused.run(self.spec, state, z, conditions, self._ask, reverse)
        with _full_precision(z):
            formulas = eager.Formulas(self.spec, state, work)
            z = formulas.before(z.to(work), reverse)
            p, _ = formulas.split(z)
            # cat copies even a single tensor, so that a subnet that writes to its input reaches nobody else's.
            asked = torch.cat((p.to(given), *conditions), 1)

        answer = self._ask(asked)

        with _full_precision(z):
            y, logdet = formulas.behind(z, answer.to(work), reverse)
            return (y.to(owned),), logdet.to(owned)

    def output_dims(self, input_dims: Any) -> Any:
        """The shapes of the outputs: those of the inputs."""
        return input_dims

    def extra_repr(self) -> str:
        """What the block was asked to be."""
        return repr(self.spec)

    @property
    def _state(self) -> eager.State:
        """What a pass depends on besides its inputs, as it stands now."""
        if self.spec.learned_householder_permutation:
            there, back, vectors = self.w_0, self.w_0.mT, self.vk_householder
        else:
            there, back, vectors = self.w_perm, self.w_perm_inv, None
        return eager.State(self.global_scale, self.global_offset, there, back, vectors)

    # ---- what is refused

    def _admit(self, x: object, c: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The input and the conditions, each held against its own entry of dims_in and dims_c."""
        shapes = (self.spec.dims, *self.spec.dims_c)
        held = _tensors("x", x, shapes[:1]) + _tensors("c", () if c is None else c, shapes[1:])
        B = held[0].shape[0] if held[0].dim() else 0
        parameters = self.global_scale
        autocast = _autocasts(held[0])
        for k, (dims, tensor) in enumerate(zip(shapes, held, strict=True)):
            if tensor.shape != (B, *dims):
                wanted = _shown((B if k else "B", *dims))
                raise WrongShape(
                    f"{_name(k)} has shape {tuple(tensor.shape)}: expected {wanted}, batch axis first, then the shape "
                    f"that the block was built for. Give a tensor of that shape."
                )
            if tensor.device != parameters.device:
                raise RuntimeError(
                    f"{_name(k)} is on {tensor.device}: expected {parameters.device}, where the block's parameters "
                    f"are. Move the one or the other with .to()."
                )
            if not (tensor.is_floating_point() if autocast else tensor.dtype == parameters.dtype):
                raise TypeError(
                    f"{_name(k)} has dtype {tensor.dtype}: expected {parameters.dtype}, the parameters' dtype "
                    f"(under autocast another floating one may come). Convert the one or the other with .to()."
                )
        return held[0], tuple(held[1:])

    def _scattered(self, device: torch.device) -> RuntimeError:
        """What is wrong where not all of the block's tensors are on this device."""
        held = (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False))
        named = next((f"{name} is on {v.device}" for name, v in held if v.device != device), "a part is elsewhere")
        return RuntimeError(
            f"{named}: expected {device}, where the rest of the block is. Move the whole block with .to(), or load "
            f"what is still on meta."
        )

    def _ask(self, asked: Tensor) -> Tensor:
        """The subnet's answer, where it has the one shape that needs no broadcasting."""
        answer = self.subnet(asked)
        wanted = (asked.shape[0], self.spec.subnet_out, *self.spec.S)
        if not isinstance(answer, Tensor):
            raise TypeError(f"the subnet answered with {type(answer).__name__}: expected one tensor of shape {wanted}.")
        if tuple(answer.shape) != wanted:
            raise ValueError(
                f"the subnet answered with shape {tuple(answer.shape)}: expected {wanted}, {self.spec.A} channels each "
                f"for scaling and shift at every sample and pixel; nothing is broadcast. Build it with "
                f"subnet_constructor({self.spec.subnet_in}, {self.spec.subnet_out})."
            )
        if answer.device != asked.device or not answer.is_floating_point():
            raise RuntimeError(
                f"the subnet answered with {answer.dtype} on {answer.device}: expected a floating dtype on "
                f"{asked.device}, where its input was. Move the whole block with .to()."
            )
        return answer

    # ---- state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Takes W in either form, checked, and in the form that this block stores; then what every module does.

        Raises RuntimeError, before anything of this block is changed, for an index that is no permutation, a matrix
        with an element of WᵀW − I above 1/64, an inverse that is not the transpose.
        """
        names = ("w_0",) if self.spec.learned_householder_permutation else ("w_perm", "w_perm_inv")
        given = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        for name, value in given.items():
            self._check_mixing(prefix + name, value)
        if given and len(names) == 2:
            # Where only one of the two comes, the other stays, and must still be its inverse.
            W, inverse = (_as_matrix(given.get(name, getattr(self, name))) for name in names)
            if not (W.is_meta or inverse.is_meta) and not torch.equal(W.mT.cpu(), inverse.cpu()):
                alone = f" Only {prefix}{next(iter(given))} was given: give both." if len(given) == 1 else ""
                raise RuntimeError(
                    f"{prefix}w_perm_inv is not exactly the transpose of {prefix}w_perm: up to rounding of a stored W, "
                    f"W⁻¹ = Wᵀ, and both entries must say the same.{alone}"
                )
            index = any(not value.is_floating_point() for value in given.values())
            if index and self.dialect is Dialect.ANOMALIB and self.spec.affine_clamping != 1:
                warnings.warn(INDEX_FROM_FREIA_MAIN, UserWarning, stacklevel=2)
        # load_state_dict hands over a copy of the user's dict, but only since it must not be written to.
        state_dict = dict(state_dict)
        assign = bool((args[0] if args else kwargs["local_metadata"]).get("assign_to_params_buffers", False))
        scale = state_dict.get(prefix + "global_scale", self.global_scale) if assign else self.global_scale
        for name, value in self._stored_form(given, scale).items():
            state_dict[prefix + name] = value
            if getattr(self, name).shape != value.shape:
                dtype = self.global_scale.dtype if value.is_floating_point() else value.dtype
                setattr(self, name, torch.empty_like(value, dtype=dtype, device=self.global_scale.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_mixing(self, name: str, value: object) -> None:
        C = self.spec.C
        matrix = (C, C) if self.spec.learned_householder_permutation else (C, C) + (1,) * self.spec.rank
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
        if not isinstance(value, Tensor) or shape != ((C,) if whole else matrix):
            raise RuntimeError(
                f"{name} has shape {shape}: expected {matrix}, a floating matrix, or {(C,)}, an index vector of int64."
            )
        if value.is_meta:
            return
        if whole:
            if not ops.is_permutation(value):
                raise RuntimeError(
                    f"{name} is no permutation: expected each of 0 to {C - 1} once, got {value.tolist()!r:.80}."
                )
            return
        distance = ops.distance_from_orthogonal(value.detach().reshape(C, C))
        if not distance <= ORTHOGONAL_WITHIN:
            raise RuntimeError(
                f"{name} is not orthogonal: an element of WᵀW − I has magnitude {distance:.3g}, expected at most 1/64, "
                f"which rounding to bfloat16 stays below."
            )

    def _stored_form(self, given: dict[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        """The loaded W as this block stores it: index vectors for a hard permutation in freia-main, else matrices.

        A matrix that is no permutation stays one, also in a hard block. Each value has a storage of its own.
        """
        hard = not (self.spec.permute_soft or self.spec.learned_householder_permutation)
        indices = {name: _as_index(value) for name, value in given.items()}
        if hard and self.dialect is Dialect.FREIA_MAIN and all(index is not None for index in indices.values()):
            return {name: index for name, index in indices.items() if index is not None}
        ones = () if self.spec.learned_householder_permutation else (1,) * self.spec.rank
        return {
            name: (
                _own(value.detach())
                if value.is_floating_point()
                else ops.matrix_of(value, scale.dtype).reshape(self.spec.C, self.spec.C, *ones)
            )
            for name, value in given.items()
        }


def _work(dtype: torch.dtype) -> torch.dtype:
    """What is computed in where the parameters have this dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check_clamping(spec: BlockSpec, dtype: torch.dtype) -> None:
    """Raises IllegalArgument for an α with which l = α·0 would be NaN: l is made with the factor α/log 2 too."""
    most = torch.finfo(_work(dtype)).max / 2
    if spec.affine_clamping > most:
        raise IllegalArgument(
            "affine_clamping",
            spec.affine_clamping,
            f"is beyond {_work(dtype)}, which a pass computes in",
            f"at most {most:.3g}",
            "Use a smaller one, or a wider dtype.",
        )


def _initial_scale(spec: BlockSpec, dtype: torch.dtype) -> float:
    """The s with Ψ(s) = g. Raises IllegalArgument where Ψ(s), s rounded to dtype, is no normal number of dtype."""
    kind, g = spec.global_affine_type, spec.global_affine_init
    s = ops.initial_scale(kind, g)
    rounded = torch.tensor(s, dtype=torch.float64, device="cpu").to(dtype).double()
    reached, limits = float(ops.global_scale(kind, rounded)), torch.finfo(dtype)
    if not (limits.tiny <= reached <= limits.max and limits.tiny <= g <= limits.max):
        raise IllegalArgument(
            "global_affine_init",
            g,
            f"can't be reached by {kind} in {dtype}",
            f"a g for which Ψ(s) is a normal number, {limits.tiny:.3g} to {limits.max:.3g}, of a finite s",
            "Use a g nearer to 1, or a wider default dtype.",
        )
    return s


def _tensors(name: str, given: object, dims: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The tensors of a sequence that has one for each of dims."""
    if isinstance(given, (list, tuple)) and len(given) == len(dims) and all(isinstance(v, Tensor) for v in given):
        return list(given)
    wanted = f"a list or tuple of {len(dims)} tensors" + (
        f", of shapes {_shown([('B', *d) for d in dims])}" if dims else ""
    )
    if isinstance(given, Tensor):
        raise TypeError(
            f"{name} is a bare tensor of shape {tuple(given.shape)}: expected {wanted}. Put it into a list: [{name}]."
        )
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise TypeError(f"{name} is of type {type(given).__name__}: expected {wanted}.")
    if len(given) != len(dims):
        raise ValueError(f"{name} holds {len(given)} tensors: expected {wanted}.")
    for k, tensor in enumerate(given):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}[{k}] is of type {type(tensor).__name__}: expected {wanted}.")
    return list(given)


def _name(k: int) -> str:
    """Of the k-th of the input and the conditions, as the caller gave them."""
    return f"c[{k - 1}]" if k else "x[0]"


def _shown(shape: Sequence[Any]) -> str:
    """A shape, or a list of them, with B for the batch."""
    return str(tuple(shape) if not isinstance(shape, list) else shape).replace("'", "")


def _autocasts(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Keeps autocast away from all but the subnet."""
    return torch.autocast(x.device.type, enabled=False) if _autocasts(x) else nullcontext()


def _kernels(state: eager.State, given: Sequence[Tensor]) -> Any:
    """The module that runs a pass on these inputs with compiled kernels, or None where the eager form serves."""
    device = given[0].device.type
    if torch.compiler.is_compiling() or not len(given[0]):
        return None
    for v in (*given, *state):
        if v is not None and (type(v) not in PLAIN or v.layout is not torch.strided):
            return None
        if v is not None and v.dtype is not torch.int64 and (v.dtype is not torch.float32 or v.is_neg()):
            return None
        if v is not None and v._is_zerotensor():  # there is no memory behind it
            return None
    # W is no part of what the kernels differentiate by.
    if state.there.requires_grad or state.back.requires_grad or _transformed():
        return None
    if device == "cuda" and torch.cuda.is_current_stream_capturing():
        return None  # a graph can hold no wait for the device, and no kernel that is compiled or loaded meanwhile
    return choice.module(device)


def _transformed() -> bool:
    """Whether something looks at each operator of the pass, or replaces it: functorch, dual numbers, modes, tracing."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def _own(value: Tensor) -> Tensor:
    """A copy with a storage of its own in plain order, as copies of a block and checkpoint formats ask for."""
    return value.clone(memory_format=torch.contiguous_format)


def _as_matrix(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return ops.matrix_of(value, torch.float64)
    return value.detach().reshape(len(value), len(value)).double()


def _as_index(value: Tensor) -> Tensor | None:
    """The permutation that a loaded W holds, int64, or None."""
    if not value.is_floating_point():
        return value.detach().to(torch.int64, copy=True)
    return ops.one_hot_index(value.detach().reshape(len(value), len(value)))
