"""The settings of a request, one row each: all that a picture depends on, but the model."""

from types import MappingProxyType

from ssd1b_jax import images
from ssd1b_jax.settings.kinds import PICTURE, Choice, Number, Pair, Picture, Sampler, Scales, Switch, Text
from ssd1b_jax.settings.setting import Setting
from ssd1b_jax.settings.types import NOISES, SPACINGS

MAX_SIDE = 4096
MAX_GUIDANCE = 100.0
MAX_SCALE = 10.0  # of a LoRA

_SEED = Number(python=int, low=0, high=2**64 - 1, allowed="a whole number from 0 to 2**64 - 1")
_SIDE = Number(python=int, low=1, high=MAX_SIDE, allowed=f"a whole number up to {MAX_SIDE}")
_LENGTH = Number(python=int, low=1, high=2**16, allowed=f"whole numbers from 1 to {2**16}")
_OFFSET = Number(python=int, low=0, high=2**16, allowed=f"whole numbers from 0 to {2**16}")
_FRACTION = Number(python=float, low=0.0, high=1.0, allowed="in [0, 1]")
_TEXT_OR_NONE = Text(allowed="text or None")

REQUEST_ROWS = (
    Setting(
        name="image",
        kind=Picture(),
        words="the picture to remake: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF …",
        group="picture",
        required=True,
        metavar="IMAGE",
        api=dict(a1111="init_images", segmind="image", openai="image", diffusers="image"),
        also=("init_image", "input_image", "init_img", "img"),
    ),
    Setting(
        name="prompt",
        kind=Text(),
        words="what the picture becomes",
        group="picture",
        required=True,
        metavar="PROMPT",
        api=dict(a1111="prompt", segmind="prompt", openai="prompt", diffusers="prompt"),
        also=("positive_prompt", "text"),
    ),
    Setting(
        name="negative_prompt",
        kind=_TEXT_OR_NONE,
        words="what the picture does not become; none is not the same as an empty one",
        group="basic",
        absent="none",
        metavar="TEXT",
        api=dict(a1111="negative_prompt", segmind="negative_prompt", diffusers="negative_prompt"),
        also=("negative", "neg_prompt"),
    ),
    Setting(
        name="strength",
        kind=Number(python=float, low=0.0, high=1.0, above=True, allowed="in (0, 1]"),
        words="how much is remade",
        group="basic",
        metavar="0..1",
        api=dict(a1111="denoising_strength", segmind="strength", openai="strength", diffusers="strength"),
        also=("denoise", "denoising", "i2i_denoise_strength", "image_strength"),
    ),
    Setting(
        name="num_inference_steps",
        kind=Number(python=int, low=1, high=1000, allowed="a whole number from 1 to 1000"),
        words="steps of the full schedule",
        group="basic",
        option="steps",
        metavar="N",
        api=dict(a1111="steps", segmind="num_inference_steps", diffusers="num_inference_steps"),
        also=("num_steps", "ddim_steps", "sampling_steps", "num_interface_steps"),
    ),
    Setting(
        name="guidance_scale",
        kind=Number(python=float, low=1.0, high=MAX_GUIDANCE, allowed=f"from 1 (off) to {MAX_GUIDANCE:g}"),
        words="how closely to follow the prompt; 1 is off and takes half the time",
        group="basic",
        metavar="G",
        api=dict(a1111="cfg_scale", segmind="guidance_scale", diffusers="guidance_scale"),
        also=("cfg", "guidance"),
    ),
    Setting(
        name="seed",
        kind=_SEED,
        words="the same seed gives the same picture",
        group="basic",
        absent="drawn, and reported",
        metavar="N",
        api=dict(a1111="seed", segmind="seed", openai="seed"),
        also=("rng_seed", "manual_seed", "generator"),
    ),
    Setting(
        name="scheduler",
        kind=Sampler(),
        words="the sampler, see `ssd1b samplers`",
        group="basic",
        default="euler",
        metavar="NAME",
        api=dict(a1111="sampler_name", segmind="scheduler", diffusers="scheduler"),
        also=("sampler", "sampler_index", "sampling_method", "solver"),
    ),
    Setting(
        name="width",
        kind=_SIDE,
        words="pixels; a multiple of the model's size_multiple",
        group="size",
        metavar="PIXELS",
        api=dict(a1111="width", diffusers="width"),
        also=("w",),
    ),
    Setting(
        name="height",
        kind=_SIDE,
        words="pixels; a multiple of the model's size_multiple",
        group="size",
        metavar="PIXELS",
        api=dict(a1111="height", diffusers="height"),
        also=("h",),
    ),
    Setting(
        name="resize_mode",
        kind=Choice(words=images.RESIZE_MODES),
        words="how the image is brought to that size",
        group="size",
        default="crop",
        api=dict(a1111="resize_mode"),
    ),
    Setting(
        name="exact_steps",
        kind=Switch(),
        words="run all steps whatever the strength",
        group="sampling",
        default=False,
    ),
    Setting(
        name="timestep_spacing",
        kind=Choice(words=SPACINGS),
        words="how timesteps are spread over those that the model was trained on",
        group="sampling",
    ),
    Setting(
        name="guidance_rescale",
        kind=_FRACTION,
        words="tame the contrast that high guidance brings (Lin et al., 2305.08891)",
        group="sampling",
        default=0.0,
        metavar="0..1",
        api=dict(diffusers="guidance_rescale"),
    ),
    Setting(
        name="guidance_interval",
        kind=Pair(number=_FRACTION),
        words="guide only from and to these fractions of the steps that run (Kynkäänniemi et al., 2404.07724)",
        group="sampling",
        default=(0.0, 1.0),
        metavar=("FROM", "TO"),
    ),
    Setting(
        name="noise",
        kind=Choice(words=NOISES),
        words="whose random numbers a seed stands for",
        group="sampling",
        default="jax",
        also=("rng", "randn_source", "noise_source"),
    ),
    Setting(
        name="variation_seed",
        kind=_SEED,
        words="another seed to mix the starting noise with",
        group="sampling",
        absent="drawn where variation_strength is above 0",
        metavar="N",
        api=dict(a1111="subseed"),
    ),
    Setting(
        name="variation_strength",
        kind=_FRACTION,
        words="how far the starting noise is turned to that of variation_seed",
        group="sampling",
        default=0.0,
        metavar="0..1",
        api=dict(a1111="subseed_strength"),
    ),
    Setting(
        name="prompt_2",
        kind=_TEXT_OR_NONE,
        words="prompt of the second text encoder",
        group="prompt",
        absent="prompt",
        metavar="TEXT",
        api=dict(diffusers="prompt_2"),
    ),
    Setting(
        name="negative_prompt_2",
        kind=_TEXT_OR_NONE,
        words="negative prompt of the second text encoder",
        group="prompt",
        absent="negative_prompt",
        metavar="TEXT",
        api=dict(diffusers="negative_prompt_2"),
    ),
    Setting(
        name="prompt_weights",
        kind=Switch(),
        words="read (parentheses:1.3) in prompts as weights",
        off="take (parentheses:1.3) in prompts literally",
        group="prompt",
        default=True,
        option="no-prompt-weights",
    ),
    Setting(
        name="clip_skip",
        kind=Number(python=int, low=0, high=100, allowed="a whole number from 0"),
        words="the last layers of the text encoders to leave out for the prompt; the negative prompt skips none",
        group="prompt",
        default=0,
        metavar="N",
        api=dict(diffusers="clip_skip"),
    ),
    Setting(
        name="loras",
        kind=Scales(
            number=Number(python=float, low=-MAX_SCALE, high=MAX_SCALE, allowed=f"from {-MAX_SCALE:g} to {MAX_SCALE:g}")
        ),
        words="LoRAs that the pipeline has loaded, by name, and their scales; on the command line a file, repeatedly",
        group="prompt",
        default=MappingProxyType({}),
        option="lora",
        metavar="FILE[:SCALE]",
        also=("lora_scale", "lora_weight"),
    ),
    Setting(
        name="mask",
        kind=Picture(allowed=f"{PICTURE}, or None"),
        words="a picture: what is white is remade, what is black is kept to the pixel",
        group="mask",
        absent="all is remade",
        metavar="FILE",
        api=dict(a1111="mask", openai="mask", diffusers="mask_image"),
        also=("mask_img", "inpaint_mask"),
    ),
    Setting(
        name="mask_blur",
        kind=Number(python=int, low=0, high=256, allowed="a whole number of pixels up to 256"),
        words="pixels over which the mask's edges fade, on the side that is remade",
        group="mask",
        default=0,
        metavar="PIXELS",
        api=dict(a1111="mask_blur"),
    ),
    *(
        Setting(
            name=f"{negative}{name}",
            kind=Pair(number=number),
            words=words,
            group="conditioning",
            default=None if negative else default,
            absent=name if negative else absent,
            option=f"{negative}{option}".replace("_", "-"),
            metavar=metavar,
            api={"diffusers": f"{negative}{name}"},
        )
        for negative in ("", "negative_")
        for name, number, words, default, absent, option, metavar in (
            (
                "original_size",
                _LENGTH,
                "the size before cropping that the model is conditioned on",
                None,
                "height and width",
                "original_size",
                ("HEIGHT", "WIDTH"),
            ),
            (
                "target_size",
                _LENGTH,
                "the size after cropping that the model is conditioned on",
                None,
                "height and width",
                "target_size",
                ("HEIGHT", "WIDTH"),
            ),
            (
                "crops_coords_top_left",
                _OFFSET,
                "the crop that the model is conditioned on",
                (0, 0),
                "",
                "crop",
                ("TOP", "LEFT"),
            ),
        )
    ),
)
