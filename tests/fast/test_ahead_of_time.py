"""Triton's kernels compiled for real GPUs, none of which is here: as a launch would compile them, and what came out."""

import re
import subprocess

import pytest
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flowref.fast import AllInOneBlock, device, kernels, ops, triton_kernels

ARCHITECTURES = (80, 90, 100)
PASSES = {  # input, flags
    "vectors": ((64, 512), {"global_affine_type": "SIGMOID"}),
    "soft": ((64, 512), {"permute_soft": True}),
    "images": ((2, 64, 32, 32), {"reverse_permutation": True, "dialect": "documented"}),
    "gin": ((2, 64, 64, 64), {"gin_block": True, "dialect": "freia-main"}),
    "large": ((2, 64, 64, 64), {"global_affine_type": "EXP", "dialect": "freia-main"}),
}
# Those that stream: how often, at least, a thread loads and stores 16 bytes at once, where rows are contiguous: not in
# vectors that a permutation reads or writes channel by channel.
STREAMS = {"ask": (1, 1), "ask_back": (2, 1), "log_sums": (1, 0), "couple": (4, 2), "by_log_sums": (3, 0)}
STREAMS["couple_back"] = (6, 4)


class Halves(nn.Module):
    def __init__(self, n, m):
        super().__init__()
        self.half = m // 2

    def forward(self, v):
        return torch.cat((v[:, : self.half], v[:, : self.half]), 1)


def signature(kernel, given, constants):
    """What a launch with these arguments is compiled for: 1 and None are constants, multiples of 16 are known to be."""
    types, fixed, known = {}, {}, {}
    for k, name in enumerate(kernel.arg_names):
        value = constants[name] if name in constants else given[k]
        whole = isinstance(value, int) and not isinstance(value, bool)
        special = not kernel.params[k].do_not_specialize
        if name in constants or value is None or (special and whole and value == 1):
            types[name], fixed[(k,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            types[name] = {torch.float32: "*fp32", torch.int64: "*i64"}[value.dtype]
            value = value.data_ptr()
        else:
            types[name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
        if special and isinstance(value, int) and value % 16 == 0:
            known[(k,)] = [["tt.divisibility", 16]]
    return types, fixed, known


@pytest.fixture(scope="module")
def launches():
    """Each kernel's launches, as signatures, of passes and their gradients in both directions; nothing is run."""
    found = {}

    def noted(kernel, programs, there, given, **constants):
        types, fixed, known = signature(kernel, given, constants)
        key = str((types, fixed, known))
        found.setdefault(kernel.__name__, {})[key] = (kernel, types, fixed, known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_launch", noted)
        patch.setattr(ops, "is_permutation", lambda index: True)  # of what no kernel has found
        for shape, flags in PASSES.values():
            made = AllInOneBlock([shape[1:]], None, Halves, **flags)
            for reverse in (False, True):
                x = torch.randn(shape, requires_grad=True)
                (y,), logdet = device.run(made.spec, made._state, x, (), made._ask, reverse)
                torch.autograd.backward((y, logdet), (torch.ones_like(y), torch.ones_like(logdet)))
        device.product(torch.randn(2, 64, 64), torch.randn(2, 64, 64))
    return found


def test_on_cuda_triton_serves_and_on_the_cpu_only_interpreted(monkeypatch):
    assert not device.INTERPRETED
    monkeypatch.delenv("FLOWREF_FAST", raising=False)
    assert (kernels("cuda"), kernels("cuda:1", torch.float32), kernels("cuda", "float64")) == (
        "triton",
        "triton",
        "eager",
    )
    monkeypatch.setenv("FLOWREF_FAST", "triton")
    assert (kernels("cuda"), kernels("cpu"), kernels("mps")) == ("triton", "eager", "eager")
    monkeypatch.setenv("FLOWREF_FAST", "numba")
    assert kernels("cuda") == "eager"


NAMES = [
    "ask", "ask_back", "by_log_sums", "close_affine", "close_logdet", "couple", "couple_back", "find_permutation",
    "invert_permutation", "log_sums", "product",
]  # fmt: skip


def test_every_kernel_is_launched_by_some_pass(launches):
    of_the_module = {
        name
        for name, value in vars(triton_kernels).items()
        if isinstance(value, triton.JITFunction) and "constexpr" in str(value.signature) and "program_id" in value.src
    }

    assert sorted(launches) == NAMES
    assert of_the_module - set(launches) == {"functions"}  # for tests


def compiled(launch, architecture, tmp_path):
    """PTX, and what a program uses, as the wheel's tool reads it off the binary."""
    kernel, types, fixed, known = launch
    source = ASTSource(fn=kernel, signature=types, constexprs=fixed, attrs=known)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": device.WARPS})
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(made.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return made.asm["ptx"], {key: int(number) for key, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled(launches, monkeypatch, tmp_path, architecture, name):
    """No TF32, nothing flushed or approximated, no spills, registers for two programs a processor, 16-byte accesses.

    Every launch for one architecture, one of images for the others.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = sorted(launches[name].values(), key=lambda launch: 1 in launch[2].values())
    for launch in found if architecture == 90 else found[:1]:
        kernel, types, fixed, _ = launch
        ptx, used = compiled(launch, architecture, tmp_path)

        assert not re.findall(r"mma|tf32|\.ftz|\.approx|\.full", ptx)
        assert (used["STACK"], used["LOCAL"]) == (0, 0)
        assert used["REG"] * 32 * device.WARPS <= 65536 / 2
        ones = {kernel.arg_names[k] for (k,), value in fixed.items() if value == 1}
        if name in STREAMS and ("N" not in ones or "*i64" not in types.values()):
            loads, stores = (len(re.findall(rf"{op}\.global[\w.:]*\.v4", ptx)) for op in ("ld", "st"))
            assert loads >= STREAMS[name][0] and stores >= STREAMS[name][1], (loads, stores, types, fixed)
