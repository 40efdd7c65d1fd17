"""`python -m ssd1b_jax.settings > docs/settings.md`: the settings as a page."""

import sys

from ssd1b_jax.settings.page import page

sys.stdout.write(page())
