"""`python -m mrg_grpo`, the same as `mrg-grpo`."""

import sys

from mrg_grpo.cli import main

sys.exit(main())
