"""The settings of the sizes that SDXL models are conditioned on: three of the prompt, three of the negative prompt."""

from dataclasses import replace

from ssd1b_jax.settings.kinds import Number, Pair
from ssd1b_jax.settings.setting import Setting

_LENGTH = Number(python=int, low=1, high=2**16, allowed=f"whole numbers from 1 to {2**16}")
_OFFSET = Number(python=int, low=0, high=2**16, allowed=f"whole numbers from 0 to {2**16}")

_ROWS = (
    Setting(
        name="original_size",
        kind=Pair(number=_LENGTH),
        words="the size before cropping that the model is conditioned on",
        group="conditioning",
        absent="height and width",
        option="original-size",
        metavar=("HEIGHT", "WIDTH"),
        api=dict(diffusers="original_size"),
    ),
    Setting(
        name="target_size",
        kind=Pair(number=_LENGTH),
        words="the size after cropping that the model is conditioned on",
        group="conditioning",
        absent="height and width",
        option="target-size",
        metavar=("HEIGHT", "WIDTH"),
        api=dict(diffusers="target_size"),
    ),
    Setting(
        name="crops_coords_top_left",
        kind=Pair(number=_OFFSET),
        words="the crop that the model is conditioned on",
        group="conditioning",
        default=(0, 0),
        option="crop",
        metavar=("TOP", "LEFT"),
        api=dict(diffusers="crops_coords_top_left"),
    ),
)


def _of_negative_prompt(row: Setting) -> Setting:
    """The same setting of the negative prompt, which has the prompt's value where it is absent."""
    name = f"negative_{row.name}"
    return replace(
        row,
        name=name,
        default=None,
        absent=row.name,
        option=f"negative-{row.option}",
        api=dict(diffusers=name),
    )


CONDITIONING_ROWS = (*_ROWS, *map(_of_negative_prompt, _ROWS))
