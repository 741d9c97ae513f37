"""The controller's book: which items were planned, what came of each, and the verdict at the end.

Under xdist it lives in the process that imports no target; with `-n 0` in the only one.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from flowref import __version__
from flowref.gate import verdict
from flowref.gate.evidence import Record, Writer
from flowref.gate.options import Settings

# `flowref check` says here, to the controller alone, where evidence goes.
EVIDENCE = ("FLOWREF_EVIDENCE", "FLOWREF_EVIDENCE_TOKEN")
LAW_TEST = re.compile(r"properties/test_\w+\.py::test_\w+\[")


class Ledger:
    """The controller's book: plan, records and problems, and the verdict at the end."""

    settings: Settings
    session: pytest.Session

    def __init__(self, config: pytest.Config) -> None:
        path, token = (os.environ.pop(name, "") for name in EVIDENCE)
        self.writer, self.config = Writer(Path(path) if path else None, token), config
        self.timeouts, self.others_failed = 0, False

    @property
    def verdict(self) -> verdict.Verdict:
        """On what was seen so far."""
        return verdict.decide(self.writer.evidence)

    def _plan(self, ids: list[str]) -> None:
        if self.writer.evidence.header is None:
            packages = ("hypothesis", "torch", "pytest")
            versions = {"flowref": __version__, "python": platform.python_version()}
            versions |= {name: _version(name) for name in packages}
            profile = {"profile": self.settings.profile, "targets": list(self.settings.targets)}
            profile["laws"] = list(self.settings.laws)
            self.writer.write("header", plan=ids, versions=versions, kept=self._kept(), **profile)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._plan([item.nodeid for item in session.items if item.get_closest_marker("law_family")])

    def _kept(self) -> str | None:
        """The file of finished parts, where a law in parts is judged."""
        if not self.settings.laws:
            return None
        from flowref.gate import finished, plan

        return str(finished.FILE.absolute()) if any(law.parts for law in plan.selected(self.settings)) else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self._plan([name for name in ids if LAW_TEST.search(name)])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.writer.write("start", id=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        own = [value for key, value in report.user_properties if key == "flowref"]
        if report.when == "call" and own:
            self._record(json.loads(str(own[0])))
        elif report.when not in ("setup", "call", "teardown"):
            self.writer.write("problem", what="died", text=f"It ended, or was killed, in {report.nodeid}.")
        elif report.failed and report.nodeid in self.writer.evidence.plan:
            self.writer.write("problem", what="internal", text=f"{report.nodeid}: {_last_line(report.longreprtext)}")
        elif report.failed:  # a test of someone else's, run beside ours
            self.others_failed = True

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def _record(self, record: Record) -> None:
        self.writer.write("record", **record)
        self.timeouts += record.get("timeouts", 0)
        if self.timeouts >= verdict.MOST_TIMEOUTS or record["status"] in ("tampered", "unusable"):
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
        judged = self.writer.evidence.plan or self.writer.evidence.problems
        if judged and not self.config.option.collectonly:
            session.exitstatus = self.verdict.code or (verdict.BROKEN if self.others_failed else verdict.HELD)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from flowref.gate.report import table

        if self.config.option.collectonly:
            return
        for line in [*table.lines(self.writer.evidence), self.verdict.sentence]:
            terminalreporter.write_line(line)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1].strip()
