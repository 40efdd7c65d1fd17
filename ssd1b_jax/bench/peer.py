"""Each part as diffusers and PyTorch do it; the one place in the package that knows them.

They come with the optional extra `reference`. The networks are built from our configs, with random weights.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np

from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.task import GUIDED, Task

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import torch
    import transformers

diffusers.logging.set_verbosity_error()
transformers.logging.set_verbosity_error()
FOLDER = Path(tempfile.gettempdir()) / "ssd1b_jax-bench"


def _filled(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep activations at their size, in memory that is allocated once."""
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    numbers = torch.randn(1 << 20)
    for name, weight in module.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.02)
        else:
            repeated = numbers.repeat(-(-weight.numel() // numbers.numel()))[: weight.numel()]
            weight.copy_(repeated.view(weight.shape) * weight[0].numel() ** -0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return module


def make_unet(task: Task):
    config = task.config.unet
    levels = range(len(config.block_out_channels))
    cross = [any(config.down_depths[level]) for level in levels]
    with torch.device("meta"):
        module = diffusers.UNet2DConditionModel(
            sample_size=task.latents[0],
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            down_block_types=["CrossAttnDownBlock2D" if with_text else "DownBlock2D" for with_text in cross],
            up_block_types=["CrossAttnUpBlock2D" if with_text else "UpBlock2D" for with_text in reversed(cross)],
            mid_block_type="UNetMidBlock2DCrossAttn" if config.mid_depth else "UNetMidBlock2D",
            transformer_layers_per_block=[list(depths) if any(depths) else 1 for depths in config.down_depths],
            reverse_transformer_layers_per_block=[list(depths) if any(depths) else 1 for depths in config.up_depths],
            attention_head_dim=list(config.num_attention_heads),
            cross_attention_dim=config.cross_attention_dim,
            addition_embed_type="text_time",
            addition_time_embed_dim=config.added_time_embed_dim,
            projection_class_embeddings_input_dim=config.added_cond_dim,
            use_linear_projection=True,
            norm_num_groups=config.norm_num_groups,
        )
    return _filled(module)


def make_vae(task: Task):
    config = task.config.vae
    levels = len(config.block_out_channels)
    with torch.device("meta"):
        module = diffusers.AutoencoderKL(
            block_out_channels=config.block_out_channels,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            scaling_factor=config.scaling_factor,
            force_upcast=False,
        )
    return _filled(module)


def make_text_encoders(task: Task):
    made = []
    for config in (task.config.text_encoder, task.config.text_encoder_2):
        names = (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
            "max_position_embeddings", "eos_token_id",
        )  # fmt: skip
        settings = {name: getattr(config, name) for name in names}
        if config.projection_dim is None:
            module = transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))
        else:
            settings["projection_dim"] = config.projection_dim
            module = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**settings))
        made.append(module.eval().requires_grad_(False))
    return made


def _nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def _inference(call) -> Prepared:
    def run():
        with torch.inference_mode():
            call()

    return Prepared(run)


def unet(task: Task) -> Prepared:
    module = make_unet(task)
    latents, timesteps = _nchw(task.draw(GUIDED, *task.latents)), torch.full((GUIDED,), 500.0)
    context = torch.from_numpy(task.draw(GUIDED, task.length, task.config.unet.cross_attention_dim))
    pooled = torch.from_numpy(task.draw(GUIDED, task.config.unet.pooled_dim))
    added = dict(text_embeds=pooled, time_ids=torch.ones(GUIDED, 6))
    return _inference(lambda: module(latents, timesteps, context, added_cond_kwargs=added))


def vae_encode(task: Task) -> Prepared:
    module, image = make_vae(task), _nchw(task.draw(1, task.size, task.size, 3))
    return _inference(lambda: module.encode(image))


def vae_decode(task: Task) -> Prepared:
    module, latents = make_vae(task), _nchw(task.draw(1, *task.latents))
    return _inference(lambda: module.decode(latents))


def text(task: Task) -> Prepared:
    modules, tokens = make_text_encoders(task), torch.from_numpy(task.tokens())
    return _inference(lambda: [module(tokens, output_hidden_states=True) for module in modules])


def _pipeline(task: Task):
    first, second = make_text_encoders(task)
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=make_vae(task), text_encoder=first, text_encoder_2=second, tokenizer=None, tokenizer_2=None,
        unet=make_unet(task), scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **schedule),
        add_watermarker=False,
    )  # fmt: skip


def _remake(pipe, task: Task) -> None:
    """A whole picture, text encoders included; the ids are given, as the two vocabularies differ."""
    tokens = torch.from_numpy(task.tokens())
    first = pipe.text_encoder(tokens, output_hidden_states=True)
    second = pipe.text_encoder_2(tokens, output_hidden_states=True)
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    pooled = second.text_embeds
    pipe.set_progress_bar_config(disable=True)
    pipe(
        image=diffusers.utils.numpy_to_pil(task.picture()[None] / 255.0)[0], strength=task.strength,
        num_inference_steps=task.steps, guidance_scale=5.0, prompt_embeds=context[1:], pooled_prompt_embeds=pooled[1:],
        negative_prompt_embeds=context[:1], negative_pooled_prompt_embeds=pooled[:1],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def img2img(task: Task) -> Prepared:
    pipe = _pipeline(task)
    return _inference(lambda: _remake(pipe, task))


def _parts(task: Task) -> dict:
    first, second = make_text_encoders(task)
    return dict(unet=make_unet(task), vae=make_vae(task), text_encoder=first, text_encoder_2=second)


KINDS = dict(
    unet=diffusers.UNet2DConditionModel,
    vae=diffusers.AutoencoderKL,
    text_encoder=transformers.CLIPTextModel,
    text_encoder_2=transformers.CLIPTextModelWithProjection,
)


def _load(task: Task) -> dict:
    """Every part from its safetensors files, which are written where there are none yet."""
    folder = FOLDER / task.model
    if not folder.exists():
        for name, module in _parts(task).items():
            module.save_pretrained(folder / name)
    return {name: kind.from_pretrained(folder / name) for name, kind in KINDS.items()}


def load(task: Task) -> Prepared:
    return Prepared(lambda: _load(task) and None)


def start(task: Task) -> Prepared:
    def run():
        parts = _load(task)
        schedule = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        tokenizers = dict(tokenizer=None, tokenizer_2=None, scheduler=schedule, add_watermarker=False)
        _remake(diffusers.StableDiffusionXLImg2ImgPipeline(**parts, **tokenizers), task)

    return _inference(run)


PARTS = {
    "unet": unet, "vae-encode": vae_encode, "vae-decode": vae_decode, "text": text, "img2img": img2img,
    "start": start, "load": load,
}  # fmt: skip
