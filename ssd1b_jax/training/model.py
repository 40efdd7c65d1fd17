"""The embedded model in the making, as a config."""

from ssd1b_jax.config import CLIPTextConfig, Defaults, ModelConfig, ScheduleConfig, UNetConfig, VAEConfig


def emoji_128() -> ModelConfig:
    """128 x 128 pixels in 16 x 16 latents of 8 channels; the time ids leave room for 256 x 256.

    Velocity prediction, unlike SSD-1B: at high noise levels a small network says more with it than with the noise.
    """
    text = dict(vocab_size=3072, num_hidden_layers=2, max_position_embeddings=32, eos_token_id=3071)
    return ModelConfig(
        unet=UNetConfig(
            block_out_channels=(48, 96, 192),
            down_depths=((0, 0), (1, 1), (1, 1)),
            up_depths=((1, 1, 1), (1, 1, 1), (0, 0, 0)),
            mid_depth=0,
            num_attention_heads=(1, 2, 4),
            cross_attention_dim=96 + 128,
            added_cond_dim=128 + 6 * 16,
            added_time_embed_dim=16,
            in_channels=8,
            out_channels=8,
            norm_num_groups=8,
        ),
        vae=VAEConfig(
            block_out_channels=(16, 32, 64, 96),
            layers_per_block=1,
            latent_channels=8,
            norm_num_groups=8,
            scaling_factor=1.0,
        ),
        text_encoder=CLIPTextConfig(
            hidden_size=96, intermediate_size=384, num_attention_heads=3, hidden_act="quick_gelu", **text
        ),
        text_encoder_2=CLIPTextConfig(
            hidden_size=128, intermediate_size=512, num_attention_heads=4, hidden_act="gelu", projection_dim=128, **text
        ),
        schedule=ScheduleConfig(prediction_type="v_prediction"),
        defaults=Defaults(width=128, height=128, guidance_scale=4.0, strength=0.7),
    )
