"""`ssd1b info`: what is in a model folder, and what it runs on."""

import argparse
import sys

from ssd1b_jax import __version__


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


def _run(arguments: argparse.Namespace) -> None:
    import math

    import flax
    import jax

    from ssd1b_jax.checkpoints import model_folder

    manifest = (model_folder.verify if arguments.verify else model_folder.read_manifest)(arguments.model)
    checked = "every file verified" if arguments.verify else "not verified"
    print(f"model       {arguments.model} ({manifest.folder}), {checked}")
    print(f"source      {manifest.source}" + (f", revision {manifest.revision}" if manifest.revision else ""))
    print(f"licence     {manifest.licence}")
    config = manifest.config
    print(f"weights     {manifest.dtype}")
    for part, tree in model_folder.abstract_params(config, manifest.dtype).items():
        print(f"  {part:<16}{sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)):>15,} parameters")
    defaults = config.defaults
    print(f"size        {defaults.width} x {defaults.height} by default, multiples of {config.size_multiple}")
    print(
        f"defaults    strength {defaults.strength:g}, {defaults.num_inference_steps} steps, "
        f"guidance {defaults.guidance_scale:g}"
    )
    print(f"devices     {', '.join(str(device) for device in jax.local_devices())}")
    versions = dict(ssd1b_jax=__version__, jax=jax.__version__, flax=flax.__version__, python=sys.version.split()[0])
    print(f"versions    {', '.join(f'{name} {version}' for name, version in versions.items())}")
