"""Which samplers there are, and every name that they go by."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ssd1b_jax.errors import RequestError
from ssd1b_jax.samplers.multistep import deis, dpmpp_2m, dpmpp_2s, lms, pndm, unipc
from ssd1b_jax.samplers.onestep import ddpm, dpm2, euler, euler_a, heun, lcm
from ssd1b_jax.samplers.schedule import NoiseGrid
from ssd1b_jax.samplers.symbols import Calls, Run


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """One sampler: its update, and every name that it goes by.

    `update` gives the model calls of one picture on the noise levels of `grid`. `karras` is the grid of the variant
    on Karras noise levels, where diffusers has that. `exploding` latents are denoised + sigma * eps; others keep
    their variance. `stochastic` samplers add noise as they go; of the others `order` is that of convergence.

    `label` and `schedule` are A1111's names, `segmind` is Segmind's, if it has the sampler. `diffusers` is the class
    that the table is held against, built with `arguments`. `also` are further names.
    """

    description: str
    update: Callable[[Run], Calls]
    grid: NoiseGrid
    label: str
    schedule: str = ""
    segmind: str | None = None
    diffusers: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    karras: NoiseGrid | None = None
    exploding: bool = True
    stochastic: bool = False
    calls_per_step: int = 1
    order: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """A1111's, Segmind's, further names, and diffusers' where the class alone says which sampler it is."""
        is_plain = self.arguments.keys() <= {"use_karras_sigmas"}
        words = [self.label, self.segmind, *self.also, self.diffusers if is_plain else None]
        variant = f" {self.schedule}" if self.schedule else ""
        return tuple(dict.fromkeys(f"{word}{variant}" for word in words if word))


# The grids are those of diffusers' scheduler classes, at their defaults and SSD-1B's settings.
_K = NoiseGrid()
_K_KARRAS = NoiseGrid(karras=True)
_K_RESTART = NoiseGrid(restart=True)
_K_KARRAS_ROUNDED = NoiseGrid(karras=True, round_timesteps=True)
_DDPM = NoiseGrid(round_timesteps=True)
_DDIM = NoiseGrid(round_timesteps=True, fixed_stride=True, final_sigma="sigma_min")
_DPM = NoiseGrid(round_timesteps=True, extra_timestep=True)
_DPM_KARRAS = replace(_DPM, karras=True)

_ROWS: dict[str, Sampler] = {
    "euler": Sampler(
        description="one call a step, first order; the models' own default",
        update=euler, grid=_K, karras=_K_KARRAS, order=1,
        label="Euler", segmind="Euler", diffusers="EulerDiscreteScheduler",
    ),
    "euler_a": Sampler(
        description="euler with fresh noise at every step: never settles, varies more",
        update=euler_a, grid=_K, stochastic=True,
        label="Euler a", segmind="Euler a", diffusers="EulerAncestralDiscreteScheduler", also=("euler ancestral",),
    ),
    "heun": Sampler(
        description="two calls a step, second order: slow and precise",
        update=heun, grid=_K, karras=_K_KARRAS, calls_per_step=2, order=2,
        label="Heun", segmind="Heun", diffusers="HeunDiscreteScheduler",
    ),
    "dpm2": Sampler(
        description="two calls a step, the second halfway: second order, like heun",
        update=dpm2, grid=_K, karras=_K_KARRAS_ROUNDED, calls_per_step=2, order=2,
        label="DPM2", segmind="DPM2", diffusers="KDPM2DiscreteScheduler",
    ),
    "dpm2_a": Sampler(
        description="dpm2 with fresh noise at every step",
        update=partial(dpm2, noisy=True), grid=_K, karras=_K_KARRAS_ROUNDED, stochastic=True, calls_per_step=2,
        label="DPM2 a", segmind="DPM2 a", diffusers="KDPM2AncestralDiscreteScheduler", also=("dpm 2 ancestral",),
    ),
    "ddim": Sampler(
        description="first order, the classic; ends at the least trained noise level",
        update=euler, grid=_DDIM, exploding=False, order=1,
        label="DDIM", segmind="DDIM", diffusers="DDIMScheduler",
    ),
    "ddpm": Sampler(
        description="the diffusion run backwards, fresh noise at every step: wants many steps",
        update=ddpm, grid=_DDPM, exploding=False, stochastic=True,
        label="DDPM", segmind="DDPM", diffusers="DDPMScheduler",
    ),
    "lms": Sampler(
        description="one call a step, fourth order: looks back on three steps",
        update=lms, grid=_K_RESTART, karras=replace(_K_RESTART, karras=True),
        order=2,  # of fourth order once its first steps are over
        label="LMS", segmind="LMS", diffusers="LMSDiscreteScheduler",
    ),
    "pndm": Sampler(
        description="ddim of fourth order, with one call more than steps; was Stable Diffusion's first default",
        update=pndm, grid=replace(_DDPM, repeat_second=True, restart=True), exploding=False, order=2,  # the same
        label="PLMS", segmind="PNDM", diffusers="PNDMScheduler",
    ),
    "dpmpp_2m": Sampler(
        description="one call a step, second order: good in 20 steps",
        update=dpmpp_2m, grid=_DPM, karras=_DPM_KARRAS, exploding=False, order=2,
        label="DPM++ 2M", segmind="DPM Multi", diffusers="DPMSolverMultistepScheduler",
    ),
    "dpmpp_2s": Sampler(
        description="second order every other step; its timesteps are linspace whatever is asked",
        update=dpmpp_2s, grid=replace(_DPM, spacing="linspace"), karras=_DPM_KARRAS, exploding=False, order=2,
        label="DPM++ 2S", segmind="DPM Single", diffusers="DPMSolverSinglestepScheduler",
    ),
    "dpmpp_2m_sde": Sampler(
        description="dpmpp_2m with fresh noise at every step",
        update=partial(dpmpp_2m, noisy=True), grid=_DPM, karras=_DPM_KARRAS, exploding=False, stochastic=True,
        label="DPM++ 2M SDE", diffusers="DPMSolverMultistepScheduler",
        arguments=dict(algorithm_type="sde-dpmsolver++"), also=("DPM Multi SDE",),
    ),
    "unipc": Sampler(
        description="dpmpp_2m, each step corrected with the next call: good in 10 steps",
        update=unipc, grid=_DPM, karras=_DPM_KARRAS, exploding=False, order=2,
        label="UniPC", segmind="UniPC", diffusers="UniPCMultistepScheduler", also=("uni_pc_bh2",),
    ),
    "deis": Sampler(
        description="one call a step, second order; ends at the least trained noise level",
        update=deis, grid=replace(_DPM, final_sigma="sigma_min"), karras=replace(_DPM_KARRAS, final_sigma="sigma_min"),
        exploding=False, order=2,
        label="DEIS", diffusers="DEISMultistepScheduler",
    ),
    "lcm": Sampler(
        description="for models distilled to 2 to 8 steps, with their own timesteps: fresh noise at every step but "
        "the last",
        update=lcm, grid=replace(_DDPM, spacing="consistency"), exploding=False, stochastic=True,
        label="LCM", diffusers="LCMScheduler",
    ),
}  # fmt: skip


def _with_karras(rows: Mapping[str, Sampler]) -> dict[str, Sampler]:
    """Every row, followed by its variant on Karras noise levels."""
    samplers = {}
    for name, row in rows.items():
        samplers[name] = row
        if row.karras:
            samplers[f"{name}_karras"] = replace(
                row,
                description=f"{name} on Karras noise levels: more steps near the end",
                grid=row.karras,
                schedule="Karras",
                arguments={**row.arguments, "use_karras_sigmas": True},
            )
    return samplers


def _plain(name: str) -> str:
    """A name without what its spellings differ in: case, spaces, dashes, underscores, ++ or pp, "Scheduler"."""
    return "".join(filter(str.isalnum, name.lower().replace("++", "pp").replace("scheduler", "")))


SAMPLERS: dict[str, Sampler] = _with_karras(_ROWS)

# Below strength 1 diffusers' LMS and PNDM leave noise in the picture. For its pixels, these do so too.
AS_IN_DIFFUSERS: dict[str, Sampler] = {
    "lms_diffusers": replace(_ROWS["lms"], grid=_K, label="LMS diffusers"),
    "lms_diffusers_karras": replace(SAMPLERS["lms_karras"], grid=_K_KARRAS, label="LMS diffusers"),
    "pndm_diffusers": replace(_ROWS["pndm"], grid=replace(_DDIM, repeat_second=True), label="PLMS diffusers"),
}


def row(name: str) -> Sampler:
    """A sampler by any of its names. Raises RequestError."""
    key = canonical(name)
    return SAMPLERS[key] if key in SAMPLERS else AS_IN_DIFFUSERS[key]


def canonical(name: str) -> str:
    """The key of a sampler's row, by the name that Segmind, A1111, ComfyUI or diffusers has for it.

    Spelling is free: "DPM++ 2M Karras", "dpmpp-2m-karras". RequestError for a name that is no sampler's.
    """
    if name in SAMPLERS:
        return name
    plain, keys = _plain(name), _keys()
    if plain in keys:
        return keys[plain]
    near = [plain.removesuffix("karras"), *difflib.get_close_matches(plain, keys)]
    hints = dict.fromkeys(keys[match] for match in near if match in keys)
    hint = f": did you mean {' or '.join(hints)}?" if hints else ""
    raise RequestError(f"scheduler must be one of {', '.join(SAMPLERS)}, got {name!r}{hint}")


def _keys() -> dict[str, str]:
    """The keys of all rows by all names."""
    names = {_plain(name): key for key, sampler in SAMPLERS.items() for name in (key, *sampler.names)}
    return names | {_plain(key): key for key in AS_IN_DIFFUSERS}
