"""How the embedded model is made: `python -m ssd1b_jax.training --help`."""
