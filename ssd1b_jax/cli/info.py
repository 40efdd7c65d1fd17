"""`ssd1b info`: the contents of a model folder, and the devices and versions here."""

import argparse
import dataclasses
import sys
import textwrap
from typing import Any

from ssd1b_jax import __version__
from ssd1b_jax.cli.console import add_json, print_json

WIDTH = 100  # characters of a line


def add(commands) -> None:
    parser = commands.add_parser(
        "info",
        help="what is in a model folder, verified; devices, versions",
        description="Verify a model folder and describe it, the devices and the versions.",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("model", nargs="?", default="emoji", metavar="MODEL", help="emoji (default) or a folder")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check every file's sha256 (default), or believe the manifest",
    )
    add_json(parser)


def _run(arguments: argparse.Namespace) -> None:
    facts = _facts(arguments.model, arguments.verify)
    if arguments.json:
        print_json(facts)
    else:
        print("\n".join(_lines(facts)))


def _facts(model: str, verify: bool) -> dict[str, Any]:
    import math

    import flax
    import jax

    from ssd1b_jax.checkpoints import model_folder, model_json
    from ssd1b_jax.engine.devices import local_devices
    from ssd1b_jax.prompts.known import KnownWords

    manifest = model_folder.verify(model) if verify else model_json.read_manifest(model)
    devices = [str(device) for device in local_devices()]
    config = manifest.config
    known = KnownWords.read(manifest.folder, manifest.name)
    shapes = model_folder.abstract_params(config, manifest.dtype)
    return dict(
        model=model,
        folder=str(manifest.folder),
        verified=verify,
        source=manifest.source,
        revision=manifest.revision,
        licence=manifest.licence,
        dtype=manifest.dtype,
        parameters={
            part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for part, tree in shapes.items()
        },
        size_multiple=config.size_multiple,
        defaults=dataclasses.asdict(config.defaults),
        words=sorted(known.words) if known else None,
        devices=devices,
        versions=dict(ssd1b_jax=__version__, jax=jax.__version__, flax=flax.__version__, python=sys.version.split()[0]),
    )


def _lines(facts: dict[str, Any]):
    checked = "every file verified" if facts["verified"] else "not verified"
    defaults = facts["defaults"]
    yield f"model       {facts['model']} ({facts['folder']}), {checked}"
    yield f"source      {facts['source']}" + (f", revision {facts['revision']}" if facts["revision"] else "")
    yield f"licence     {facts['licence']}"
    yield f"weights     {facts['dtype']}"
    for part, count in facts["parameters"].items():
        yield f"  {part:<16}{count:>15,} parameters"
    yield (f"size        {defaults['width']} x {defaults['height']} by default, multiples of {facts['size_multiple']}")
    yield (
        f"defaults    strength {defaults['strength']:g}, {defaults['num_inference_steps']} steps, "
        f"guidance {defaults['guidance_scale']:g}"
    )
    if facts["words"]:
        yield textwrap.fill(f"words       {' '.join(facts['words'])}", WIDTH, subsequent_indent=" " * 12)
    yield f"devices     {', '.join(facts['devices'])}"
    yield f"versions    {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}"
