"""`ssd1b plan`: whether a model fits a device, and how fast it could be there, with no such device."""

import argparse
import contextlib
import os
import sys

from ssd1b_jax.cli import plan_run, plan_table
from ssd1b_jax.cli.console import add_json, print_json
from ssd1b_jax.presets import PRESETS
from ssd1b_jax.settings import DTYPES


def add(commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="whether a model fits a TPU, with none present",
        description="Compile what one request to MODEL would run on a TPU, with no TPU and no weights, and say what "
        "memory, arithmetic and traffic it takes. TPUs need the tpu extra.",
        epilog="Answers are kept in your cache folder.",
    )
    parser.set_defaults(command=_run)
    parser.add_argument(
        "model",
        nargs="?",
        default="ssd_1b",
        metavar="MODEL",
        help=f"{', '.join(PRESETS)}, or a model folder (default: ssd_1b)",
    )
    add = parser.add_argument
    add("--topology", default="v5e:1x1", metavar="NAME", help="v5e:1x1 (default), v5e:2x4, v6e:1x1, v5p:2x2x1 … or cpu")
    add("--size", type=_size, metavar="N|WxH", help="pixels (default: the model's own size)")
    add("--per-device", type=int, default=1, metavar="N", help="pictures at a time on each device (default: 1)")
    add("--dtype", choices=DTYPES, default="bfloat16", help="default: bfloat16")
    add(
        "--quick",
        action="store_true",
        help="an estimate: compile each distinct block once and add up, in place of whole programs (SSD-1B's take the "
        "TPU compiler 14 CPU minutes); models share blocks, so the next one is sooner",
    )
    attention = parser.add_mutually_exclusive_group()
    attention.add_argument("--plain", action="store_true", help="with attention as its definition says")
    attention.add_argument("--compare", action="store_true", help="the same beside the plan with plain attention")
    add("--blocks", action="store_true", help="with --quick, list the blocks too")
    plan_run.add_options(parser)
    add_json(parser)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of pixels, or WIDTHxHEIGHT, got {text!r}") from None


def _run(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a TPU that is here is left alone

    from ssd1b_jax import kernels, plan

    def make(plain: bool, size: tuple[int, int] | None = None):
        with kernels.plain() if plain else contextlib.nullcontext():
            return plan.make(
                arguments.model,
                arguments.topology,
                size=size or arguments.size,
                per_device=arguments.per_device,
                dtype=arguments.dtype,
                quick=arguments.quick,
                say=_tell,
            )

    if arguments.manifest:
        plan_run.show(arguments, lambda size: make(arguments.plain, size))
        return
    ours = make(arguments.plain)
    plain = make(True) if arguments.compare else None
    if arguments.json:
        print_json(plan_table.facts(arguments.model, ours, arguments.plain))
        if plain:
            print_json(plan_table.facts(arguments.model, plain, True))
        return
    print("\n".join(plan_table.lines(arguments.model, ours, arguments.blocks)))
    if plain:
        print("\n".join(plan_table.compared(ours, plain)))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
