"""The config of a single file, from the names and shapes in it, or the name of the other family that it is of."""

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ssd1b_jax.checkpoints import families
from ssd1b_jax.checkpoints.safetensors import summary
from ssd1b_jax.checkpoints.tensor_names import PREFIXES
from ssd1b_jax.config import CLIPTextConfig, ModelConfig, UNetConfig, VAEConfig
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.presets import PRESETS, Preset

# What shapes do not say, and all of the family share.
HEAD_WIDTH, CLIP_HEAD_WIDTH, NORM_GROUPS, EMBEDDED_IDS = 64, 64, 32, 6
MOST_LAYERS, LARGEST = 128, 1 << 17  # layers, and the length of an axis, beyond which a file is no model


class _Layout(NamedTuple):
    """The names of a text encoder's tensors, and the activation that goes with them."""

    tokens: str
    positions: str
    layers: str
    widening: str  # of each layer's two linear maps, the first
    projection: str | None
    activation: str


CLIP = _Layout(
    tokens="text_model.embeddings.token_embedding.weight",
    positions="text_model.embeddings.position_embedding.weight",
    layers="text_model.encoder.layers",
    widening="mlp.fc1",
    projection=None,
    activation="quick_gelu",
)
OPEN_CLIP = _Layout(
    tokens="token_embedding.weight",
    positions="positional_embedding",
    layers="transformer.resblocks",
    widening="mlp.c_fc",
    projection="text_projection",
    activation="gelu",
)


def family(config: ModelConfig) -> Preset | None:
    """The released model that has this UNet, if one has."""
    released = (preset for preset in PRESETS.values() if preset.hub)
    return next((preset for preset in released if preset.config().unet == config.unet), None)


def infer(tensors: list[tuple[str, np.ndarray]]) -> ModelConfig:
    """The config of a single file, on SDXL's schedule, or WeightsError with the name of the family that it is of."""
    shapes = {name: tensor.shape for name, tensor in tensors}
    absent = [part for part, prefix in PREFIXES.items() if not any(name.startswith(prefix) for name in shapes)]
    if absent:
        kind = families.kind(shapes)
        if kind is None and "unet" not in absent:
            kind = f"a UNet without {' and '.join(absent)}"
        raise WeightsError(
            f"this is {kind or 'no model that is known here'}; single files of the SDXL family are converted"
        )
    ours = ((name, shape) for name, shape in shapes.items() if name.startswith(tuple(PREFIXES.values())))
    for name, shape in ours:
        if not all(0 < length <= LARGEST for length in shape):
            raise WeightsError(f"{name[:200]} is {shape}, which nothing in the SDXL family is")
    below = {part: _below(shapes, part) for part in PREFIXES}
    readers = {
        "unet": lambda unet: _unet(unet, below["text_encoder_2"]),
        "vae": _vae,
        "text_encoder": lambda text: _clip(text, CLIP),
        "text_encoder_2": lambda text: _clip(text, OPEN_CLIP),
    }
    parts, missing = {}, set()
    try:
        for part, read in readers.items():
            try:
                parts[part] = read(below[part])
            except KeyError as error:  # the first of its part; more can't be known without a config
                missing.add(("missing", error.args[0]))
        if missing:
            raise WeightsError(summary(sorted(missing), "this lacks what every model of the SDXL family has"))
        return ModelConfig(**parts)
    except WeightsError:
        raise
    except (IndexError, ArithmeticError, ValueError) as error:
        raise WeightsError(f"this is no model of the SDXL family: {error}") from None


def _below(shapes: dict[str, tuple[int, ...]], part: str) -> dict[str, tuple[int, ...]]:
    prefix = PREFIXES[part]
    return _Shapes(prefix, {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)})


class _Shapes(dict):
    """Shapes by name, without a prefix. A missing name raises KeyError with the prefix."""

    def __init__(self, prefix: str, shapes: dict[str, tuple[int, ...]]):
        super().__init__(shapes)
        self.prefix = prefix

    def __missing__(self, name: str):
        raise KeyError(self.prefix + name)

    def count(self, pattern: str) -> int:
        """The count of distinct numbers that the pattern's group matches."""
        matches = (re.match(pattern, name) for name in self)
        return len({match[1] for match in matches if match})


def _unet(shapes: "_Shapes", text: "_Shapes") -> UNetConfig:
    """`text` are the shapes of the second text encoder, whose output the UNet takes."""
    channels = shapes["input_blocks.0.0.weight"][1]
    if channels == 9:
        raise WeightsError("this is an inpainting model (its UNet takes 9 channels), which is not supported")
    if channels != 4:
        raise WeightsError(f"this UNet takes {channels} channels, not 4: an editing model, or of another family")
    if "time_embed.cond_proj.weight" in shapes:
        raise WeightsError("this UNet takes the guidance scale (an LCM), which is not supported")
    inner, middle, outer = (_depths(shapes, block) for block in ("input_blocks", "middle_block", "output_blocks"))
    levels: list[list[int]] = [[]]
    for number, depth in enumerate(inner[1:], 1):  # the first is the convolution in
        if f"input_blocks.{number}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(depth)
    layers = len(levels[0]) + 1
    widths = tuple(
        shapes[f"input_blocks.{1 + level * layers}.0.out_layers.3.weight"][0] for level in range(len(levels))
    )
    if max(len(inner), len(outer), *inner, *middle, *outer) > MOST_LAYERS:
        raise WeightsError("this UNet has more layers than any of the SDXL family")
    added = shapes["label_emb.0.0.weight"][1]
    usual = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    attending = next((name for name in shapes if name.endswith("attn2.to_k.weight")), usual)
    return UNetConfig(
        block_out_channels=widths,
        down_depths=tuple(tuple(row) for row in levels),
        up_depths=tuple(tuple(outer[start : start + layers]) for start in range(0, len(outer), layers)),
        mid_depth=max(middle, default=0),
        num_attention_heads=tuple(width // HEAD_WIDTH for width in widths),
        cross_attention_dim=shapes[attending][1],
        added_cond_dim=added,
        added_time_embed_dim=(added - text["text_projection"][1]) // EMBEDDED_IDS,
        norm_num_groups=NORM_GROUPS,
    )


def _depths(shapes: "_Shapes", block: str) -> list[int]:
    """The number of transformer layers in each of the numbered blocks."""
    layers: dict[int, set] = defaultdict(set)
    for name in shapes:
        if match := re.match(rf"{block}\.(\d{{1,4}})\.(?:1\.)?(?:transformer_blocks\.(\d+)\.)?", name):
            layers[int(match[1])] |= {match[2]} - {None}
    return [len(layers[number]) for number in sorted(layers)]


def _vae(shapes: "_Shapes") -> VAEConfig:
    levels = shapes.count(r"encoder\.down\.(\d+)\.")
    widths = tuple(shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(min(levels, 9)))
    return VAEConfig(
        block_out_channels=widths,
        layers_per_block=shapes.count(r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=shapes["post_quant_conv.weight"][0],
        in_channels=shapes["encoder.conv_in.weight"][1],
        norm_num_groups=NORM_GROUPS,
    )


def _clip(shapes: "_Shapes", layout: _Layout) -> CLIPTextConfig:
    vocabulary, width = shapes[layout.tokens]
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes[f"{layout.layers}.0.{layout.widening}.weight"][0],
        num_hidden_layers=_few(shapes.count(rf"{re.escape(layout.layers)}\.(\d+)\.")),
        num_attention_heads=width // CLIP_HEAD_WIDTH,
        hidden_act=layout.activation,
        max_position_embeddings=shapes[layout.positions][0],
        projection_dim=None if layout.projection is None else shapes[layout.projection][1],
    )


def _few(layers: int) -> int:
    if layers > MOST_LAYERS:
        raise WeightsError(f"this text encoder has {layers} layers, more than any of the SDXL family")
    return layers
