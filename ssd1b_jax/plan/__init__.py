"""What programs take on devices that need not be here."""

from ssd1b_jax.plan.plan import PRESETS, TITLES, Called, DryDevices, Plan, Program, make

__all__ = [
    "Called",
    "DryDevices",
    "PRESETS",
    "Plan",
    "Program",
    "TITLES",
    "make",
]
