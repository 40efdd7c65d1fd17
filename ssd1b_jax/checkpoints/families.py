"""What a file of weights is, that is not what was asked for: by its tensors' names, and of a LoRA by their shapes."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.presets import PRESETS

# Other families, by a pattern that one of their names matches. The first match counts.
LORA = "a LoRA: convert the model that it is for"
OTHERS = {
    r"lora_(unet|te\d?)_|.*\.lora_(A|B|up|down)\.|.*\.lora\.(up|down)\.": LORA,
    r"control_model\.|controlnet_cond_embedding\.|input_hint_block\.": "a ControlNet",
    r"(model\.diffusion_model\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(model\.diffusion_model\.)?double_blocks\.": "Flux",
    r"edm_mean$": "Playground 2.5",
    r"cond_stage_model\.transformer\.": "Stable Diffusion 1",
    r"cond_stage_model\.model\.": "Stable Diffusion 2",
    r"conditioner\.embedders\.0\.model\.": "the SDXL refiner",
    r"(clip_[lg]|emb_params|string_to_param)$": "a textual inversion embedding",
    r"(down_blocks|conv_in|time_embedding)\.": "one part of a diffusers folder: give the whole folder",
    r"(text_model|embeddings|transformer\.resblocks)\.": "a text encoder alone",
    r"(encoder|decoder|first_stage_model)\.": "a VAE alone",
}
WHOLE = r"model\.diffusion_model\.|conditioner\.embedders\."
# LoRAs of other families, by what their names have; and by the width of the prompt that their UNet takes.
LORAS = {
    r"single_transformer_blocks|double_blocks|single_blocks": "Flux",
    r"joint_blocks": "Stable Diffusion 3",
}
PROMPT_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2"}
SDXL_WIDTH = 2048


def kind(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names is, if that is known."""
    names = list(names)
    return next((kind for pattern, kind in OTHERS.items() if any(re.match(pattern, name) for name in names)), None)


def kind_of_no_lora(names: Iterable[str]) -> str | None:
    """What a file is that was given as a LoRA and has none of a LoRA's names."""
    names = list(names)
    if any(re.match(WHOLE, name) for name in names):
        return "a whole model: convert it, and give its folder as the model"
    found = kind(names)
    return None if found == LORA else found


def made_for(
    layers: Mapping[str, tuple[int, ...]], spellings: Callable[[ModelConfig], Mapping[str, object]]
) -> str | None:
    """The model that a LoRA is for, by its layers' names and the shapes of their `down`, if that is known.

    `spellings` gives the names of a model's layers.
    """
    for pattern, family in LORAS.items():
        if any(re.search(pattern, name) for name in layers):
            return family
    widths = {shape[1] for name, shape in layers.items() if re.search(r"attn2[._]to_[kv]$", name) and len(shape) > 1}
    for width in widths:
        if width in PROMPT_WIDTHS:
            return PROMPT_WIDTHS[width]
    if SDXL_WIDTH not in widths:
        return None
    fitting = (title for title, known in _released(spellings).items() if layers.keys() <= known)
    return next(fitting, "the SDXL family")


@cache
def _released(spellings: Callable[[ModelConfig], Mapping[str, object]]) -> dict[str, set[str]]:
    """The names of the layers of every released model, by its title; the smaller models come first."""
    released = (preset for preset in PRESETS.values() if preset.hub)
    return {preset.title: {*spellings(preset.config())} for preset in released}
