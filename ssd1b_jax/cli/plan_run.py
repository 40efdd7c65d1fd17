"""`ssd1b plan --manifest`: how long a run would take on machines that are not here, and what it would cost."""

import argparse
from typing import Any

from ssd1b_jax.cli.console import print_json
from ssd1b_jax.errors import PlanError

DEFAULT_EFFICIENCY = 0.5


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("A run", "How long a manifest of `ssd1b batch` would take: an estimate.")
    add = group.add_argument
    add("--manifest", metavar="MANIFEST", help="the pictures to make, of any sizes")
    add("--hosts", type=int, default=1, metavar="N", help="machines of that topology (default: 1)")
    add(
        "--efficiency",
        type=float,
        default=DEFAULT_EFFICIENCY,
        metavar="0..1",
        help=f"the share of the roofline's speed that is reached (default: {DEFAULT_EFFICIENCY})",
    )
    add("--price", type=float, metavar="PRICE", help="of one device for an hour, to know what the run costs")


def check(arguments: argparse.Namespace) -> None:
    if arguments.hosts < 1:
        raise PlanError(f"hosts must be at least 1, got {arguments.hosts}")
    if not 0 < arguments.efficiency <= 1:
        raise PlanError(f"efficiency must be in (0, 1], got {arguments.efficiency:g}")
    if arguments.topology == "cpu":
        raise PlanError("no limits of CPUs are known, so how long a run takes there is not: give a TPU's --topology")
    if arguments.price is not None and arguments.price < 0:
        raise PlanError(f"price must be at least 0, got {arguments.price:g}")


def show(arguments: argparse.Namespace, make) -> None:
    """Print the estimate; `make(size)` plans a size (width, height)."""
    from ssd1b_jax import plan, runs
    from ssd1b_jax.runs.workload import workload

    check(arguments)
    defaults = runs.Defaults(config=plan.config_of(arguments.model), request=dict(prompt=""))
    loads, bad = workload(runs.read(arguments.manifest), defaults)
    plans = {size: make(size) for size in loads}
    facts = _facts(arguments, loads, plans) | dict(lines_that_are_wrong=bad)
    if arguments.json:
        print_json(facts)
    else:
        print("\n".join(_lines(facts)))


def _facts(arguments: argparse.Namespace, loads, plans) -> dict[str, Any]:
    first = next(iter(plans.values()))
    if first.chip is None:
        raise PlanError(f"no limits of {first.device_kind} are known: give a TPU's --topology")
    devices = first.devices * arguments.hosts
    busy = sum(_device_seconds(loads[size], plans[size]) for size in loads) / arguments.efficiency
    hours = busy / devices / 3600
    pictures = sum(load.pictures for load in loads.values())
    return dict(
        estimate=True,
        model=arguments.model,
        pictures=pictures,
        sizes={f"{width}x{height}": loads[width, height].pictures for width, height in loads},
        calls=round(sum(load.guided_calls + load.plain_calls for load in loads.values())),
        devices=devices,
        device_kind=first.device_kind,
        efficiency=arguments.efficiency,
        hours=hours,
        pictures_per_second=pictures / hours / 3600,
        device_hours=hours * devices,
        cost=None if arguments.price is None else hours * devices * arguments.price,
    )


def _device_seconds(load, plan) -> float:
    """Seconds that one device is busy with a load, at the roofline's speed."""
    prepare, advance, decode = (max(program.cost.roofline(plan.chip)) / plan.per_device for program in plan.programs)
    return load.pictures * (prepare + decode) + (load.guided_calls + load.plain_calls / 2) * advance


def _lines(facts: dict[str, Any]):
    sizes = ", ".join(f"{count} of {size}" for size, count in facts["sizes"].items())
    yield f"{facts['pictures']} pictures ({sizes}), {facts['calls']} model calls"
    if facts["lines_that_are_wrong"]:
        yield f"{facts['lines_that_are_wrong']} lines are wrong, and are left out"
    cost = "" if facts["cost"] is None else f", which cost {facts['cost']:,.2f}"
    yield (
        f"an ESTIMATE for {facts['devices']} x {facts['device_kind']} at {facts['efficiency']:.0%} of the roofline: "
        f"{_time(facts['hours'])}, {facts['pictures_per_second']:.2f} pictures/s, "
        f"{facts['device_hours']:.2f} device hours{cost}; starting and compiling not counted"
    )


def _time(hours: float) -> str:
    from ssd1b_jax.runs.estimate import words

    return words(hours * 3600)
