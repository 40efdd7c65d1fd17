"""Small models with random weights: one of SSD-1B's topology, and one of a single block."""

from pathlib import Path

import jax
import numpy as np

from ssd1b_jax import config
from ssd1b_jax.checkpoints.model_folder import abstract_params, save_model
from ssd1b_jax.training import vocabulary

SIZE = 32


def tiny_config() -> config.ModelConfig:
    """SSD-1B's topology, 8 channels wide, at 32 x 32 pixels."""
    encoder = dict(
        vocab_size=520, num_hidden_layers=2, max_position_embeddings=16, eos_token_id=519, intermediate_size=32
    )
    return config.ModelConfig(
        unet=config.UNetConfig(
            block_out_channels=(8, 16, 16),
            down_depths=((0, 0), (1, 1), (1, 1)),
            up_depths=((1, 1, 1), (1, 1, 1), (0, 0, 0)),
            mid_depth=0,
            num_attention_heads=(1, 2, 2),
            cross_attention_dim=32,
            added_cond_dim=16 + 6 * 8,
            added_time_embed_dim=8,
            norm_num_groups=4,
        ),
        vae=config.VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.5),
        text_encoder=config.CLIPTextConfig(hidden_size=16, num_attention_heads=2, hidden_act="quick_gelu", **encoder),
        text_encoder_2=config.CLIPTextConfig(
            hidden_size=16, num_attention_heads=2, hidden_act="gelu", projection_dim=16, **encoder
        ),
        defaults=config.Defaults(width=SIZE, height=SIZE, num_inference_steps=6, guidance_scale=3.0, strength=0.6),
    )


def smallest_config() -> config.ModelConfig:
    """One block of every kind; too few for a picture."""
    encoder = dict(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=11, num_attention_heads=1)
    return config.ModelConfig(
        unet=config.UNetConfig(
            block_out_channels=(8,),
            down_depths=((1,),),
            up_depths=((1, 1),),
            mid_depth=0,
            num_attention_heads=(1,),
            cross_attention_dim=16,
            added_cond_dim=4 + 6 * 2,
            added_time_embed_dim=2,
            norm_num_groups=4,
        ),
        vae=config.VAEConfig(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4),
        text_encoder=config.CLIPTextConfig(**encoder, hidden_act="quick_gelu"),
        text_encoder_2=config.CLIPTextConfig(**encoder, hidden_act="gelu", projection_dim=4),
    )


def random_params(model: config.ModelConfig, seed: int = 0) -> dict:
    """Weights that keep activations at their size: scales near 1, kernels by fan-in."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "scale":
            return 1 + 0.1 * values
        return values * 0.1 if leaf.ndim == 1 else values * np.prod(leaf.shape[:-1]) ** -0.5

    return jax.tree_util.tree_map_with_path(draw, abstract_params(model))


def save(folder: Path) -> Path:
    names = folder.with_name("tokenizers")
    vocabulary.save(names, ["a red apple"], size=520, length=16)
    model = tiny_config()
    save_model(folder, model, random_params(model), tokenizers=names, dtype="float32", source="random weights")
    return folder
