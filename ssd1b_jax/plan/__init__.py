"""What programs take on devices that need not be here."""

from ssd1b_jax.plan.plan import PRESETS, TITLES, Plan, Program, make

__all__ = ["PRESETS", "TITLES", "Plan", "Program", "make"]
