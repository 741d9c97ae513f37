"""Parts of a long law that held in an earlier run, so that one that was interrupted goes on where it was.

A line of FILE holds the record of a part and a key: a hash over the file of every module that is loaded once the
target is, over the packages of the target and of flowref, torch's build, the processor, and what the target states. So
another target, torch, flowref or machine finds nothing of its own there; a module that a target loads later, from
outside its package, is not seen. The file is trusted: delete it to judge every part anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from flowref.gate.evidence import Record
from flowref.gate.plan import Item

FILE = Path(".flowref/finished.ndjson")


class Finished:
    """What the file says of the parts of this run, and what is added to it."""

    def __init__(self, path: Path = FILE) -> None:
        self.path = path.absolute()
        self._keys: dict[str, str] = {}
        self._records: dict[str, Record] | None = None

    def record(self, item: Item, target: Any) -> Record | None:
        """The record of a part that held earlier; None for one that did not, and for items without parts."""
        if item.part is None:
            return None
        if self._records is None:
            self._records = dict(self._read())
        found = self._records.get(self._key(item, target))
        return found and {**found, "reason": "held in an earlier run"}

    def keep(self, item: Item, target: Any, record: Record) -> None:
        """Append a part that held. Where it can't be written, the part is judged again next time."""
        if item.part is None or record["status"] != "held":
            return
        line = json.dumps({"key": self._key(item, target), "record": record})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")  # in one piece, as other processes append too
        except OSError:
            pass

    def _read(self) -> Iterable[tuple[str, Record]]:
        """Keys and records; a line that was cut short is none."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for text in lines:
            try:
                line = json.loads(text)
                if line["record"]["status"] == "held":
                    yield line["key"], line["record"]
            except (ValueError, TypeError, KeyError):
                continue

    def _key(self, item: Item, target: Any) -> str:
        """The hash for one part on one target."""
        if item.target not in self._keys:
            self._keys[item.target] = self._circumstances(item, target)
        return hashlib.sha256(f"{self._keys[item.target]} {item.law.id} {item}".encode()).hexdigest()

    def _circumstances(self, item: Item, target: Any) -> str:
        """What the verdicts of all parts depend on, as a hash."""
        device = torch.cuda.get_device_name(item.device) if item.device.startswith("cuda") else ""
        words = [torch.__config__.show(), sys.version, platform.machine(), platform.processor(), device]
        words += [item.target, str(target.dialect), target.precision]
        digest = hashlib.sha256("\n".join(words).encode())
        files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
        for package in {"flowref", item.target.partition(":")[0].partition(".")[0]}:
            for folder in getattr(sys.modules.get(package), "__path__", ()):
                files |= {str(file) for kind in ("py", "so") for file in Path(folder).rglob(f"*.{kind}")}
        for file in sorted(files):
            digest.update(Path(file).read_bytes() if os.path.isfile(file) else b"")
        return digest.hexdigest()
