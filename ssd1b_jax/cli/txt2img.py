"""`ssd1b txt2img`: make a picture of a prompt, from noise alone."""

from ssd1b_jax.cli import img2img, settings
from ssd1b_jax.cli.console import add_output
from ssd1b_jax.settings import SETTINGS

# They say something of an image, which there is none of.
OF_IMAGES = ("image", "strength", "resize_mode", "mask", "mask_blur", "mask_invert", "embed_input")


def add(commands) -> None:
    parser = commands.add_parser(
        "txt2img",
        usage="%(prog)s PROMPT [-o OUT] [option ...]",
        help="make a picture of a prompt, from noise alone",
        description="Make a picture of PROMPT. What is not given is the model's own default.",
        epilog=img2img.EPILOG,
    )
    parser.set_defaults(command=img2img.make, image=None, mask=None)
    img2img.add_output_name(parser, "the prompt's first words")
    settings.add_row(parser, SETTINGS["num_images"])
    add_output(parser)
    settings.add(parser, without=OF_IMAGES)
