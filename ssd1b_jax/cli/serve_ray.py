"""What Ray Serve is told to run: `serve run ssd1b_jax.cli.serve_ray:app replicas=2`, or a file for `serve deploy`."""

import shlex
from functools import partial
from typing import Any, NoReturn

from ssd1b_jax.arguments import Parser
from ssd1b_jax.cli import serve
from ssd1b_jax.errors import RequestError

NAMES = ("options", "replicas", "resources", "fronts")


class _Options(Parser):
    """Options that no command line has given: what is wrong with them is raised."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"options: {' '.join(message.split())}")


def app(arguments: dict[str, Any]):
    """The application. `options` are those of `ssd1b serve`, in one text.

    `replicas` is how many servers there are, `resources` what Ray reserves for each ("TPU": 4), `fronts` how many
    processes take requests. Raises RequestError.
    """
    from ssd1b_jax.server import ray_serve

    if unknown := arguments.keys() - set(NAMES):
        raise RequestError(f"arguments are {', '.join(NAMES)}, got {min(unknown)!r}")
    parser = _Options(add_help=False)
    serve.add_options(parser)
    given = parser.parse_args(shlex.split(arguments.get("options", "")))
    options = serve.options(given)
    if not options.keys:
        raise RequestError(
            "other machines may reach what Ray Serve runs, which needs a key: give --api-key-file FILE in options, or "
            f"{serve.KEY_VARIABLE} in the environment"
        )
    return ray_serve.application(
        given.model,
        options,
        partial(serve.load, given),
        replicas=int(arguments.get("replicas", 1)),
        resources={name: float(amount) for name, amount in arguments.get("resources", {}).items()},
        fronts=int(arguments.get("fronts", 1)),
    )
