"""`python -m sdseg WORD ...`, the same as the console script `sdseg`."""

import sys

from sdseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
