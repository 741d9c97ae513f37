"""The parent of `flowref check`: starts pytest in a process of its own, watches, and decides from evidence.

The parent never imports a target. It says 0 only on a complete evidence file from a child that ended as it should.
The child sees nothing of the user's pytest: no plugins, no configuration, no conftest but ours.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import flowref
from flowref.gate.evidence import Evidence, Reader
from flowref.gate.options import Settings
from flowref.gate.verdict import INTERNAL, INTERRUPTED, Verdict, decide

PACKAGE = Path(flowref.__file__).parent
# Without a new line of evidence for so many times --call-timeout, the child is ended. Each call has a limit of its own.
PATIENCE = 10
LEAST_PATIENCE = 600.0
POLL = 0.1

# What -P and PYTHONSAFEPATH do from Python 3.11 on: a file beside the user stands for no module of Python or pytest.
SAFELY = """\
import sys
sys.path = [place for place in sys.path if place]
from runpy import run_module
run_module("pytest", run_name="__main__", alter_sys=True)"""

Show = Callable[[Evidence, float], None]


def properties() -> Path:
    """Where the property tests are: in the wheel inside the package, in a checkout beside it."""
    inside = PACKAGE / "properties"
    return inside if inside.is_dir() else PACKAGE.parent / "properties"


def command(settings: Settings, workers: str, first: bool) -> list[str]:
    """The child's command line."""
    tests = properties()
    ours = ["-c", str(Path(__file__).with_name("pytest.ini")), f"--rootdir={tests.parent}", f"--confcutdir={tests}"]
    plugins = ["-p", "xdist.plugin", "-p", "flowref.gate.plugin"]
    runs = ["-n", workers, *(["--dist", "worksteal"] if workers != "0" else []), *(["-x"] if first else [])]
    return [sys.executable, "-c", SAFELY, str(tests), *ours, *plugins, *runs, *settings.arguments()]


def environment(evidence: Path, token: str) -> dict[str, str]:
    """The child's environment: the user's, without what steers pytest."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    env |= {"FLOWREF_EVIDENCE": str(evidence), "FLOWREF_EVIDENCE_TOKEN": token}
    env["HYPOTHESIS_STORAGE_DIRECTORY"] = str(evidence.with_name("hypothesis"))
    if PACKAGE.parent.name != "site-packages":  # a checkout: the child finds the flowref that it was started from
        env["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [env.get("PYTHONPATH")])])
    return env


def run(settings: Settings, workers: str, first: bool, show: Show) -> tuple[Evidence, Verdict, str]:
    """Evidence, verdict, and the end of the child's output, for where something went wrong."""
    with tempfile.TemporaryDirectory(prefix="flowref-") as folder:
        path, log, token = Path(folder, "evidence.ndjson"), Path(folder, "output.txt"), secrets.token_hex(16)
        with log.open("wb") as output:
            child = subprocess.Popen(
                command(settings, workers, first),
                env=environment(path, token),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            reader = Reader(path, token)
            with _terminable():
                try:
                    _follow(child, reader, settings, show)
                finally:
                    _end(child)
        for _ in reader.read():
            pass
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
    return reader.evidence, _decide(reader.evidence, child.returncode), "\n".join(tail)


def _follow(child: subprocess.Popen[bytes], reader: Reader, settings: Settings, show: Show) -> None:
    begin = heard = time.monotonic()
    patience = max(LEAST_PATIENCE, PATIENCE * settings.call_timeout) + settings.budget.seconds
    try:
        while child.poll() is None:
            if list(reader.read()):
                heard = time.monotonic()
            show(reader.evidence, time.monotonic() - begin)
            if time.monotonic() - heard > patience:
                _note(reader.evidence, "internal", f"Nothing was judged for {patience:.0f} s.")
                return
            time.sleep(POLL)
    except KeyboardInterrupt as interrupt:
        _note(reader.evidence, "interrupted", "SIGTERM" if isinstance(interrupt, Terminated) else "Ctrl-C")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a CI runner sends at the end of its patience."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM meanwhile ends the child and shows what was found, as Ctrl-C does; only the main thread can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started, if they are still there."""
    for number, wait in ((signal.SIGINT, 5.0), (signal.SIGKILL, 10.0)):
        if child.poll() is None:
            _signal(child, number)
            try:
                child.wait(wait)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                continue
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _note(evidence: Evidence, what: str, text: str) -> None:
    evidence.add({"kind": "problem", "what": what, "text": text})


def _decide(evidence: Evidence, code: int) -> Verdict:
    """The verdict, given how the child ended: one that fell silent, or ended otherwise than it said, is no evidence."""
    if not evidence.ended and not evidence.problems:
        judging = list(evidence.started)[-1:]
        where = f" while judging {judging[0]}" if judging else " before a law was judged"
        _note(evidence, "died", f"The process that judges ended{where}, with exit code {code}.")
    verdict = decide(evidence)
    if evidence.ended and code != verdict.code and verdict.code not in (INTERNAL, INTERRUPTED):  # we may have killed it
        text = f"No verdict: the process that judges ended with exit code {code}, but its evidence says {verdict.code}."
        return Verdict(INTERNAL, text)
    return verdict
