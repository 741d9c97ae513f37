"""The gate as a pytest plugin: options, one test an item, one record a test, the verdict as exit status.

It has no entry point, so that its options don't reach other people's runs: `properties/conftest.py` brings it, or
`-p flowref.gate.plugin`. Loading it imports neither torch nor Hypothesis; a law that is collected does. Under xdist
workers judge and the controller, which imports no target, collects records and decides.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from flowref.gate import verdict
from flowref.gate.ledger import Ledger
from flowref.gate.options import OPTIONS, Settings, Unusable

if TYPE_CHECKING:
    from flowref.gate.hold import Judge
    from flowref.gate.plan import Item

SETTINGS = pytest.StashKey[Settings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flowref", "flowref: what is judged, and how")
    for option in OPTIONS.values():
        action: dict[str, Any] = {"action": "append"} if option.repeatable else {"action": "store"}
        action = {"action": "store_true"} if option.flag else action
        text = f"{option.help} ({option.values})" if option.values else option.help
        group.addoption(option.name, dest=option.key, default=None, help=text.replace("%", "%%"), **action)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "law_family(name): the test judges each law of this family")
    ledger = None if hasattr(config, "workerinput") else Ledger(config)
    try:
        config.stash[SETTINGS] = settings = Settings.read(lambda name: config.getoption(OPTIONS[name].key))
        _check(settings)
    except Unusable as error:
        if ledger is not None:
            ledger.writer.write("problem", what="unusable", text=str(error))
        raise pytest.UsageError(f"flowref: {error}") from None
    if ledger is not None:
        ledger.settings = settings
        config.pluginmanager.register(ledger, "flowref-ledger")
        # A worker that dies is a finding; a new one in its place would meet the same end.
        if getattr(config.option, "maxworkerrestart", False) is None:
            config.option.maxworkerrestart = "0"


def _check(settings: Settings) -> None:
    """What can't be checked without the laws. Only then are they, and torch, imported here. Raises Unusable."""
    if settings.laws or settings.device == "cuda":
        from flowref.gate import plan

        plan.selected(settings)
        plan.devices(settings)
    if settings.known_failures:
        from flowref.gate import known

        known.read(settings.known_failures)
    for target in settings.targets:
        if not _is_there(target):
            from flowref.targets import TargetError, resolve

            try:
                resolve(target)
            except TargetError as error:
                raise Unusable(str(error)) from None


def _is_there(target: str) -> bool:
    """Whether there is a file that says the target's name, or a package in which to look for it. Imports nothing.

    Where not, `resolve` has the last word: a name can also be made while a file is executed.
    """
    place, _, attribute = target.rpartition(":")
    names, parts = attribute.split("."), place.split(".")
    if not all(name.isidentifier() for name in names):
        return False
    file = Path(place if place.endswith(".py") else f"{place}.py")
    if file.is_file():
        text = file.read_text(encoding="utf-8", errors="replace")
        return bool(re.search(rf"\b{names[0]}\b|import \*", text))
    here = Path(parts[0]).is_dir()  # not on the path of a process that judges
    return all(part.isidentifier() for part in parts) and (here or find_spec(parts[0]) is not None)


# What a worker may come to hold on a GPU: torch's context, cuBLAS's workspace, its cases; a generous guess.
WORKER_BYTES = 2 * 2**30
# One of these is there where torch can see a GPU: NVIDIA's driver, AMD's, Windows' own under WSL.
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The processors that this process may use, as a worker keeps one busy; on CUDA no more than fit its free memory.

    All workers share the first device that CUDA_VISIBLE_DEVICES shows, which they inherit. xdist asks before
    `pytest_configure`, so there are no settings yet.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if config.getoption(OPTIONS["--device"].key) == "cpu":
        return processors
    if not any(Path(driver).exists() for driver in DRIVERS):  # then torch, seconds to import, has nothing to ask
        return processors
    import torch

    if not torch.cuda.is_available():
        return processors
    return max(1, min(processors, torch.cuda.mem_get_info(0)[0] // WORKER_BYTES))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("law_family")
    if mark is not None:
        from flowref.gate import plan

        settings = metafunc.config.stash[SETTINGS]
        laws = [law for law in plan.selected(settings) if law.family == mark.args[0]]
        metafunc.parametrize("item", plan.items(settings, laws), ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A family of which no law was selected has nothing to test."""
    items[:] = [item for item in items if not (item.get_closest_marker("law_family") and _is_empty(item))]


def _is_empty(item: pytest.Item) -> bool:
    return "law" not in dir(getattr(item, "callspec").params["item"])  # noqa: B009


class Gate:
    """What a test is given: judges an item and leaves the record in the test's report."""

    def __init__(self, judge: Judge, node: pytest.Item) -> None:
        self._judge, self._node = judge, node

    def hold(self, item: Item) -> None:
        """Judge one item. Fails where it is broken, skips where there is no verdict, each with its message."""
        record = self._judge.judge(item) | {"id": self._node.nodeid}
        self._node.user_properties.append(("flowref", json.dumps(record)))
        status = record["status"]
        if status in ("unusable", "tampered"):  # a worker has more to do; the controller stops too late for that
            self._node.session.shouldstop = f"{status}: {record['law']}"
        if status not in verdict.GOOD:
            from flowref.gate.report.message import message

            (pytest.skip if status in verdict.SILENT else _fail)(message(record))


def _fail(text: str) -> None:
    pytest.fail(text, pytrace=False)


@pytest.fixture(scope="session")
def _judge(request: pytest.FixtureRequest) -> Judge:
    from flowref.gate.hold import Judge

    worker = getattr(request.config, "workerinput", {})
    shares = max(1, len(request.session.items) // int(worker.get("workercount", 1)))
    seed = crc32(str(worker.get("testrunuid", secrets.token_hex(8))).encode())  # of nightly, the same in all workers
    return Judge(request.config.stash[SETTINGS], shares, seed)


@pytest.fixture
def gate(_judge: Judge, request: pytest.FixtureRequest) -> Gate:
    """The gate, for the test that asks."""
    return Gate(_judge, request.node)
