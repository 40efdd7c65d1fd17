"""The settings of a call, of a pipeline and of the output, one row each.

Of these only the model, its dtype and `per_device` change pixels.
"""

from ssd1b_jax import images
from ssd1b_jax.settings.kinds import Choice, Number, Switch, Text
from ssd1b_jax.settings.setting import Setting
from ssd1b_jax.settings.types import DTYPES, FORMATS

MAX_PER_DEVICE = 256
AUTO = "auto"  # the `per_device` that makes most in a second

OPTION_ROWS = (
    Setting(
        name="num_images",
        kind=Number(python=int, low=1, allowed="a whole number from 1"),
        words="how many pictures to make, with seeds SEED, SEED+1 …",
        of="call",
        group="basic",
        default=1,
        metavar="N",
        api=dict(a1111="batch_size", segmind="samples", openai="n", diffusers="num_images_per_prompt"),
        also=("n_iter", "batch_count", "num_outputs", "num_samples"),
    ),
    Setting(
        name="model",
        kind=Text(),
        words="emoji, which is built in, or a folder that `ssd1b convert` wrote",
        of="pipeline",
        group="model",
        default="emoji",
        metavar="MODEL",
        also=("sd_model_checkpoint", "checkpoint", "ckpt", "model_id"),
    ),
    Setting(
        name="dtype",
        kind=Choice(words=DTYPES),
        words="what weights are stored and computed in",
        of="pipeline",
        group="model",
        absent="float32 on a CPU, else bfloat16",
        also=("torch_dtype", "precision"),
    ),
    Setting(
        name="per_device",
        kind=Number(python=int, low=1, high=MAX_PER_DEVICE, allowed=f"a whole number from 1 to {MAX_PER_DEVICE}"),
        words="pictures that are made at a time on each device; pixels change with it by rounding",
        of="pipeline",
        group="model",
        default=1,
        metavar="N",
    ),
    Setting(
        name="lora_partial",
        kind=Switch(),
        words="merge the layers of a LoRA that the model has, and leave out others",
        of="pipeline",
        group="model",
        default=False,
    ),
    Setting(
        name="format",
        kind=Choice(words=FORMATS),
        words="the format of the file",
        of="output",
        group="files",
        absent="that of the name's end",
        api=dict(openai="output_format"),
    ),
    Setting(
        name="quality",
        kind=Number(python=int, low=1, high=100, allowed="a whole number from 1 to 100"),
        words="of a JPEG or WebP",
        of="output",
        group="files",
        default=95,
        metavar="1..100",
        api=dict(openai="output_compression"),
        also=("jpeg_quality",),
    ),
    Setting(
        name="upscale",
        kind=Number(
            python=int,
            low=1,
            high=images.MAX_UPSCALE,
            allowed=f"a whole number from 1 to {images.MAX_UPSCALE}",
        ),
        words="enlarge the written picture so many times (Lanczos)",
        of="output",
        group="files",
        default=1,
        metavar="N",
    ),
    Setting(
        name="metadata",
        kind=Switch(),
        words="keep the record in the file: how the picture was made",
        off="leave the record out of the file",
        of="output",
        group="files",
        default=True,
        option="no-metadata",
    ),
    Setting(
        name="sidecar",
        kind=Switch(),
        words="write the record to a JSON file next to the picture too",
        of="output",
        group="files",
        default=False,
    ),
    Setting(
        name="embed_input",
        kind=Switch(),
        words="keep the input in the PNG, so that it alone can be replayed",
        of="output",
        group="files",
        default=False,
    ),
    Setting(
        name="overwrite",
        kind=Switch(),
        words="replace a file of that name",
        off="keep a file of that name: the picture gets the next free one, such as a-2.png",
        of="output",
        group="files",
        default=True,
        option="no-overwrite",
    ),
)
