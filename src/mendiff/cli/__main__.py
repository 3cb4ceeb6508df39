"""`python -m mendiff.cli`."""

import sys

from mendiff.cli import main

sys.exit(main())
