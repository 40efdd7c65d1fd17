"""Every block and every network against PyTorch, in float32 with random weights.

Both sides round differently: blocks agree to 1e-5 of their largest value, whole networks to 5e-5.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import reference
from helpers.compare import QUICK_TO_COMPILE, assert_close
from helpers.reference import nchw, nhwc

from convert.diffusers_folder import STEMS, read_part
from convert.weights import to_flax
from ssd1b_jax import presets
from ssd1b_jax.checkpoints.diffusers_config import read_config
from ssd1b_jax.checkpoints.model_folder import abstract_params
from ssd1b_jax.models import abstract
from ssd1b_jax.models.layers import sinusoidal_embedding

BLOCK, WHOLE = 1e-5, 5e-5


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Ours and theirs of each part, by kind of UNet."""
    made = {}

    def get(part, kind="ssd_1b"):
        if kind not in made:
            folder = reference.tiny_pipeline_folder(tmp_path_factory.mktemp("models") / kind, kind)
            config = read_config(folder)
            made[kind] = config, to_flax(config, {name: read_part(folder, name) for name in STEMS})
        config, params = made[kind]
        theirs = getattr(reference, part)
        return merged(part, config, params), theirs(kind) if part == "unet" else theirs()

    return get


def merged(part, config, params):
    return nnx.merge(abstract(part, config)[0], jax.tree.map(jnp.asarray, params[part]))


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def run(module, *arguments, method="__call__"):
    graphdef, state = nnx.split(module)

    @jax.jit(compiler_options=QUICK_TO_COMPILE)
    def call(state, *args):
        return getattr(nnx.merge(graphdef, state), method)(*args)

    return call(state, *arguments)


IMAGE, TIME, CONTEXT = (2, 8, 12), (2, 64), (2, 7, 80)  # the UNet's batch, height, width; embedding; prompt
POOLED = (2, 40)
TIMESTEPS = np.array([3.0, 981.0], np.float32)
TIME_IDS = np.array([[512, 768, 0, 0, 512, 512], [64, 64, 5, 7, 1024, 1024]], np.float32)


def test_resnet(networks):
    unet, torch_unet = networks("unet")
    x, time = draw(*IMAGE, 16), draw(*TIME)
    for level in (0, 1):  # the second widens, with a shortcut convolution
        ours, theirs = unet.down_blocks[level].resnets[0], torch_unet.down_blocks[level].resnets[0]
        assert_close(run(ours, x, time), nhwc(theirs(nchw(x), torch.from_numpy(time))), BLOCK)


def test_transformer(networks):
    ours, theirs = networks("unet")
    ours, theirs = ours.down_blocks[1].attentions[1], theirs.down_blocks[1].attentions[1]
    x, tokens, context = draw(*IMAGE, 32), draw(2, 11, 32), draw(*CONTEXT)
    torch_context = torch.from_numpy(context)
    one = theirs.transformer_blocks[1](torch.from_numpy(tokens), encoder_hidden_states=torch_context)
    over = run(ours, context, method="project")
    assert_close(run(ours.transformer_blocks[1], tokens, over[1]), one.numpy(), BLOCK)
    spatial = theirs(nchw(x), encoder_hidden_states=torch_context, return_dict=False)[0]
    assert_close(run(ours, x, over), nhwc(spatial), BLOCK)


@pytest.mark.parametrize("level, channels", [(0, 16), (1, 16), (2, 32)])
def test_down_block(networks, level, channels):
    ours, theirs = networks("unet")
    x, time, context = draw(*IMAGE, channels), draw(*TIME), draw(*CONTEXT)
    extra = dict(encoder_hidden_states=torch.from_numpy(context)) if level else {}
    block = ours.down_blocks[level]
    result, skips = run(block, x, time, run(block, context, method="project"))
    expected, expected_skips = theirs.down_blocks[level](nchw(x), torch.from_numpy(time), **extra)
    for a, b in zip([result, *skips], [expected, *expected_skips], strict=True):
        assert_close(a, nhwc(b), BLOCK)


@pytest.mark.parametrize("kind", ["ssd_1b", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_mid_block(networks, kind):
    ours, theirs = networks("unet", kind)
    x, time, context = draw(*IMAGE, 64), draw(*TIME), draw(*CONTEXT)
    extra = dict(encoder_hidden_states=torch.from_numpy(context)) if kind == "sdxl" else {}
    expected = theirs.mid_block(nchw(x), torch.from_numpy(time), **extra)
    prompt = run(ours.mid_block, context, method="project")
    assert_close(run(ours.mid_block, x, time, prompt), nhwc(expected), BLOCK)


@pytest.mark.parametrize("index, channels, skipped", [(0, 64, (32, 64, 64)), (1, 64, (16, 32, 32)), (2, 32, (16,) * 3)])
def test_up_block(networks, index, channels, skipped):
    ours, theirs = networks("unet")
    x, time, context = draw(*IMAGE, channels), draw(*TIME), draw(*CONTEXT)
    skips = [draw(*IMAGE, width) for width in skipped]
    extra = dict(encoder_hidden_states=torch.from_numpy(context)) if index < 2 else {}
    expected = theirs.up_blocks[index](nchw(x), tuple(map(nchw, skips)), torch.from_numpy(time), **extra)
    block, skips = ours.up_blocks[index], [*map(jnp.asarray, skips)]
    assert_close(run(block, x, skips, time, run(block, context, method="project")), nhwc(expected), BLOCK)


def test_samplers_of_pixels(networks):
    (unet, torch_unet), (vae, torch_vae) = networks("unet"), networks("vae")
    x = draw(*IMAGE, 16)
    for ours, theirs in (
        (unet.down_blocks[0].downsampler, torch_unet.down_blocks[0].downsamplers[0]),
        (vae.encoder.down_blocks[0].downsampler, torch_vae.encoder.down_blocks[0].downsamplers[0]),
    ):
        assert_close(run(ours, x), nhwc(theirs(nchw(x))), BLOCK)
    x = draw(*IMAGE, 32)
    ours, theirs = unet.up_blocks[1].upsampler, torch_unet.up_blocks[1].upsamplers[0]
    assert_close(run(ours, x), nhwc(theirs(nchw(x))), BLOCK)


@pytest.mark.parametrize("height, width", [(9, 11), (5, 2)])
def test_an_odd_skip_is_met(networks, height, width):
    """diffusers enlarges to the size of the skip, which cuts a row or a column of twice the size."""
    ours, theirs = networks("unet")
    ours, theirs = ours.up_blocks[1].upsampler, theirs.up_blocks[1].upsamplers[0]
    x = draw(2, -(-height // 2), -(-width // 2), 32)
    expected = nhwc(theirs(nchw(x), output_size=(height, width)))
    results = [jax.jit(lambda x: ours(x, (height, width)))(x)]
    ours.conv.prepack("cpu")
    results.append(jax.jit(lambda x: ours(x, (height, width)))(x))
    for result in results:
        assert_close(result, expected, BLOCK)


def test_embedding_of_time_and_size(networks):
    ours, theirs = networks("unet")
    pooled, ids = torch.from_numpy(draw(*POOLED)), torch.from_numpy(TIME_IDS)
    time = theirs.time_proj(torch.from_numpy(TIMESTEPS))
    sizes = theirs.add_time_proj(ids.flatten())
    assert_close(sinusoidal_embedding(jnp.asarray(TIMESTEPS), 16), time.numpy(), WHOLE)  # float32 angles up to 1000
    assert_close(run(ours.time_embedding, time.numpy()), theirs.time_embedding(time).numpy(), BLOCK)
    expected = theirs.add_embedding(torch.cat([pooled, sizes.reshape(2, -1)], dim=-1))
    made = run(ours, draw(*CONTEXT), pooled.numpy(), TIME_IDS, method="condition")
    assert_close(made.added, expected.numpy(), BLOCK)


@pytest.mark.parametrize("kind", ["ssd_1b", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("vega", "sdxl"))])
def test_unet(networks, kind):
    ours, theirs = networks("unet", kind)
    latents, context, pooled = draw(*IMAGE, 4), draw(*CONTEXT), draw(*POOLED)
    added = dict(text_embeds=torch.from_numpy(pooled), time_ids=torch.from_numpy(TIME_IDS))
    expected = theirs(nchw(latents), torch.from_numpy(TIMESTEPS), torch.from_numpy(context), added_cond_kwargs=added)
    assert_close(run(ours, latents, TIMESTEPS, context, pooled, TIME_IDS), nhwc(expected.sample), WHOLE)


def test_vae_blocks(networks):
    ours, theirs = networks("vae")
    x = draw(*IMAGE, 32)
    attention, torch_attention = ours.encoder.mid_block.attentions[0], theirs.encoder.mid_block.attentions[0]
    assert_close(run(attention, x), nhwc(torch_attention(nchw(x))), BLOCK)
    assert_close(run(ours.decoder.mid_block, x), nhwc(theirs.decoder.mid_block(nchw(x))), BLOCK)
    for index in range(3):
        up, torch_up = ours.decoder.up_blocks[index], theirs.decoder.up_blocks[index]
        assert_close(run(up, x), nhwc(torch_up(nchw(x))), BLOCK)
    for index, channels in enumerate((16, 16, 32)):
        down, torch_down = ours.encoder.down_blocks[index], theirs.encoder.down_blocks[index]
        x = draw(*IMAGE, channels)
        assert_close(run(down, x), nhwc(torch_down(nchw(x))), BLOCK)


def test_vae(networks):
    ours, theirs = networks("vae")
    image, latents = np.tanh(draw(2, 32, 24, 3)), draw(2, 8, 6, 4)
    posterior, expected = run(ours, image, method="encode"), theirs.encode(nchw(image)).latent_dist
    assert_close(posterior.mean, nhwc(expected.mean), WHOLE)
    assert_close(posterior.log_variance, nhwc(expected.logvar), WHOLE)
    noise = draw(2, 8, 6, 4)
    assert_close(posterior.sample(jnp.asarray(noise)), nhwc(expected.mean + expected.std * nchw(noise)), WHOLE)
    assert_close(run(ours, latents, method="decode"), nhwc(theirs.decode(nchw(latents)).sample), WHOLE)


END = len(reference.vocabulary()[0]) - 1


@pytest.mark.parametrize(
    "hidden_act, eos_token_id",
    [
        ("quick_gelu", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("gelu", 2), ("quick_gelu", END), ("gelu", 9))),
    ],
)
@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_text_encoder(networks, config, part, hidden_act, eos_token_id):
    """Prompts end at various places; behind the end there is padding with the same id, or with another."""
    theirs = getattr(reference, part)(eos_token_id, hidden_act)
    encoder = replace(getattr(config, part), eos_token_id=eos_token_id, hidden_act=hidden_act)
    config = replace(config, **{part: encoder})
    ours = merged(part, config, to_flax(config, {part: reference.tensors(theirs)}))
    tokens = np.random.default_rng(1).integers(10, 300, (4, reference.LENGTH))
    end = END if eos_token_id == 2 else eos_token_id
    tokens[0, 9:], tokens[1, 3], tokens[1, 4:], tokens[2, -1], tokens[3, 1] = end, end, 0, end, end
    features = run(ours, tokens.astype(np.int32))
    expected = theirs(torch.from_numpy(tokens), output_hidden_states=True)
    assert_close(features.hidden, expected.hidden_states[-2].numpy(), WHOLE)
    pooled = expected.text_embeds if part == "text_encoder_2" else expected.pooler_output
    assert_close(features.pooled, pooled.numpy(), WHOLE)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_clip_skip(networks, config, part):
    """Every row skips as many layers as it says, in one program; the pooled text stays."""
    ours, theirs = networks(part)
    assert config.max_clip_skip == 2
    tokens = np.random.default_rng(2).integers(10, 300, (6, reference.LENGTH)).astype(np.int32)
    skips = np.array([0, 1, 2, 2, 1, 0], np.int32)
    expected = theirs(torch.from_numpy(tokens), output_hidden_states=True)
    states = np.stack([state.numpy() for state in expected.hidden_states])
    features, plain = run(ours, tokens, skips), run(ours, tokens)
    for row, skip in enumerate(skips):
        assert_close(features.hidden[row], states[-(skip + 2), row], BLOCK)
    np.testing.assert_array_equal(features.hidden[::5], plain.hidden[::5])
    np.testing.assert_array_equal(features.pooled, plain.pooled)


def test_clip_skip_needs_no_recompile(networks):
    ours, _ = networks("text_encoder")
    graphdef, state = nnx.split(ours)
    encode = jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs))
    tokens = np.full((2, reference.LENGTH), END, np.int32)
    zero, two = (encode(state, tokens, np.full(2, skip, np.int32)).hidden for skip in (0, 2))
    assert encode._cache_size() == 1 and not np.array_equal(zero, two)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return read_config(reference.tiny_pipeline_folder(tmp_path_factory.mktemp("config") / "ssd_1b"))


def count(config):
    return {
        part: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
        for part, tree in abstract_params(config).items()
    }


def test_the_released_encoders_skip_eleven_layers_at_most():
    config = presets.ssd_1b()
    assert config.max_clip_skip == 11  # of CLIP ViT-L's 12


@pytest.mark.slow
def test_full_size_parameter_counts():
    released = dict(unet=1_331_334_404, vae=83_653_863, text_encoder=123_060_480, text_encoder_2=694_659_840)
    assert count(presets.ssd_1b()) == released
    assert count(presets.sdxl_base()) == released | dict(unet=2_567_463_684)
    assert count(presets.vega()) == released | dict(unet=745_225_604)
