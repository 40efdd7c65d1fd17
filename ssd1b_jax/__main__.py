"""`python -m ssd1b_jax` is `ssd1b`."""

import sys

from ssd1b_jax.cli import main

sys.exit(main())
