"""How much a manifest asks for, by the size of its pictures: what a plan of machines needs to know."""

from collections import defaultdict
from dataclasses import dataclass

from ssd1b_jax.errors import Error, RunError
from ssd1b_jax.runs.items import Defaults
from ssd1b_jax.runs.manifest import Manifest


@dataclass
class Load:
    """The pictures of one size, and their model calls: those with guidance do twice the work."""

    pictures: int = 0
    guided_calls: float = 0.0
    plain_calls: float = 0.0


def workload(manifest: Manifest, defaults: Defaults) -> tuple[dict[tuple[int, int], Load], int]:
    """The load of each size (width, height), and how many lines are wrong. Raises RunError where all are."""
    loads: dict[tuple[int, int], Load] = defaultdict(Load)
    bad = 0
    for line in manifest.lines():
        try:
            items = [*defaults.items(line)]
        except Error:
            bad += 1
            continue
        for item in items:
            request = item.request
            begin, end = request.guidance_interval
            calls = request.table(defaults.config).calls
            guided = calls * (end - begin) if request.guided else 0.0
            load = loads[request.width, request.height]
            load.pictures += 1
            load.guided_calls += guided
            load.plain_calls += calls - guided
    if not loads:
        raise RunError(f"{manifest.path} has no line that can be used: see what ssd1b batch --dry-run says")
    return dict(loads), bad
