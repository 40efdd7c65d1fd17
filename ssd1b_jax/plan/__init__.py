"""What programs take on devices that need not be here."""

from ssd1b_jax.plan.plan import PRESETS, TITLES, Plan, PlannedProgram, config_of, make

__all__ = ["PRESETS", "TITLES", "Plan", "PlannedProgram", "config_of", "make"]
