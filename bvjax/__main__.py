"""`python -m bvjax`."""

import sys

from bvjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
