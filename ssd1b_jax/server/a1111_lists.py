"""What A1111's clients ask for at their start: models, samplers, options, and lists of what this program lacks.

There is one model, so a change of it is accepted and changes nothing. Lists of what there is not are empty.
"""

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax.samplers import SAMPLERS
from ssd1b_jax.server import answers
from ssd1b_jax.server.a1111_extras import NO_UPSCALER, UPSCALER
from ssd1b_jax.server.service import Service

BASE = "/sdapi/v1"
EMPTY = (
    "prompt-styles",
    "realesrgan-models",
    "artists",
    "artist-categories",
    "latent-upscale-modes",
    "sd-vae",
    "sd-modules",
    "hypernetworks",
    "face-restorers",
)
UPSCALERS = (NO_UPSCALER, UPSCALER)
SCHEDULES = {"automatic": "Automatic", "karras": "Karras"}
CHANGES = ("options", "refresh-checkpoints", "refresh-loras", "refresh-vae", "unload-checkpoint", "reload-checkpoint")
CONTROLNET = {
    "version": {"version": 0},
    "module_list": {"module_list": []},
    "model_list": {"model_list": []},
    "settings": {"control_net_unit_count": 0},
}


def routes(service: Service) -> list[Route]:
    lists = Lists(service)
    return [
        Route(f"{BASE}/options", lists.options, methods=["GET"]),
        Route(f"{BASE}/samplers", lists.samplers),
        Route(f"{BASE}/schedulers", lists.schedulers),
        Route(f"{BASE}/sd-models", lists.models),
        Route(f"{BASE}/loras", lists.loras),
        Route(f"{BASE}/embeddings", lists.embeddings),
        Route(f"{BASE}/upscalers", lists.upscalers),
        Route(f"{BASE}/scripts", lists.scripts),
        Route(f"{BASE}/script-info", answers.empty_list),
        Route(f"{BASE}/memory", lists.memory),
        Route(f"{BASE}/cmd-flags", answers.empty_object),
        Route("/controlnet/{name}", lists.controlnet),
        Route("/config", answers.empty_object),
        Route("/user", answers.empty_object),
        *(Route(f"{BASE}/{name}", answers.empty_list) for name in EMPTY),
        *(Route(f"{BASE}/{name}", answers.nothing, methods=["POST"]) for name in CHANGES),
    ]


class Lists:
    """The routes, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def options(self, request: HTTPRequest) -> Response:
        return answers.as_json({"sd_model_checkpoint": self._service.model_names[1], "samples_format": "png"})

    async def samplers(self, request: HTTPRequest) -> Response:
        rows = [{"name": row.label, "aliases": [key], "options": {}} for key, row in _rows().items()]
        return answers.as_json(rows)

    async def schedulers(self, request: HTTPRequest) -> Response:
        rows = [{"name": name, "label": label, "aliases": []} for name, label in SCHEDULES.items()]
        return answers.as_json(rows)

    async def models(self, request: HTTPRequest) -> Response:
        name, title, short, digest = self._service.model_names
        model = {
            "title": title,
            "model_name": name,
            "hash": short,
            "sha256": digest,
            "filename": name,
            "config": None,
        }
        return answers.as_json([model])

    async def loras(self, request: HTTPRequest) -> Response:
        names = self._service.loaded().loras
        return answers.as_json([{"name": name, "alias": name, "path": "", "metadata": {}} for name in names])

    async def upscalers(self, request: HTTPRequest) -> Response:
        rows = [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS
        ]
        return answers.as_json(rows)

    async def embeddings(self, request: HTTPRequest) -> Response:
        return answers.as_json({"loaded": {}, "skipped": {}})

    async def scripts(self, request: HTTPRequest) -> Response:
        return answers.as_json({"txt2img": [], "img2img": []})

    async def memory(self, request: HTTPRequest) -> Response:
        return answers.as_json({"ram": {}, "cuda": {}})

    async def controlnet(self, request: HTTPRequest) -> Response:
        return answers.as_json(CONTROLNET.get(request.path_params["name"], {}))


def _rows():
    """Samplers without their variants on other schedules, which are a field of their own there."""
    return {key: row for key, row in SAMPLERS.items() if not row.schedule}
