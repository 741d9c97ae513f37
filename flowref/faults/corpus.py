"""All faults. The gate must break on every one of them, in every dialect that it lists.

FAULTS        all of them, by room
build(fault)  the faulty class, compiled afresh
find(id)      the fault of that id
"""

from __future__ import annotations

from difflib import get_close_matches

from flowref.faults import circumstances, edges, numeric, passes, stateful, surface, swallowed
from flowref.faults.fault import DIALECTS, Fault, build

__all__ = ["DIALECTS", "FAULTS", "Fault", "build", "find"]

ROOMS = (passes, circumstances, numeric, stateful, surface, swallowed, edges)
FAULTS: tuple[Fault, ...] = tuple(fault for room in ROOMS for fault in room.FAULTS)


def find(id: str) -> Fault:
    """The fault of this id. Raises KeyError with the nearest ids."""
    for fault in FAULTS:
        if fault.id == id:
            return fault
    near = get_close_matches(id, [fault.id for fault in FAULTS])
    raise KeyError(f"no fault {id!r}. Nearest: {', '.join(near) or 'none'}.")
