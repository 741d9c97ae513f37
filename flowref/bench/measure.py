"""What is measured of a kind of block at one size: time, bytes kept for backward, memory, and limits beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from flowref.bench.contenders import Contender, form_of
from flowref.bench.flow import Flow, Inputs, forget
from flowref.bench.limits import limits
from flowref.bench.presets import Size
from flowref.bench.results import Cell
from flowref.bench.timing import Job, Timer, Within, interleaved


@dataclass(frozen=True)
class How:
    """What is the same in all cells. condition: its channels, or 0. decoder: 8 blocks with their real subnets."""

    device: str
    timer: Timer
    rounds: int
    seconds: float
    condition: int = 0
    decoder: bool = False


def cell(
    contenders: Sequence[Contender], kind: str, what: str, series: str, size: Size, how: How, tick: Callable[[], None]
) -> Cell:
    """Everything about one kind, pass and size."""
    torch.compiler.reset()  # else what was compiled for other sizes counts against its limit
    inputs = Inputs.of(size, how.condition, how.device)
    made: dict[str, tuple[Flow, Job]] = {}

    def make(one: Contender) -> Job:
        flow = Flow(one.target(), kind, size, how.condition, how.decoder, how.device, one.compiled)
        made[one.name] = flow, job(flow, inputs, what, partial(form_of, one))
        return made[one.name][1]

    bounds = limits(kind, what, inputs, how.decoder)
    jobs = {one.name: partial(make, one) for one in contenders} | {
        n: partial(lambda b: b, b) for n, b in bounds.items()
    }
    times = interleaved(jobs, how.rounds, how.seconds, how.timer, tick)
    held, most = dict[str, float](), dict[str, float]()
    for name in [name for name in times.rounds if name in made and what == "backward"]:
        flow, run = made[name]
        with times.guard(name), run.within():
            held[name] = saved(flow, inputs)
            if how.device == "cuda":
                most[name] = peak(run, inputs.x)
    own, beside = ({n: r for n, r in times.rounds.items() if (n in bounds) is limit} for limit in (False, True))
    return Cell(kind, what, series, str(size), size.numbers, own, beside, times.first, held, most, times.failed)


def job(flow: Flow, inputs: Inputs, what: str, within: Within) -> Job:
    """A pass: forward or inverse without gradients; backward is forward, then backward from given gradients."""
    if what != "backward":

        def once() -> None:
            with torch.no_grad():
                flow.run(inputs.x, inputs.c, what == "inverse")

        return Job(once, within=within)
    x = inputs.x.clone().requires_grad_()
    leaves = [x, *(v for v in flow.state if v.requires_grad)]

    def both() -> None:
        y, logdet = flow.run(x, inputs.c, False)
        torch.autograd.backward([y, logdet], [inputs.g, inputs.j])

    return Job(both, lambda: forget(leaves), within)


def saved(flow: Flow, inputs: Inputs) -> float:
    """Bytes that the graph of a forward pass holds for backward, without input, conditions and state, ÷ bytes of x."""
    x = inputs.x.clone().requires_grad_()
    given = {v.untyped_storage().data_ptr() for v in (x, *inputs.c, *flow.state)}
    held: dict[int, int] = {}

    def pack(v: Tensor) -> Tensor:
        storage = v.untyped_storage()
        if storage.data_ptr() not in given:
            held[storage.data_ptr()] = storage.nbytes()
        return v

    with saved_tensors_hooks(pack, lambda v: v):
        answer = flow.run(x, inputs.c, False)  # kept, so that no storage is freed and counted as another
    total = sum(held.values())
    del answer
    return total / x.untyped_storage().nbytes()


def peak(run: Job, x: Tensor) -> float:
    """The most memory that a pass has taken on a CUDA device, above what was taken before, ÷ bytes of x."""
    before = torch.cuda.memory_allocated(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    run.run()
    torch.cuda.synchronize(x.device)
    found = torch.cuda.max_memory_allocated(x.device) - before
    run.clean()
    return found / x.untyped_storage().nbytes()
