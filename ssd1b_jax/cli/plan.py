"""`ssd1b plan`: whether a model fits a device, and how fast it could be there, with no such device."""

import argparse
import contextlib
import os
import sys

from ssd1b_jax.choices import DTYPES


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
        help="ssd_1b (default), vega, sdxl_base, emoji, or a model folder",
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


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of pixels, or WIDTHxHEIGHT, got {text!r}") from None


def _run(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a TPU that is here is left alone

    from ssd1b_jax import kernels, plan

    def make(plain: bool):
        with kernels.plain() if plain else contextlib.nullcontext():
            return plan.make(
                arguments.model,
                arguments.topology,
                size=arguments.size,
                per_device=arguments.per_device,
                dtype=arguments.dtype,
                quick=arguments.quick,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )

    made = make(arguments.plain)
    print("\n".join(_lines(arguments.model, made, arguments.blocks)))
    if arguments.compare:
        print("\n".join(_compared(made, make(True))))


def _lines(model: str, plan, with_blocks: bool):
    """What a plan says, line by line."""
    chip = plan.chip
    yield f"{model}, {plan.width} x {plan.height}, {plan.dtype}, {plan.per_device} at a time on each device"
    yield f"{plan.devices} x {plan.device_kind}" + ("" if chip is None else f": {_chip(chip)}")
    if plan.quick:
        yield "an ESTIMATE: distinct blocks compiled once and added up; what lies between blocks is left out"
    yield ""
    kinds = ("arguments", "outputs", "in place", "temporaries", "peak", "code", "other weights", "together", "fits")
    yield _row("memory of one device", *kinds)
    for program in plan.programs:
        cost = program.cost
        sizes = cost.arguments, cost.outputs, cost.aliased, cost.temporaries, cost.peak, cost.code
        fits = "?" if chip is None else "yes" if program.fits(chip) else "NO"
        yield _row(program.title, *map(_bytes, sizes), _bytes(program.idle), _bytes(program.memory), fits)
        if cost.refused:
            yield f"  the compiler refuses: {cost.refused}"
    yield ""
    kinds = ("GFLOP", "moved", "arithmetic", "traffic", "roofline", "of it compute", "compiler's", "compiled in")
    yield _row("time of a call", *kinds)
    for program in plan.programs:
        yield _row(program.title, *_work(program.cost, chip))
        if with_blocks:
            for name, times, cost in program.blocks:
                yield _row(f"  {times} x {name}", *_work(cost, chip))
    if chip is not None:
        most = {program.title: program.most(chip, plan.per_device) for program in plan.programs}
        title = min(most, key=most.get)
        yield ""
        yield (
            f"largest per-device batch that should fit: {most[title]}, if all but weights and code grows in "
            f"proportion; least room: {title}"
        )


def _compared(ours, plain):
    """Two plans side by side, the second with plain attention."""
    measures = {
        "GFLOP": lambda cost: cost.flops / 1e9,
        "moved, GB": lambda cost: cost.traffic / 1e9,
        "temporaries, GB": lambda cost: cost.temporaries / 1e9,
    }
    if ours.chip is not None:
        measures["roofline, ms"] = lambda cost: 1e3 * max(cost.roofline(ours.chip))
        measures["of it compute, %"] = lambda cost: 100 * cost.compute(ours.chip)
    measures["compiled in, s"] = lambda cost: cost.compile_seconds
    for here, there in zip(ours.programs, plain.programs, strict=True):
        yield ""
        yield _row(here.title, "as it runs", "plain", "ratio")
        for name, measure in measures.items():
            ran, defined = measure(here.cost), measure(there.cost)
            yield _row(f"  {name}", f"{ran:,.2f}", f"{defined:,.2f}", f"{ran / defined:.2f}" if defined else "?")


def _work(cost, chip):
    times = (None, None) if chip is None else cost.roofline(chip)
    yield f"{cost.flops / 1e9:,.1f}"
    yield _bytes(cost.traffic)
    for seconds in (*times, None if chip is None else max(times)):
        yield _milliseconds(seconds)
    yield "?" if chip is None else f"{cost.compute(chip):.0%}"
    yield _milliseconds(cost.seconds)
    yield f"{cost.compile_seconds:.0f} s"


def _milliseconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _chip(chip) -> str:
    speeds = f"{chip.flops / 1e12:.0f} TFLOP/s in bfloat16, {chip.bandwidth / 1e9:.0f} GB/s"
    return f"{_bytes(chip.memory)} to use, {speeds}"


def _bytes(count: int | float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _row(title: str, *cells: str) -> str:
    return f"{title:<34}" + "".join(f"{cell:>14}" for cell in cells)
