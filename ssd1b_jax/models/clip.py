"""The causal CLIP text encoder (Radford et al., 2103.00020), with or without a projection.

SDXL joins two of them: CLIP ViT-L and OpenCLIP ViT-bigG.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ssd1b_jax.config import CLIPTextConfig
from ssd1b_jax.kernels import attention
from ssd1b_jax.models.layers import ACTIVATIONS, Embedding, LayerNorm, Linear
from ssd1b_jax.models.tracing import repeated

Hidden = Float[Array, "batch tokens channels"]
Tokens = Int[Array, "batch tokens"]


class TextFeatures(NamedTuple):
    """`hidden` are the states before the last layer or an earlier one, not normalized.

    `pooled` is the final state at the end-of-text token, projected if the encoder has a projection.
    """

    hidden: Hidden
    pooled: Float[Array, "batch features"]


class CausalSelfAttention(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out_proj = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Hidden) -> Hidden:
        mixed = attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), num_heads=self.num_heads, is_causal=True)
        return self.out_proj(mixed)


class MLP(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype, rngs: nnx.Rngs):
        self.activation = config.hidden_act
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, x: Hidden) -> Hidden:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class EncoderLayer(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype, rngs: nnx.Rngs):
        self.layer_norm1 = LayerNorm(config.hidden_size, dtype=dtype, rngs=rngs)
        self.self_attn = CausalSelfAttention(config, dtype=dtype, rngs=rngs)
        self.layer_norm2 = LayerNorm(config.hidden_size, dtype=dtype, rngs=rngs)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    @repeated
    def __call__(self, x: Hidden) -> Hidden:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPTextEncoder(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        width = config.hidden_size
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, width, dtype=dtype, rngs=rngs)
        self.position_embedding = Embedding(config.max_position_embeddings, width, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(EncoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.text_projection = (
            None
            if config.projection_dim is None
            else Linear(width, config.projection_dim, use_bias=False, dtype=dtype, rngs=rngs)
        )

    def __call__(self, tokens: Tokens, clip_skip: Int[Array, " batch"] | int = 0) -> TextFeatures:
        """Features of token ids, at most `max_position_embeddings` of them.

        `clip_skip` is diffusers': `hidden` is the input of the last `clip_skip + 1` layers, which are the
        embeddings at `num_hidden_layers - 1`. It may be traced, and does not change `pooled`.
        """
        x = self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))
        kept = len(self.layers) - 1 - jnp.broadcast_to(clip_skip, len(tokens))[:, None, None]
        hidden = x
        for index, layer in enumerate(self.layers):
            hidden = jnp.where(index == kept, x, hidden)
            x = layer(x)
        final = self.final_layer_norm(x)
        pooled = jnp.take_along_axis(final, self._end_of_text(tokens)[:, None, None], axis=1)[:, 0]
        return TextFeatures(hidden, pooled if self.text_projection is None else self.text_projection(pooled))

    def _end_of_text(self, tokens: Tokens) -> Int[Array, " batch"]:
        """The first end-of-text position; see CLIPTextConfig for the legacy id 2."""
        legacy = self.config.eos_token_id == 2
        marks = tokens if legacy else (tokens == self.config.eos_token_id).astype(jnp.int32)
        return jnp.argmax(marks, axis=1)
