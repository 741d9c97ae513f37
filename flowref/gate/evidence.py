"""What was seen, one JSON object a line, so that a file cut short still says how far it came.

header    the plan (every item that must be judged), versions, profile
start     an item is being judged
record    what judging it brought: see `flowref.gate.hold`
problem   a worker died, an internal error, an interruption
end       the run ended as it should; a file without it is incomplete
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass
class Evidence:
    """Everything that a run said about itself."""

    header: dict[str, Any] | None = None
    records: list[Record] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)
    started: dict[str, int] = field(default_factory=dict)  # item -> how many lines had been read then
    ended: bool = False

    def add(self, line: dict[str, Any]) -> None:
        """Take in one line."""
        kind = line.get("kind")
        body = {key: value for key, value in line.items() if key != "kind"}
        if kind == "header":
            self.header = body
        elif kind == "start":
            self.started[body["id"]] = len(self.records)
        elif kind == "record":
            self.records.append(body)
        elif kind == "problem":
            self.problems.append(body)
        elif kind == "end":
            self.ended = True

    @property
    def plan(self) -> list[str]:
        """The items that must be judged."""
        return list(self.header["plan"]) if self.header else []

    def missing(self) -> list[str]:
        """Planned items without a record."""
        seen = {record["id"] for record in self.records}
        return [item for item in self.plan if item not in seen]


class Writer:
    """Appends lines to a file; without a path it only keeps them."""

    def __init__(self, path: Path | None, token: str = "") -> None:
        self.path, self.token, self.evidence = path, token, Evidence()

    def write(self, kind: str, **body: Any) -> None:
        """Keep one line, and append it to the file."""
        line = {"kind": kind, **body}
        self.evidence.add(line)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "token": self.token}) + "\n")


class Reader:
    """Reads a file that another process is writing. Lines without its token aren't that process's: a forgery."""

    def __init__(self, path: Path, token: str = "") -> None:
        self.path, self.token, self.evidence, self._at = path, token, Evidence(), 0

    def read(self) -> Iterable[dict[str, Any]]:
        """The lines that were completed since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict) or line.pop("token", None) != self.token:
                line = {"kind": "problem", "what": "tampered", "text": "the evidence file was written by someone else"}
            self.evidence.add(line)
            yield line
