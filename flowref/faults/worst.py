"""The cases that came nearest to their bounds so far: `python -m flowref.faults.sharpness` and tests run them first."""

from flowref.faults.ascent import Worst

WORST: tuple[Worst, ...] = ()
