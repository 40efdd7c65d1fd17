"""The noise schedule that a model was trained on, by what its files say. What is not understood is refused by name.

The sampler, in a scheduler's class and in settings such as `use_karras_sigmas`, is not kept: every request names its
own.
"""

import dataclasses
from collections.abc import Container, Mapping
from typing import Any

from ssd1b_jax.config import ScheduleConfig, require
from ssd1b_jax.errors import ConfigError
from ssd1b_jax.samplers import SAMPLERS

PREDICTION_TYPES = ("epsilon", "v_prediction")
# Scheduler classes of diffusers that walk down the betas of a ScheduleConfig.
CLASSES = {row.diffusers for row in SAMPLERS.values()} | {
    "DPMSolverSDEScheduler",
    "SASolverScheduler",
    "TCDScheduler",
}
BETAS = ("beta_start", "beta_end", "beta_schedule")  # whose absence means something else in every class
# Settings that change what the model is trained for, and the value of each that is understood.
UNDERSTOOD = {
    "trained_betas": None,
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
}
# Settings of samplers, and of clipping, which is for pixels.
SAMPLING = {
    "algorithm_type", "clip_sample", "clip_sample_range", "corrector_order", "disable_corrector",
    "dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type",
    "lambda_min_clipped", "lower_order_final", "noise_sampler_seed", "original_inference_steps", "predict_x0",
    "predictor_order", "sample_max_value", "set_alpha_to_one", "shift_terminal", "skip_prk_steps", "solver_order",
    "solver_p", "solver_type", "tau_func", "thresholding", "time_shift_type", "timestep_scaling", "use_beta_sigmas",
    "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas", "variance_type",
}  # fmt: skip
FIELDS = {field.name for field in dataclasses.fields(ScheduleConfig)}
# What a single file may say of itself: tensors whose names are marks, and texts in its metadata.
EDM = ("edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
WORDS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
TRUE = ("true", "1", "yes")


def read(data: Mapping[str, Any]) -> ScheduleConfig:
    """The schedule of diffusers' `scheduler_config.json`. Raises ConfigError."""
    kind = data.get("_class_name", "EulerDiscreteScheduler")
    require(kind in CLASSES, f"a scheduler of the class {str(kind)[:80]!r} is not understood")
    for name in BETAS:
        require(name in data, f"{name} is missing: without it the noise levels are not known")
    rescales = data.get("rescale_betas_zero_snr", False)
    require(isinstance(rescales, bool), f"rescale_betas_zero_snr must be true or false, got {str(rescales)[:80]!r}")
    for name, value in data.items():
        if name in UNDERSTOOD:
            allowed = UNDERSTOOD[name]
            require(value == allowed, f"scheduler config: {name} must be {allowed!r}, got {str(value)[:80]}")
        elif name not in FIELDS and name not in SAMPLING and not name.startswith("_"):
            require(value in (None, False), f"scheduler config: {name[:80]} {str(value)[:80]} is not understood")
    return ScheduleConfig(**{name: data[name] for name in FIELDS if name in data})


def of_file(names: Container[str], metadata: Mapping[str, str]) -> ScheduleConfig:
    """The schedule of a single file, by the marks among its tensors' names and by its metadata.

    Without any it is SDXL's. Raises ConfigError for marks that disagree, or that are not understood.
    """
    for mark in EDM:
        require(mark not in names, f"its {mark} marks an EDM model, as CosXL and Playground 2.5 are: not supported")
    told: dict[str, str] = {}
    word = metadata.get("modelspec.prediction_type", "").lower().replace("-", "_")
    if word:
        require(word in WORDS, f"its metadata say prediction_type {word[:80]!r}, which is not understood")
        told["its metadata"] = WORDS[word]
    if _says(metadata, "ss_v_parameterization"):
        told["its trainer's metadata"] = "v_prediction"
    zero_snr = "ztsnr" in names or _says(metadata, "ss_zero_terminal_snr")
    if "v_pred" in names or zero_snr:
        told["a mark in it"] = "v_prediction"
    kinds = {*told.values()}
    if len(kinds) > 1:
        says = " and ".join(f"{who} {kind}" for who, kind in told.items())
        raise ConfigError(f"it says of its prediction type two things, {says}: choose by --prediction-type")
    return chosen(ScheduleConfig(), kinds.pop() if kinds else "epsilon", zero_snr)


def chosen(schedule: ScheduleConfig, prediction_type: str, zero_snr: bool) -> ScheduleConfig:
    """A schedule with another prediction type. Without signal at the end, timesteps must include the end: trailing."""
    changes = dict(prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr)
    return dataclasses.replace(schedule, **changes, **(dict(timestep_spacing="trailing") if zero_snr else {}))


def _says(metadata: Mapping[str, str], name: str) -> bool:
    return metadata.get(name, "").lower() in TRUE
