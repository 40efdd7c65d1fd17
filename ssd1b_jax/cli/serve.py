"""`ssd1b serve`: pictures over HTTP."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from ssd1b_jax.cli import loras, settings
from ssd1b_jax.errors import RequestError
from ssd1b_jax.server import check_installed
from ssd1b_jax.settings import SETTINGS

KEY_VARIABLE = "SSD1B_API_KEY"


def add(commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="an HTTP server for the clients that people already have",
        description="Serve a model over HTTP, in the dialects of OpenAI, A1111, Segmind and Hugging Face and in one "
        "of its own. Needs the serve extra.",
    )
    parser.set_defaults(command=_run)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a server listens, what it serves and to whom."""
    for name in ("model", "dtype"):
        settings.add_row(parser, SETTINGS[name])
    settings.add_memory(parser)
    settings.add_width(parser, default=SETTINGS["per_device"].default)
    add = parser.add_argument
    add("--lora", action="append", default=[], metavar="FILE", help="a LoRA that callers may use by the file's name")
    add("--fast", action="store_true", help="load the few-step LoRA of the model's family, if its folder has none")
    settings.add_row(parser, SETTINGS["lora_partial"])
    add("--host", default="127.0.0.1", help="the address to listen at (default: 127.0.0.1, for this machine only)")
    add("--port", type=int, default=7860, metavar="N", help="0 is any that is free (default: 7860)")
    add("--api-key-file", metavar="FILE", help=f"keys of callers, one a line; {KEY_VARIABLE} in the environment is one")
    add("--sizes", type=_size, nargs="+", default=[], metavar="WxH", help="sizes to compile (default: the model's)")
    add("--any-size", action="store_true", help="let /jobs take other sizes too, which compile when they come")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a further name that the server has")
    add("--allow-origin", action="append", default=[], metavar="URL", help="a web origin whose pages may call it")
    add("--keep", type=Path, metavar="FOLDER", help="also write every picture there, with its record")
    add("--sign", nargs=2, metavar=("CERT", "KEY"), help="sign every picture (C2PA), with a chain and its key in PEM")
    add("--allow-url", action="store_true", help="take pictures as addresses too, of public machines only")
    add("--check", metavar="MODULE:FUNCTION", help="a function that may refuse a prompt or a picture")
    add("--queue", type=int, default=256, metavar="N", help="pictures that may wait (default: 256)")
    add("--grace", type=float, default=30.0, metavar="SECONDS", help="to answer what was accepted (default: 30)")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, got {text!r}") from None


def _run(arguments: argparse.Namespace) -> None:
    check_installed("serve")

    from ssd1b_jax.server import logs, serving
    from ssd1b_jax.server.service import Service

    service = Service(arguments.model, options(arguments))
    logs.start(sys.stderr)
    serving.run(service, partial(load, arguments), lambda line: print(line, flush=True))


def load(arguments: argparse.Namespace):
    """The pipeline of a server."""
    from ssd1b_jax.pipeline import Pipeline  # imports JAX

    settings.limit_memory(arguments)
    about = dict(dtype=arguments.dtype, per_device=arguments.per_device, loras=_loras(arguments))
    about |= dict(lora_partial=arguments.lora_partial)
    return Pipeline.from_pretrained(arguments.model, **about)


def _loras(arguments: argparse.Namespace) -> dict[str, str]:
    fast = loras.fast_file(arguments.model) if arguments.fast else {}
    return fast | loras.by_name(arguments.lora)


def options(arguments: argparse.Namespace):
    """What the arguments ask for, as ServerOptions. Raises RequestError."""
    from ssd1b_jax.server import credentials
    from ssd1b_jax.server.options import Limits, ServerOptions, read_check, read_keys

    SETTINGS["dtype"].check(arguments.dtype)
    _loras(arguments)
    keys = read_keys(arguments.api_key_file) if arguments.api_key_file else ()
    if key := os.environ.get(KEY_VARIABLE):
        keys = (*keys, key)
    if arguments.keep is not None and not arguments.keep.is_dir():
        raise RequestError(f"keep must be a folder, got {arguments.keep}: make it first")
    return ServerOptions(
        host=arguments.host,
        port=arguments.port,
        keys=keys,
        sizes=tuple(arguments.sizes),
        any_size=arguments.any_size,
        hosts=tuple(arguments.allow_host),
        origins=tuple(arguments.allow_origin),
        keep=arguments.keep,
        credentials=credentials.read(*arguments.sign) if arguments.sign else None,
        allow_url=arguments.allow_url,
        check=read_check(arguments.check) if arguments.check else None,
        grace_seconds=arguments.grace,
        limits=Limits(waiting=arguments.queue),
    )
