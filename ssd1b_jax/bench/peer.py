"""Each part as diffusers and PyTorch do it; the one place in the package that knows them.

They come with the optional extra `reference`. The networks have our configs and our random weights.
"""

import io
import warnings
from collections.abc import Callable

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.bench import served, weights
from ssd1b_jax.bench.contenders import Prepared, started
from ssd1b_jax.bench.task import FOLDER, GUIDED, PICTURES, TOGETHER, Task
from ssd1b_jax.checkpoints.diffusers_config import to_diffusers_configs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import torch
    import transformers

for library in (diffusers, transformers):
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()


KINDS = dict(
    unet=diffusers.UNet2DConditionModel,
    vae=diffusers.AutoencoderKL,
    text_encoder=transformers.CLIPTextModel,
    text_encoder_2=transformers.CLIPTextModelWithProjection,
)


def _filled(module: torch.nn.Module) -> torch.nn.Module:
    """The module with the weights of `weights.tensor`."""
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    for name, weight in module.named_parameters():
        weight.copy_(torch.from_numpy(weights.tensor(name, tuple(weight.shape))))
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return module


def make(part: str, task: Task) -> torch.nn.Module:
    """A network by the config that a diffusers folder of the model has."""
    config = to_diffusers_configs(task.config)[f"{part}/config.json"]
    with torch.device("meta"):
        if part in ("unet", "vae"):
            module = KINDS[part].from_config(config)
        else:
            module = KINDS[part](transformers.CLIPTextConfig(**config))
    return _filled(module)


def _nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def _inference(call: Callable, output: Callable | None = None) -> Prepared:
    """`call` without gradients. `output` turns its result into the array to compare."""

    def run():
        with torch.inference_mode():
            return call()

    return Prepared(run, output=None if output is None else lambda: output(run()))


class Call(torch.nn.Module):
    """A call of a network as a module of its own, from tensors to tensors."""

    def __init__(self, network: torch.nn.Module, call: Callable):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs: torch.Tensor):
        return self.call(self.network, *inputs)


def call(task: Task) -> tuple[Call, tuple[torch.Tensor, ...]]:
    """A network's part as a module, and what to call it with."""
    if task.part == "vae-encode":
        image = _nchw(task.draw(1, task.size, task.size, 3))
        return Call(make("vae", task), lambda vae, image: vae.encode(image).latent_dist.parameters), (image,)
    latents = task.draw(1 if task.part == "vae-decode" else GUIDED, *task.latents)
    if task.part == "vae-decode":
        return Call(make("vae", task), lambda vae, latents: vae.decode(latents).sample), (_nchw(latents),)
    context = torch.from_numpy(task.draw(GUIDED, task.length, task.config.unet.cross_attention_dim))
    pooled = torch.from_numpy(task.draw(GUIDED, task.config.unet.pooled_dim))

    def denoise(unet, latents, timesteps, context, pooled, time_ids):
        added = dict(text_embeds=pooled, time_ids=time_ids)
        return unet(latents, timesteps, context, added_cond_kwargs=added).sample

    return Call(make("unet", task), denoise), (
        _nchw(latents), torch.full((GUIDED,), 500.0), context, pooled, torch.ones(GUIDED, 6),
    )  # fmt: skip


def network(task: Task) -> Prepared:
    module, inputs = call(task)
    return _inference(lambda: module(*inputs), lambda result: output(task, result.numpy()))


def output(task: Task, result: np.ndarray) -> np.ndarray:
    """A network's result, channels last. Of the VAE encoder it is the mean."""
    result = np.moveaxis(result, 1, -1)
    return np.split(result, 2, axis=-1)[0] if task.part == "vae-encode" else result


def text(task: Task) -> Prepared:
    modules = [make(part, task) for part in ("text_encoder", "text_encoder_2")]
    tokens = torch.from_numpy(task.tokens())

    def hidden(features: list) -> np.ndarray:
        return np.concatenate([each.hidden_states[-2].numpy() for each in features], axis=-1)

    return _inference(lambda: [module(tokens, output_hidden_states=True) for module in modules], hidden)


def _parts(task: Task) -> dict:
    return {part: make(part, task) for part in KINDS}


def _pipeline(task: Task, parts: dict):
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        **parts, tokenizer=None, tokenizer_2=None, add_watermarker=False,
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **schedule),
    )  # fmt: skip


def _remake(pipe, task: Task, pictures: list, steps: int | None = None) -> list:
    """Whole pictures, text encoders included; the ids are given, as the two vocabularies differ."""
    count = len(pictures)
    tokens = torch.from_numpy(task.tokens()).repeat_interleave(count, dim=0)
    first = pipe.text_encoder(tokens, output_hidden_states=True)
    second = pipe.text_encoder_2(tokens, output_hidden_states=True)
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    pooled = second.text_embeds
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        image=pictures, strength=task.strength, num_inference_steps=steps or task.steps, guidance_scale=5.0,
        prompt_embeds=context[count:], pooled_prompt_embeds=pooled[count:],
        negative_prompt_embeds=context[:count], negative_pooled_prompt_embeds=pooled[:count],
        generator=[torch.Generator().manual_seed(i) for i in range(count)],
    ).images  # fmt: skip


def _one(pipe, task: Task) -> Prepared:
    picture = diffusers.utils.numpy_to_pil(task.picture()[None] / 255.0)
    return _inference(lambda: _remake(pipe, task, picture))


def img2img(task: Task) -> Prepared:
    return _one(_pipeline(task, _parts(task)), task)


def _from_files(task: Task, count: int) -> Prepared:
    """Pictures read from as many files and written to others, some at a time."""
    pipe, paths = _pipeline(task, _parts(task)), task.write_pictures("peer", count)

    def run():
        for start in range(0, count, TOGETHER):
            some = paths[start : start + TOGETHER]
            pictures = [diffusers.utils.load_image(str(path)).resize((task.size, task.size)) for path in some]
            for path, picture in zip(some, _remake(pipe, task, pictures), strict=True):
                picture.save(path.with_stem(f"{path.stem}-made"))

    return _inference(run)


def host(task: Task) -> Prepared:
    return _from_files(task, 1)


def batch(task: Task) -> Prepared:
    return _from_files(task, PICTURES)


def queue(task: Task) -> Prepared:
    """A loop over pictures of mixed or equal steps, one at a time."""
    pipe, picture = _pipeline(task, _parts(task)), diffusers.utils.numpy_to_pil(task.picture()[None] / 255.0)

    def run() -> None:
        for steps in task.all_steps():
            _remake(pipe, task, picture, steps)

    return _inference(run)


def serve(task: Task) -> Prepared:
    """FastAPI with a lock round the pipeline, asked by clients over HTTP."""
    pipe = _pipeline(task, _parts(task))

    def make(data: bytes, steps: int) -> bytes:
        picture, file = diffusers.utils.numpy_to_pil(images.load(data).pixels[None] / 255.0)[0], io.BytesIO()
        with torch.inference_mode():
            _remake(pipe, task, [picture], steps)[0].save(file, "PNG")
        return file.getvalue()

    return served.locked(task, make)


def _load(task: Task) -> dict:
    """Every part from its safetensors files, which are written where there are none yet."""
    folder = FOLDER / "peer" / task.model
    if not folder.exists():
        for name, module in _parts(task).items():
            module.save_pretrained(folder.with_suffix(".partial") / name)
        folder.with_suffix(".partial").rename(folder)
    return {name: kind.from_pretrained(folder / name) for name, kind in KINDS.items()}


def load(task: Task) -> Prepared:
    return Prepared(lambda: _load(task) and None)


def start(task: Task) -> Prepared:
    return started(_one(_pipeline(task, _load(task)), task).run)


PARTS = {
    "unet": network, "vae-encode": network, "vae-decode": network, "text": text, "img2img": img2img,
    "start": start, "load": load, "batch": batch, "host": host,
    "queue": queue, "queue-even": queue, "serve": serve,
}  # fmt: skip
