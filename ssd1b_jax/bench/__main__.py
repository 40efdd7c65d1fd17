"""`python -m ssd1b_jax.bench`: tables of times, ours and a peer's."""

import argparse
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from ssd1b_jax.arguments import Parser, run
from ssd1b_jax.bench.contenders import Measured, agreement, take_turns
from ssd1b_jax.bench.task import MODELS, Task

PARTS = {
    "unet": "one call on the guidance pair, as each step makes it",
    "vae-encode": "pixels to latents",
    "vae-decode": "latents to pixels",
    "text": "both text encoders, both prompts",
    "img2img": "a whole picture, programs compiled and weights loaded",
    "start": "a new process to its first picture; compiled programs are cached",
    "load": "a new process that imports what it needs, verifies and loads the weights",
    "batch": "64 pictures, files to files, 16 at a time, ours a run on --devices (emoji only)",
    "batch-mixed": "the same of mixed sizes, steps and samplers, ours alone (emoji only)",
    "queue": "64 pictures of 4 to 50 steps, --width at a time on --devices, beside batches (emoji only)",
    "queue-even": "the same, of equal steps (emoji only)",
    "serve": "the same of mixed steps over HTTP by 16 clients, beside FastAPI with a lock (emoji only)",
    "serve-open": "ours alone under open load of --seconds each: 1.5 times width 1's capacity, then 0.9 (emoji only)",
    "compile": "tracing and compiling the UNet, no cache; ours alone, as PyTorch needs no compiling",
    "host": "a picture, file to file, and how much of that is the host's work",
}
QUEUES = ("queue", "queue-even")
RUNS = ("batch", "batch-mixed")
FRESH = ("start", "load")  # every run in a new process
# The peers, by their module in `bench`: the package that each needs, and its parts.
PEERS = {
    "peer": (
        "torch",
        ("unet", "vae-encode", "vae-decode", "text", "img2img", "start", "load", "batch", "host", "serve", *QUEUES),
    ),
    "openvino": ("openvino", ("unet", "vae-encode", "vae-decode")),
}
EMBEDDED_ONLY = (*RUNS, "serve", "serve-open", *QUEUES)  # the weights are on every one of the devices
COLUMNS = ("who", "median s", "spread s", "ratio", "CPU s", "peak GB", "TFLOP", "of peak")


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default the process's own, and return its exit code."""
    return run(lambda: _measure(_parse(argv)))


def _measure(options: argparse.Namespace) -> None:
    """Time the parts that `options` ask for, and print a table of each."""
    peak = matmul_peak()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"float32 matrix product of 2048: {peak / 1e9:.0f} GFLOP/s; {_versions()}")
    if os.getloadavg()[0] > 1:
        print("other work is going on, or was a minute ago: what follows depends on it", file=sys.stderr)
    if options.peer and not find_spec("torch"):
        print("PyTorch is not installed, so ours is alone: pip install '.[reference]'", file=sys.stderr)
    for part in options.parts or (part for part in PARTS if options.model == "emoji" or part not in EMBEDDED_ONLY):
        task = Task(
            part=part, model=options.model, size=options.size, steps=options.steps, strength=options.strength,
            width=options.width, devices=options.devices, seconds=options.seconds,
        )  # fmt: skip
        measured = take_turns(_contenders(part, options.peer), task, options.reps, warm=part not in FRESH)
        print(f"\n{part}, {task.model} at {task.size}: {PARTS[part]}\n")
        print(table(measured, peak))
        if part == "start":
            ours, loading = measured[:2]
            started = ours.median - ours.notes["second_s"]
            print(f"ours, ready but for the picture: {started:.2f} s, {started / loading.median:.2f} of load alone")
        sys.stdout.flush()


def _contenders(part: str, peers: bool) -> list[str]:
    """Ours, loading alone where a process starts, and the peers that are installed."""
    installed = [name for name, (package, parts) in PEERS.items() if part in parts and find_spec(package)]
    if part in QUEUES:
        return ["queue", "batches", *(installed if peers else [])]
    if part == "serve-open":
        return ["ours"]
    if part in RUNS:
        return ["runs", *(installed if peers else [])]
    return ["ours", *["ours:load"] * (part == "start"), *(installed if peers and find_spec("torch") else [])]


def _parse(argv: list[str] | None) -> argparse.Namespace:
    listing = "\n".join(f"  {name:<12}{what}" for name, what in PARTS.items())
    parser = Parser(
        prog="python -m ssd1b_jax.bench",
        description="Time parts of the work next to diffusers on PyTorch, and OpenVINO where it is installed,\n"
        "taking turns. Parts:\n" + listing,
        epilog="start and load write ssd_1b's random weights, 9 GB for each contender, to the temporary folder once.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to time (default: all)")
    parser.add_argument("--model", choices=MODELS, default="emoji", help="ssd_1b has random weights (default: emoji)")
    parser.add_argument("--size", type=int, help="pixels along each side (default: 128 for emoji, 512 for ssd_1b)")
    parser.add_argument("--steps", type=int, help="default: 30 for emoji, 20 for ssd_1b")
    parser.add_argument("--strength", type=float, help="default: 1.0 for emoji, 0.6 for ssd_1b")
    parser.add_argument("--width", type=int, default=1, help="pictures at a time on a device, of queue (default: 1)")
    parser.add_argument("--devices", type=int, default=1, help="virtual devices, of batch and queue (default: 1)")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each load of serve-open (default: 300)")
    parser.add_argument("--reps", type=int, default=5, help="runs of each contender after the first (default: 5)")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="ours alone")
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"parts must be among {', '.join(PARTS)}, got {', '.join(unknown)}")
    embedded_only = [part for part in options.parts if part in EMBEDDED_ONLY]
    if options.model != "emoji" and embedded_only:
        parser.error(f"{', '.join(embedded_only)} can be measured with --model emoji only, got {options.model}")
    for name in ("reps", "width", "devices"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    small = options.model == "emoji"
    for name, value in dict(
        size=128 if small else 512, steps=30 if small else 20, strength=1.0 if small else 0.6
    ).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    multiple = MODELS[options.model]().size_multiple
    if options.size < multiple or options.size % multiple:
        parser.error(f"--size must be a positive multiple of {multiple}, got {options.size}")
    return options


def table(measured: list[Measured], peak: float) -> str:
    """One row for each contender, in Markdown. `ratio` is ours to it: below 1, ours is faster.

    The ratio is the median over turns, each of which both had under nearly the same conditions.
    """
    ours = measured[0]
    flops = ours.flops
    rows = [COLUMNS]
    for one in measured:
        ratio = statistics.median(a / b for a, b in zip(ours.seconds, one.seconds, strict=True))
        rows.append(
            (
                one.name,
                f"{one.median:.3f}",
                f"{min(one.seconds):.3f} to {max(one.seconds):.3f}",
                "" if one is ours else f"{ratio:.2f}",
                f"{statistics.median(one.cpu):.2f}",
                f"{one.memory / 1e9:.2f}",
                f"{flops / 1e12:.3f}" if flops else "",
                f"{flops / one.median / peak:.0%}" if flops else "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines += [f"{one.name}: {name} {value:.4g}" for one in measured for name, value in one.notes.items()]
    for one in measured[1:]:
        if ours.output is not None and one.output is not None:
            largest, psnr = agreement(ours.output, one.output)
            lines.append(f"{ours.name} and {one.name}: outputs differ by at most {largest:.2g}, PSNR {psnr:.0f} dB")
    return "\n".join(lines)


def matmul_peak(size: int = 2048, tries: int = 7) -> float:
    """Floating point operations a second of the best of some float32 matrix products by NumPy."""
    matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _versions() -> str:
    names = ["jax", *(name for name in ("torch", "diffusers", "openvino") if find_spec(name))]
    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
