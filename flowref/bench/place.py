"""Where a run happens: what its times depend on, how many threads it has, and that it is alive."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 5.0  # seconds between lines, where no bar is shown

Tick = Callable[[str], None]


def processor(device: str) -> str:
    """The name of the processor, or of the CUDA device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str:
    """The installed version, "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def load() -> float:
    """Processes that ran or waited to run, averaged over the last minute."""
    return os.getloadavg()[0]


def without_tf32() -> None:
    """float32 products with all their bits, here and in the gate's processes; a device's libraries may drop 13."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


@contextmanager
def shown(console: Console, total: int) -> Iterator[Tick]:
    """Call it a step, with what is done next: a bar on a terminal, else a line every few seconds."""
    if console.is_terminal:
        columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda text: progress.update(task, advance=1, description=text)
        return
    start, told, done = time.monotonic(), [0.0], [0]

    def line(text: str) -> None:
        done[0] += 1
        elapsed = time.monotonic() - start
        if elapsed >= told[0] or done[0] == total:
            told[0] = elapsed + EVERY
            console.print(f"{elapsed:5.0f} s  {done[0]} of {total} rounds  {text}", markup=False, highlight=False)

    yield line
