"""``python -m rabtriever.cli``."""

import sys

from rabtriever.cli import main

sys.exit(main())
