"""A plan in words and numbers: a table for people, an object for programs."""

import dataclasses
from typing import Any


def facts(model: str, plan, plain: bool) -> dict[str, Any]:
    """A plan's JSON object: bytes, seconds, and what fits; None where the device's limits are unknown."""
    return dict(
        model=model,
        plain_attention=plain,
        width=plan.width,
        height=plan.height,
        dtype=plan.dtype,
        per_device=plan.per_device,
        devices=plan.devices,
        device_kind=plan.device_kind,
        quick=plan.quick,
        programs=[_program(program, plan.chip) for program in plan.programs],
    )


def _program(program, chip) -> dict[str, Any]:
    return dict(
        title=program.title,
        memory=program.memory,
        other_weights=program.idle,
        fits=None if chip is None else program.fits(chip),
        roofline_seconds=None if chip is None else max(program.cost.roofline(chip)),
        **dataclasses.asdict(program.cost),
    )


def lines(model: str, plan, with_blocks: bool):
    """A plan as a table, line by line."""
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


def compared(ours, plain):
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
