"""`ssd1b samplers`: the names that --scheduler takes."""

import argparse

from ssd1b_jax.cli.console import add_json, print_json


def add(commands) -> None:
    parser = commands.add_parser(
        "samplers", help="the names that --scheduler takes", description="List all samplers, and their other names."
    )
    parser.set_defaults(command=_run)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> None:
    from ssd1b_jax.samplers import SAMPLERS

    if arguments.json:
        for name, sampler in SAMPLERS.items():
            print_json(dict(name=name, description=sampler.description, names=[*sampler.names]))
        return
    width = max(len(name) for name in SAMPLERS)
    for name, sampler in SAMPLERS.items():
        also = "" if name.endswith("_karras") else f" (also {', '.join(sampler.names)})"
        print(f"{name:<{width}}  {sampler.description}{also}")
    print(
        "\nSpelling is free: DPM++ 2M Karras is dpmpp_2m_karras. On Karras noise levels a sampler has its other\n"
        "names too, followed by Karras."
    )
