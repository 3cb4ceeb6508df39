"""`python -m mendiff`: the command line."""

import sys

from mendiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
