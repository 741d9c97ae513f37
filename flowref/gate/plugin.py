"""The gate as a pytest plugin: options, one test an item, one record a test, the verdict as exit status.

It has no entry point, so that its options don't reach other people's runs: `properties/conftest.py` brings it, or
`-p flowref.gate.plugin`. Loading it imports neither torch nor Hypothesis; a law that is collected does. Under xdist
workers judge and the controller, which imports no target, collects records and decides.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from flowref import __version__
from flowref.gate import verdict
from flowref.gate.evidence import Record, Writer
from flowref.gate.options import OPTIONS, Settings, Unusable

if TYPE_CHECKING:
    from flowref.gate.hold import Judge
    from flowref.gate.plan import Item

SETTINGS = pytest.StashKey[Settings]()
# `flowref check` says here, to the controller alone, where evidence goes.
EVIDENCE = ("FLOWREF_EVIDENCE", "FLOWREF_EVIDENCE_TOKEN")
MOST_TIMEOUTS = 3  # then the run ends, as in flowref.gate.watch


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


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The processors that this process may use: a worker keeps one busy."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


class Ledger:
    """The controller's book: plan, records and problems, and the verdict at the end."""

    def __init__(self, config: pytest.Config) -> None:
        path, token = (os.environ.pop(name, "") for name in EVIDENCE)
        self.writer, self.config, self.timeouts = Writer(Path(path) if path else None, token), config, 0

    @property
    def verdict(self) -> verdict.Verdict:
        """On what was seen so far."""
        return verdict.decide(self.writer.evidence)

    def _plan(self, ids: list[str]) -> None:
        if self.writer.evidence.header is None:
            packages = ("hypothesis", "torch", "pytest")
            versions = {"flowref": __version__, "python": platform.python_version()}
            versions |= {name: _version(name) for name in packages}
            settings = self.config.stash[SETTINGS]
            profile = {"profile": settings.profile, "targets": list(settings.targets)}
            self.writer.write("header", plan=ids, versions=versions, **profile)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._plan([item.nodeid for item in session.items if item.get_closest_marker("law_family")])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self._plan([name for name in ids if "::test_" in name])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.writer.write("start", id=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        own = [value for key, value in report.user_properties if key == "flowref"]
        if report.when == "call" and own:
            self._record(json.loads(str(own[0])))
        elif report.when not in ("setup", "call", "teardown"):
            self.writer.write("problem", what="died", text=f"It ended, or was killed, in {report.nodeid}.")
        elif report.failed:
            self.writer.write("problem", what="internal", text=f"{report.nodeid}: {_last_line(report.longreprtext)}")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def _record(self, record: Record) -> None:
        self.writer.write("record", **record)
        self.timeouts += record.get("timeouts", 0)
        if self.timeouts >= MOST_TIMEOUTS or record["status"] in ("tampered", "unusable"):
            self._stop(f"{record['status']}: {record['law']}")

    def _stop(self, why: str) -> None:
        self.session.shouldstop = why
        xdist = self.config.pluginmanager.get_plugin("dsession")
        if xdist is not None:
            xdist.shouldstop = why

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.writer.write("problem", what="internal", text=f"{report.nodeid}: {_last_line(report.longreprtext)}")

    def pytest_internalerror(self, excrepr: object) -> None:
        self.writer.write("problem", what="internal", text=_last_line(str(excrepr)))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if type(excinfo.value) is KeyboardInterrupt or "keyboard-interrupt" in str(excinfo.value):  # else our own stop
            self.writer.write("problem", what="interrupted", text="Ctrl-C")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error and not self.writer.evidence.problems:
            self.writer.write("problem", what="died", text=f"Worker {node.gateway.id}: {_last_line(str(error))}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        self.writer.write("end")
        yield
        if self.writer.evidence.plan or self.writer.evidence.problems:
            session.exitstatus = self.verdict.code

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from flowref.gate.report import table

        for line in [*table.lines(self.writer.evidence), self.verdict.sentence]:
            terminalreporter.write_line(line)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1].strip()
