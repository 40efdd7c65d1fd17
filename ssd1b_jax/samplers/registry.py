"""Which samplers there are, and every name that they go by."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ssd1b_jax.errors import RequestError
from ssd1b_jax.samplers.multistep import deis, dpmpp_2m, dpmpp_2s, lms, pndm, unipc
from ssd1b_jax.samplers.onestep import ddpm, dpm2, euler, euler_a, heun, lcm
from ssd1b_jax.samplers.schedule import NoiseGrid
from ssd1b_jax.samplers.symbols import Calls, Run


@dataclass(frozen=True)
class Sampler:
    """A row of the registry. `names` are A1111's, Segmind's and diffusers', where they aren't just the key respelt.

    `exploding` latents are clean + sigma * eps; the others keep their variance. `stochastic`
    samplers add noise as they go. `karras` is the grid of the variant on Karras noise levels,
    where diffusers has that.
    """

    description: str
    calls: Callable[[Run], Calls]
    grid: NoiseGrid
    names: tuple[str, ...]
    karras: NoiseGrid | None = None
    exploding: bool = True
    stochastic: bool = False
    calls_per_step: int = 1


# The grids are those of diffusers' scheduler classes, at their defaults and SSD-1B's settings.
_K = NoiseGrid()
_K_KARRAS = NoiseGrid(karras=True)
_K_KARRAS_ROUNDED = NoiseGrid(karras=True, round_timesteps=True)
_DDPM = NoiseGrid(round_timesteps=True)
_DDIM = NoiseGrid(round_timesteps=True, fixed_stride=True, final_sigma="sigma_min")
_DPM = NoiseGrid(round_timesteps=True, extra_timestep=True)
_DPM_KARRAS = replace(_DPM, karras=True)

_ROWS: dict[str, Sampler] = {
    "euler": Sampler(
        "one call a step, first order; the models' own default",
        euler, _K, ("EulerDiscreteScheduler",), _K_KARRAS,
    ),
    "euler_a": Sampler(
        "euler with fresh noise at every step: never settles, varies more",
        euler_a, _K, ("euler ancestral", "EulerAncestralDiscreteScheduler"), stochastic=True,
    ),
    "heun": Sampler(
        "two calls a step, second order: slow and precise",
        heun, _K, ("HeunDiscreteScheduler",), _K_KARRAS, calls_per_step=2,
    ),
    "dpm2": Sampler(
        "two calls a step, the second halfway: second order, like heun",
        dpm2, _K, ("KDPM2DiscreteScheduler",), _K_KARRAS_ROUNDED, calls_per_step=2,
    ),
    "dpm2_a": Sampler(
        "dpm2 with fresh noise at every step",
        partial(dpm2, noisy=True), _K, ("dpm 2 ancestral", "KDPM2AncestralDiscreteScheduler"), _K_KARRAS_ROUNDED,
        stochastic=True, calls_per_step=2,
    ),
    "ddim": Sampler(
        "first order, the classic; ends at the least trained noise level",
        euler, _DDIM, ("DDIMScheduler",), exploding=False,
    ),
    "ddpm": Sampler(
        "the diffusion run backwards, fresh noise at every step: wants many steps",
        ddpm, _DDPM, ("DDPMScheduler",), exploding=False, stochastic=True,
    ),
    "lms": Sampler(
        "one call a step, fourth order: looks back on three steps",
        lms, _K, ("LMSDiscreteScheduler",), _K_KARRAS,
    ),
    "pndm": Sampler(
        "ddim of fourth order, with one call more than steps; was Stable Diffusion's first default",
        pndm, replace(_DDIM, repeat_second=True), ("PLMS", "PNDMScheduler"), exploding=False,
    ),
    "dpmpp_2m": Sampler(
        "one call a step, second order: good in 20 steps",
        dpmpp_2m, _DPM, ("DPM Multi", "DPMSolverMultistepScheduler"), _DPM_KARRAS, exploding=False,
    ),
    "dpmpp_2s": Sampler(
        "second order every other step; its timesteps are linspace whatever is asked",
        dpmpp_2s, replace(_DPM, spacing="linspace"), ("DPM Single", "DPMSolverSinglestepScheduler"),
        _DPM_KARRAS, exploding=False,
    ),
    "dpmpp_2m_sde": Sampler(
        "dpmpp_2m with fresh noise at every step",
        partial(dpmpp_2m, noisy=True), _DPM, ("DPM Multi SDE",), _DPM_KARRAS,
        exploding=False, stochastic=True,
    ),
    "unipc": Sampler(
        "dpmpp_2m, each step corrected with the next call: good in 10 steps",
        unipc, _DPM, ("uni_pc_bh2", "UniPCMultistepScheduler"), _DPM_KARRAS, exploding=False,
    ),
    "deis": Sampler(
        "one call a step, second order; ends at the least trained noise level",
        deis, replace(_DPM, final_sigma="sigma_min"), ("DEISMultistepScheduler",),
        replace(_DPM_KARRAS, final_sigma="sigma_min"), exploding=False,
    ),
    "lcm": Sampler(
        "for models distilled to 2 to 8 steps, with their own timesteps: fresh noise at every step but the last",
        lcm, replace(_DDPM, spacing="consistency"), ("LCMScheduler",), exploding=False, stochastic=True,
    ),
}  # fmt: skip


def _with_karras(rows: dict[str, Sampler]) -> dict[str, Sampler]:
    """Every row, followed by its variant on Karras noise levels."""
    samplers = {}
    for name, row in rows.items():
        samplers[name] = row
        if row.karras:
            description = f"{name} on Karras noise levels: more steps near the end"
            names = tuple(f"{other} Karras" for other in row.names)
            samplers[f"{name}_karras"] = replace(row, description=description, grid=row.karras, names=names)
    return samplers


def _plain(name: str) -> str:
    """A name without what its spellings differ in: case, spaces, dashes, underscores, ++ or pp, "Scheduler"."""
    return "".join(filter(str.isalnum, name.lower().replace("++", "pp").replace("scheduler", "")))


SAMPLERS: dict[str, Sampler] = _with_karras(_ROWS)
_KEYS = {_plain(name): key for key, sampler in SAMPLERS.items() for name in (key, *sampler.names)}


def canonical(name: str) -> str:
    """The key in SAMPLERS of a sampler, by the name that Segmind, A1111, ComfyUI or diffusers has for it.

    Spelling is free: "DPM++ 2M Karras", "dpmpp-2m-karras". RequestError for a name that none of them is near.
    """
    plain = _plain(name)
    if plain in _KEYS:
        return _KEYS[plain]
    near = [plain.removesuffix("karras"), *difflib.get_close_matches(plain, _KEYS)]
    keys = dict.fromkeys(_KEYS[match] for match in near if match in _KEYS)
    hint = f": did you mean {' or '.join(keys)}?" if keys else ""
    raise RequestError(f"scheduler must be one of {', '.join(SAMPLERS)}, got {name!r}{hint}")
