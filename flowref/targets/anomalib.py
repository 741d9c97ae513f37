"""anomalib's block as a target: ``flowref.targets.anomalib:AllInOneBlock``.

Only the block's own file is executed. Importing the package would ask for the whole training stack around it;
the file asks for FrEIA's base class and scipy.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flowref.targets.libraries import missing
from flowref.targets.resolve import load_file

FILE = Path("models", "components", "flow", "all_in_one_block.py")


def _block() -> Any:
    package = find_spec("anomalib")  # found, not imported
    folders = list(package.submodule_search_locations or ()) if package else []
    for path in (Path(folder, FILE) for folder in folders):
        if path.is_file():
            try:
                return load_file(path, f"{__name__}_block").AllInOneBlock
            except ImportError as error:
                raise missing("FrEIA or scipy", error) from error
    raise missing("anomalib", f"no {FILE} in {folders[0]}" if folders else "no package anomalib")


AllInOneBlock = _block()
__all__ = ["AllInOneBlock"]
