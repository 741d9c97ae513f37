"""A pass runs where its inputs are, on the stream that is current there. Most of this has a meaning on CUDA only."""

import torch

from flowref.laws.logdet import scale_of
from flowref.laws.registry import law
from flowref.laws.run import Answer, Run

SMALL = {"max_CN": 64, "max_B": 5}


def _is_right(run: Run, got: Answer, what: str) -> None:
    run.near(run.want.out, got.y, f"the output {what}")
    run.near(run.want.logdet, got.logdet, f"the log-det {what}", scale=scale_of(run))


@law(
    "y and logdet are on the device of x",
    broken_by="logdet-left-on-another-device",
    regimes=("rank-0", "rank-2", "gin", "reflections-1"),
    fix=SMALL,
    precisions=("float32",),
    devices=("cpu", "cuda", "cuda:1"),
    rows=40,
)
def results_are_where_inputs_are(run: Run) -> None:
    """Results are on the input's device.

    Bound: none.
    Sees: a constant, or a result, made on the default device or left on the host.
    Blind to: values.
    Spec: 6. Since: 0.2.
    """
    x = run.inputs[0]
    run.equal((x.device, x.device), (run.answer.y.device, run.answer.logdet.device), "devices of output and log-det")


@law(
    "f(x) on a stream that x is still being written on",
    broken_by="pass-on-the-default-stream",
    fix=SMALL,
    precisions=("float32",),
    devices=("cuda",),
    rows=4,
)
def runs_on_the_current_stream(run: Run) -> None:
    """A pass runs on the current stream, after what was queued there before.

    Bound: the error of the pass.
    Sees: kernels on the default stream or one of their own, which read the input before it is there.
    Blind to: what happens within one stream.
    Spec: 6. Since: 0.2.
    """
    x, c = run.inputs
    run.go(x, c)  # what is compiled at the first call is compiled now
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.full_like(x, torch.nan)
        torch.cuda._sleep(20_000_000)
        late.copy_(x)
        got = run.go(late, c)
    stream.synchronize()
    _is_right(run, got, "on a stream of its own")


@law(
    "a captured pass, replayed on other values, answers for these",
    broken_by="pass-waits-for-the-host",
    fix=SMALL,
    precisions=("float32",),
    devices=("cuda",),
    rows=4,
)
def replays_from_a_graph(run: Run) -> None:
    """A pass can be captured in a CUDA graph, and its replay follows the values in the captured input.

    Bound: the error of the pass.
    Sees: a number that is read on the host, memory that does not last, a value fixed when it was captured.
    Blind to: graphs of several passes.
    Spec: 6. Since: 0.2.
    """
    x, c = run.inputs
    given, stream = torch.ones_like(x), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        run.go(given, c)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()

    def captured() -> Answer:
        with torch.no_grad(), torch.cuda.graph(graph):
            return run.go(given, c)

    got = run.ask("capturing a pass", captured)
    given.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    _is_right(run, got, "of a replay")


@law(
    "f on cuda:1 while cuda:0 is current",
    broken_by="pass-on-the-current-device",
    fix=SMALL,
    precisions=("float32",),
    devices=("cuda:1",),
    rows=4,
)
def follows_its_inputs_to_another_device(run: Run) -> None:
    """A pass runs on the device of its inputs, whichever is current.

    Bound: the error of the pass.
    Sees: kernels that are launched on the current device.
    Blind to: machines with one device.
    Spec: 6. Since: 0.2.
    """
    with torch.cuda.device(0):
        got = run.go()
    torch.cuda.synchronize(run.device)
    _is_right(run, got, "on the device that is not current")
