"""`python -m flowref.faults`: the kill matrix."""

import sys

from flowref.faults.matrix import main

if __name__ == "__main__":
    sys.exit(main())
