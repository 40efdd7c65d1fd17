"""`python -m ssd1b_jax.cli` is `ssd1b`."""

import sys

from ssd1b_jax.cli import main

sys.exit(main())
