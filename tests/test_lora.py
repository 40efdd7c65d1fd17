"""LoRA files: every layout is understood, nothing that does not fit is let in, and a merge is its formula."""

import hashlib
import json
import math
import re
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import tiny
from helpers.lora import CONV, LINEAR, SHORTCUT, TO_OUT, draw, kohya, write
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssd1b_jax import kernels, models, presets
from ssd1b_jax.checkpoints import families
from ssd1b_jax.checkpoints.lora import read, spellings
from ssd1b_jax.checkpoints.lora_alphas import Alphas
from ssd1b_jax.checkpoints.tensor_names import leaves, table
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.models import params as models_params
from ssd1b_jax.notebook import compilations

Q_PROJ = "text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def config():
    return tiny.tiny_config()


@pytest.fixture(scope="module")
def base(config):
    return jax.device_put(tiny.random_params(config), jax.devices()[0])


@pytest.fixture(scope="module")
def files(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    text = kohya(config, [Q_PROJ], part="text_encoder_2")
    return {
        "a": write(folder / "a.safetensors", (kohya(config) | text).items()),
        "b": write(folder / "b.safetensors", kohya(config, [LINEAR], rank=3, seed=1).items()),
    }


def loaded(config, base, files, platform=None):
    adapters = Adapters(config, base, platform)
    for name, path in files.items():
        adapters.add(name, path)
    return adapters


def cast(tree, dtype):
    return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), tree), jax.devices()[0])


def assert_same_bits(one, other):
    for (path, a), (_, b) in zip(leaves(one), leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


UNET_LAYOUTS = [
    "unet.{name}.lora_A.weight",
    "{name}.lora_A.weight",
    "base_model.model.{name}.lora_A.weight",
    "unet.base_model.model.{name}.lora_A.default.weight",
    "unet.{name}.lora.down.weight",
    "unet.{attention}.processor.to_out_lora.down.weight",
    "lora_unet_{joined}.lora_down.weight",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
]
TEXT_LAYOUTS = [
    "text_encoder.{name}.lora_A.weight",
    "text_encoder.encoder.layers.1.self_attn.q_proj.lora_A.weight",
    "text_encoder.{name}.lora_linear_layer.down.weight",
    "text_encoder.text_model.encoder.layers.1.self_attn.to_q_lora.down.weight",
    "lora_te1_{joined}.lora_down.weight",
    "lora_te_{joined}.lora_down.weight",
]


@pytest.mark.parametrize(
    ("part", "name", "layout"),
    [("unet", TO_OUT, layout) for layout in UNET_LAYOUTS]
    + [("text_encoder", Q_PROJ, layout) for layout in TEXT_LAYOUTS],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_layout_is_understood(config, tmp_path, part, name, layout, dtype):
    key = layout.format(name=name, joined=name.replace(".", "_"), attention=name.removesuffix(".to_out.0"))
    other = key.replace("lora_A", "lora_B").replace("down.weight", "up.weight")
    down, up = draw(3, 16).astype(dtype), draw(16, 3).astype(dtype)
    lora = read(write(tmp_path / "x.safetensors", [(other, up), (key, down)]), config)
    ((path, factor),) = lora.factors[part].items()
    assert path == table(part, config)[f"{name}.weight"].path
    assert sum(map(len, lora.factors.values())) == 1
    np.testing.assert_array_equal(factor.down, down.T, strict=True)
    np.testing.assert_array_equal(factor.up, up.T, strict=True)
    assert factor.scale == 1.0
    assert lora.sha256 == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()


def test_full_size_names_lead_to_every_layer_and_each_to_one():
    ssd_1b = presets.ssd_1b()
    spelled = spellings(ssd_1b)
    layers = 0
    for part, prefix in dict(unet="lora_unet", text_encoder="lora_te1", text_encoder_2="lora_te2").items():
        kernels = {name.removesuffix(".weight"): e for name, e in table(part, ssd_1b).items() if e.path[-1] == "kernel"}
        for name, entry in kernels.items():
            for spelling in (f"{part}.{name}", f"{prefix}_{name.replace('.', '_')}"):
                assert (spelled[spelling].part, spelled[spelling].path) == (part, entry.path)
        layers += len(kernels)
    assert len({(layer.part, layer.path) for layer in spelled.values()}) == layers == 429 + 72 + 193
    # As files trained with kohya's scripts have them.
    for theirs, name in {
        "lora_unet_input_blocks_4_1_proj_in": "down_blocks.1.attentions.0.proj_in",
        "lora_unet_input_blocks_8_1_transformer_blocks_3_attn2_to_v": (
            "down_blocks.2.attentions.1.transformer_blocks.3.attn2.to_v"
        ),
        "lora_unet_input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "lora_unet_middle_block_0_in_layers_2": "mid_block.resnets.0.conv1",
        "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj": (
            "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj"
        ),
        "lora_unet_output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
        "lora_unet_output_blocks_8_0_skip_connection": "up_blocks.2.resnets.2.conv_shortcut",
        "lora_unet_time_embed_2": "time_embedding.linear_2",
        "lora_te2_text_model_encoder_layers_31_mlp_fc2": "text_model.encoder.layers.31.mlp.fc2",
    }.items():
        assert spelled[theirs].name == name
    sgm_layers = {layer for name, layer in spelled.items() if re.match(r"lora_unet_(input|middle|output)_block", name)}
    assert len(sgm_layers) == 429 - 5  # all but the embeddings' four and the last convolution
    assert "lora_unet_middle_block_1_proj_in" not in spelled, "SDXL's mid block has attention, SSD-1B's none"
    assert "lora_unet_input_blocks_8_1_transformer_blocks_4_attn1_to_q" not in spelled, "SDXL's is deeper"


def test_lcm_lora_of_full_size_finds_its_layers():
    """Rank 64 over the layers that its training names has the published 105M parameters for SSD-1B, 197M for SDXL."""
    endings = (
        r"to_[qkv]|to_out_0|proj_in|proj_out|ff_net_0_proj|ff_net_2|conv[12]|conv_shortcut"
        r"|downsamplers_0_conv|upsamplers_0_conv|time_emb_proj"
    )
    for model, millions in ((presets.ssd_1b(), 105), (presets.sdxl_base(), 197)):
        spelled = spellings(model).items()
        layers = {layer for name, layer in spelled if re.fullmatch(rf"lora_unet_\w+_({endings})", name)}
        parameters = sum(64 * (layer.shape[0] + math.prod(layer.shape[1:])) for layer in layers)
        assert round(parameters / 1e6) == millions


def test_a_merge_is_its_formula(config, base, files):
    """In float64; ours is float32, a product of few terms."""
    merged = dict(leaves(loaded(config, base, files).params({"a": 0.7, "b": -2.5})))
    kernels = dict(leaves(base))
    tensors = {name: kohya(config, **more) for name, more in dict(a={}, b=dict(names=[LINEAR], rank=3, seed=1)).items()}
    for name in (LINEAR, CONV, SHORTCUT):
        entry = table("unet", config)[f"{name}.weight"]
        key = f"lora_unet_{name.replace('.', '_')}"
        expected = np.asarray(kernels["unet", *entry.path], np.float64)
        for held, scale, rank in ((tensors["a"], 0.7, 2), (tensors["b"], -2.5, 3)):
            if f"{key}.alpha" in held:
                up = held[f"{key}.lora_up.weight"].astype(np.float64).reshape(-1, rank)
                change = np.tensordot(up, held[f"{key}.lora_down.weight"].astype(np.float64), 1)
                expected = expected + scale * (1.0 / rank) * change.transpose(entry.axes)
        np.testing.assert_allclose(merged["unet", *entry.path], expected, rtol=1e-5, atol=1e-5)
        assert np.abs(expected - kernels["unet", *entry.path]).max() > 0.1


def test_a_convolution_of_one_pixel_is_a_matrix(config, tmp_path):
    """Linear layers that were convolutions once, and the reverse."""
    tensors = kohya(config, [LINEAR, SHORTCUT])
    plain = read(write(tmp_path / "a.safetensors", tensors.items()), config)
    turned = {
        name: tensor[..., None, None] if tensor.ndim == 2 else tensor.squeeze((2, 3)) if tensor.ndim == 4 else tensor
        for name, tensor in tensors.items()
    }
    turned = read(write(tmp_path / "b.safetensors", turned.items()), config)
    for path, factor in plain.factors["unet"].items():
        jax.tree.map(np.testing.assert_array_equal, turned.factors["unet"][path], factor)


@pytest.mark.slow
def test_weights_that_are_laid_out_take_the_same_changes(config, base, files, monkeypatch):
    monkeypatch.setattr(kernels, "WINOGRAD_CHANNELS", 1)
    models_params._abstract.cache_clear()
    scales = {"a": 0.7, "b": -2.5}
    merged = loaded(config, base, files).params(scales)
    expected = {part: models.prepack(part, config, tree, "cpu") for part, tree in merged.items()}
    prepacked = {part: models.prepack(part, config, tree, "cpu") for part, tree in base.items()}
    got = loaded(config, prepacked, files, "cpu").params(scales)
    models_params._abstract.cache_clear()
    for (path, ours), (also, theirs) in zip(leaves(got), leaves(expected), strict=True):
        assert path == also
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)  # one rounding more, of numbers below 10


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once(config, base, files, dtype):
    halves, scales = cast(base, dtype), {"a": 0.7, "b": 1.3}
    merged = loaded(config, halves, files).params(scales)
    exact = loaded(config, cast(halves, np.float32), files).params(scales)
    assert_same_bits(merged, cast(exact, dtype))


def test_scales_of_zero_are_the_base_itself(config, base, files):
    adapters = loaded(config, base, files)
    assert adapters.params({}) is base
    assert adapters.params({"a": 0, "b": 0.0}) is base
    pairs = zip(leaves(adapters.params({"a": 1.0})), leaves(base), strict=True)
    touched = [path for (path, leaf), (_, before) in pairs if leaf is not before]
    assert len(touched) == 4, "three of the UNet, one of a text encoder; the others are not copied"


def test_the_same_scales_give_the_same_bits(config, base, files):
    """Whatever was merged before, whatever else is loaded, in whichever order and under which names."""
    adapters = loaded(config, base, files)
    first = adapters.params({"a": 0.7, "b": 1.3})
    assert adapters.params({"b": 1.3, "a": 0.7}) is first, "the last merge is kept"
    alone = adapters.params({"a": 0.7})
    adapters.params({"b": -10})
    assert_same_bits(adapters.params({"b": 1.3, "a": 0.7}), first)
    other = loaded(config, base, {"z": files["b"], "y": files["a"]})
    assert_same_bits(other.params({"z": 1.3, "y": 0.7}), first)
    assert_same_bits(
        loaded(config, base, {"only": files["a"]}).params(
            {
                "only": 0.7,
            }
        ),
        alone,
    )
    assert list(adapters.check({"a": 1, "b": 1})) == list(adapters.check({"b": 1, "a": 1}))


def test_scales_change_without_a_compilation(config, base, tmp_path):
    halves = cast(base, jnp.bfloat16)
    ranks = {"a": 5, "b": 7}  # of no other test
    files = {
        name: write(tmp_path / f"{name}.safetensors", kohya(config, [LINEAR, CONV], rank).items())
        for name, rank in ranks.items()
    }
    with compilations() as compiled:
        adapters = loaded(config, halves, files)
        adapters.params({"a": 0.7, "b": 1.3})
        assert compiled.count > 0, "the counter counts nothing"
        compiled.count = 0
        for scales in ({"a": 0.5, "b": -1}, {"a": 2.0}, {"b": 0.1}, {"a": 0, "b": 0}, {"b": 1.3, "a": 0.7}):
            jax.block_until_ready(adapters.params(scales))
        again = loaded(config, halves, {"c": files["b"]})
        jax.block_until_ready(again.params({"c": 3.0}))
        assert compiled.count == 0


def test_a_merge_stays_on_its_devices(config, base, files):
    """Replicated over eight, every device merges for itself: the bits of one, and nothing is sent."""
    replicated = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
    adapters = loaded(config, jax.device_put(base, replicated), files)
    with jax.transfer_guard_device_to_device("disallow"):
        merged = adapters.params({"a": 0.7, "b": 1.3})
    assert {leaf.sharding for _, leaf in leaves(merged)} == {replicated}
    assert_same_bits(merged, loaded(config, base, files).params({"a": 0.7, "b": 1.3}))
    for _, leaf in leaves(merged):
        assert len({np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}) == 1


def test_faults_are_collected_and_counted(config, tmp_path):
    tensors = list((kohya(config) | kohya(config, [Q_PROJ], part="text_encoder_2")).items())
    renamed = dict(tensors)
    key = f"lora_unet_{LINEAR.replace('.', '_')}"
    text = f"lora_te2_{Q_PROJ.replace('.', '_')}"
    tensors += [("unet." + LINEAR + ".lora_A.weight", renamed[f"{key}.lora_down.weight"])]
    tensors += [(f"{key}_1.alpha", np.float32(1)), ("lora_te3_x.lora_down.weight", draw(1, 1)), ("strange", draw(1))]
    tensors = [(name, tensor) for name, tensor in tensors if name != f"{text}.lora_up.weight"]
    conv = f"lora_unet_{CONV.replace('.', '_')}"
    changed = {
        f"{conv}.lora_down.weight": draw(2, 16, 1, 3),
        f"{text}.lora_down.weight": np.full((2, 16), np.nan, np.float32),
        f"lora_unet_{SHORTCUT.replace('.', '_')}.alpha": np.float32(np.inf),
    }
    path = write(tmp_path / "x.safetensors", [(name, changed.get(name, tensor)) for name, tensor in tensors])
    with pytest.raises(WeightsError) as caught:
        read(path, config)
    for fault in (
        f"{path} does not fit the model: ",
        f"3 unknown ({key}_1.alpha, lora_te3_x.lora_down.weight, strange)",
        f"1 repeated (unet.{LINEAR}.lora_A.weight)",
        f"1 missing (the up of text_encoder_2 {Q_PROJ})",
        f"1 mis-shaped ({conv}.lora_down.weight is (2, 16, 1, 3), not (2, 16, 3, 3))",
        "2 not finite (",
    ):
        assert fault in str(caught.value)


def test_factors_must_fit_each_other(config, tmp_path):
    tensors = {f"unet.{LINEAR}.lora_A.weight": draw(3, 16), f"unet.{LINEAR}.lora_B.weight": draw(16, 2)}
    with pytest.raises(WeightsError, match=r"1 mis-shaped \(\S+lora_B.weight is \(16, 2\), not \(16, 3\)\)$"):
        read(write(tmp_path / "x.safetensors", tensors.items()), config)
    whole = {f"unet.{LINEAR}.lora_A.weight": np.ones((3, 16), np.int64), f"unet.{LINEAR}.lora_B.weight": draw(16, 3)}
    with pytest.raises(WeightsError, match=r"1 of whole numbers \(\S+lora_A.weight is int64\)$"):
        read(write(tmp_path / "x.safetensors", whole.items()), config)
    empty = {f"unet.{LINEAR}.lora_A.weight": np.zeros((0, 16), np.float32)}
    empty[f"unet.{LINEAR}.lora_B.weight"] = np.zeros((16, 0), np.float32)
    with pytest.raises(WeightsError, match="2 mis-shaped"):
        read(write(tmp_path / "x.safetensors", empty.items()), config)


DEEPER = r"model: 36 unknown \((\S+, ){10}…\); 20 of its 32 layers fit, which --lora-partial merges$"


def test_one_made_for_a_deeper_model_is_refused_with_counts(config, tmp_path):
    """As SDXL's are by SSD-1B: layers of the same names and shapes, and many more."""
    unet = config.unet
    deep = replace(config, unet=replace(unet, down_depths=((0, 0), (1, 1), (3, 3)), mid_depth=2))
    names = [name.removesuffix(".weight") for name in table("unet", deep) if name.endswith("to_q.weight")]
    path = write(tmp_path / "x.safetensors", kohya(deep, names).items())
    read(path, deep)
    # 2 attentions x 2 layers and 1 x 2 layers, with 2 queries each, of 3 tensors
    with pytest.raises(WeightsError, match=DEEPER):
        read(path, config)


def test_the_layers_that_fit_are_merged_where_that_is_asked_for(config, tmp_path):
    """As the same file without the others; a layer of another shape fits as little as an unknown one."""
    fitting = kohya(config)
    strange = {"lora_unet_middle_block_9_x.lora_down.weight": draw(2, 2), "note": draw(1)}
    wide = {f"unet.{TO_OUT}.lora_A.weight": draw(2, 17), f"unet.{TO_OUT}.lora_B.weight": draw(16, 2)}
    del fitting[next(name for name in fitting if "attn1_to_out" in name and "down" in name)]
    fitting = {name: tensor for name, tensor in fitting.items() if "attn1_to_out" not in name}
    whole = read(write(tmp_path / "whole.safetensors", fitting.items()), config, partial=True)
    partial = read(write(tmp_path / "x.safetensors", (fitting | strange | wide).items()), config, partial=True)
    assert (whole.left_out, partial.left_out, partial.layers) == (0, 3, whole.layers)
    for part, factors in whole.factors.items():
        assert factors.keys() == partial.factors[part].keys()
        for path, factor in factors.items():
            np.testing.assert_array_equal(partial.factors[part][path].down, factor.down)
    with pytest.raises(WeightsError, match="does not fit the model: 2 unknown .*, note.$"):
        read(write(tmp_path / "none.safetensors", strange.items()), config, partial=True)
    broken = {name: tensor for name, tensor in fitting.items() if "lora_up" not in name}
    with pytest.raises(WeightsError, match="2 missing"):
        read(write(tmp_path / "broken.safetensors", (broken | strange).items()), config, partial=True)


NO_LORAS = {
    "a whole model: convert it, and give its folder as the model": {
        "model.diffusion_model.out.2.bias": (4,),
        "first_stage_model.encoder.conv_in.bias": (4,),
    },
    "a textual inversion embedding": {"clip_l": (1, 8), "clip_g": (1, 8)},
    "a VAE alone": {"decoder.conv_in.weight": (4, 4)},
    "a ControlNet": {"control_model.input_blocks.0.0.weight": (4, 4)},
}


@pytest.mark.parametrize("kind", NO_LORAS)
def test_what_is_no_lora_is_named(config, tmp_path, kind):
    tensors = {name: draw(*shape) for name, shape in NO_LORAS[kind].items()}
    with pytest.raises(WeightsError, match=f"x.safetensors is no LoRA but {kind}$"):
        read(write(tmp_path / "x.safetensors", tensors.items()), config)


ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
OTHERS = {
    "Stable Diffusion 1": {f"{ATTENTION}.lora_down.weight": (2, 768), f"{ATTENTION}.lora_up.weight": (320, 2)},
    "Stable Diffusion 2": {f"{ATTENTION}.lora_down.weight": (2, 1024), f"{ATTENTION}.lora_up.weight": (320, 2)},
    "Flux": {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (2, 8)},
    "the SDXL family": {f"{ATTENTION}.lora_down.weight": (2, 2048), f"{ATTENTION}_x.lora_down.weight": (2, 2)},
}


@pytest.mark.parametrize("family", OTHERS)
def test_a_lora_of_another_family_is_named(config, tmp_path, monkeypatch, family):
    monkeypatch.setattr(families, "_released", lambda spellings: {"SSD-1B": {ATTENTION}})
    tensors = {name: draw(*shape) for name, shape in OTHERS[family].items()}
    with pytest.raises(WeightsError, match=f"x.safetensors is a LoRA for {family}, and does not fit the model: "):
        read(write(tmp_path / "x.safetensors", tensors.items()), config)


@pytest.mark.slow
def test_the_model_that_a_lora_is_for_is_known_by_its_layers(config):
    """Of the released ones the smallest that has all of them."""
    layers = {
        "SSD-1B": "lora_unet_output_blocks_0_1_transformer_blocks_3_attn2_to_k",
        "SDXL base": "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k",
    }
    for title, layer in layers.items():
        assert families.made_for({layer: (2, 2048)}, spellings) == title


@pytest.mark.parametrize(
    ("ending", "relative"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_mid.weight", "LoCon with a core"),
        ("oft_blocks", "OFT"),
    ],
)
def test_relatives_are_refused_by_name(config, tmp_path, ending, relative):
    tensors = kohya(config) | {f"lora_unet_{LINEAR.replace('.', '_')}.{ending}": draw(2, 2)}
    with pytest.raises(WeightsError, match=f"x.safetensors is a {relative}.*, which can't be merged: give a LoRA"):
        read(write(tmp_path / "x.safetensors", tensors.items()), config)


def test_what_is_no_lora_file(config, tmp_path):
    def refused(path, sentence):
        with pytest.raises(WeightsError, match=sentence) as caught:
            read(path, config)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.safetensors", "no LoRA at '.*none.safetensors': give a safetensors file")
    refused(tmp_path, "must hold pytorch_lora_weights.safetensors or adapter_model.safetensors")
    for name, head in (("lora.safetensors", b"PK\x03\x04" + bytes(8)), ("lora.pt", b"\x80\x02}.")):
        (tmp_path / name).write_bytes(head)
        refused(tmp_path / name, f"{name} is a pickle of PyTorch's, which can run code: load it there")
    refused(write(tmp_path / "empty.safetensors", []), "holds no tensors")
    (tmp_path / "cut.safetensors").write_bytes(b"<html>")
    refused(tmp_path / "cut.safetensors", "no whole safetensors file")


def alphas(config, folder, fields, name="pytorch_lora_weights.safetensors", **tensors):
    layers = {f"unet.{LINEAR}": 16, f"unet.{LINEAR.replace('attn1', 'attn2')}": 16}
    tensors |= {f"{layer}.lora_A.weight": draw(4, width) for layer, width in layers.items()}
    tensors |= {f"{layer}.lora_B.weight": draw(width, 4) for layer, width in layers.items()}
    said = dict(lora_adapter_metadata=json.dumps(fields)) if fields else {}
    write(folder / name, tensors.items(), said)
    return [factor.scale for factor in read(folder, config).factors["unet"].values()]


def test_alphas_that_metadata_say(config, tmp_path):
    assert alphas(config, tmp_path, {}) == [1, 1]
    assert alphas(config, tmp_path, {"unet.lora_alpha": 8, "unet.r": 4}) == [2, 2]
    assert alphas(config, tmp_path, {"lora_alpha": 8, "use_rslora": True}) == [4, 4]
    assert alphas(config, tmp_path, {"text_encoder.lora_alpha": 8}) == [1, 1]
    patterns = {"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_v": 5, "attn2.to_out.0": 2, "to_out.0": 6}}
    assert sorted(alphas(config, tmp_path, patterns)) == [0.5, 1.5]
    for fields in (
        {"lora_alpha": 8, "use_dora": True},
        {"lora_alpha": 8, "init_lora_weights": "pissa_niter_4"},
        {"lora_alpha": float("nan")},
        {"lora_alpha": 8, "alpha_pattern": {"(": 1}},
        {"lora_alpha": 8, "alpha_pattern": {"(a+)+": 1}},
        {"lora_alpha": 8, "alpha_pattern": {"a" * 201: 1}},
        {"lora_alpha": 8, "alpha_pattern": {str(i): 1 for i in range(1001)}},
        {"lora_alpha": [8]},
        ["lora_alpha"],
    ):
        with pytest.raises(WeightsError, match=r" says of itself what can't be used: \S"):
            alphas(config, tmp_path, fields)
    with pytest.raises(WeightsError, match="repeated .* which the file's metadata say too"):
        alphas(config, tmp_path, {"lora_alpha": 8}, **{f"unet.{LINEAR}.alpha": np.float32(1)})


PATTERNS = ("to_out.0", "attn1.to_out.0", "to_out", "out.0", "down_blocks.*to_out.0", "blocks.*attn1.*", "a.*n.*t.*0")
PATTERNS += (
    ".*",
    "attn.",
    "attn..to_out.0",
    r"attn1\.to_out\.0",
    f"^{TO_OUT}",
    "^down_blocks",
    "^down_blocks.*",
    "^.*0",
)
PATTERNS += ("down_blocks.*1.*1.*1.*1", "down_blocks.*0.*0.*0.*0", "0.*0.*0.*0.*0", "nothing", "up.*to_out.0", "..*.*0")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_find_what_pefts_do(pattern):
    """PEFT tries the regular expression itself, which a stranger's file shall not."""
    alphas = Alphas.of(dict(lora_alpha=8, alpha_pattern={pattern: 2}))
    expected = 2 if re.match(rf"(.*\.)?({pattern})$", TO_OUT) else 8
    assert alphas.scale(TO_OUT, 1) == expected


def test_patterns_take_no_time():
    alphas = Alphas.of(dict(lora_alpha=8, alpha_pattern={"a.*" * 60 + "b": 2}))
    began = time.process_time()
    assert alphas.scale("a." * 100, 1) == 8
    assert time.process_time() - began < 1


@pytest.mark.parametrize("metadata", [5, [5], ["ab"], "ab", {"a": 5}])
def test_metadata_that_are_no_table(config, tmp_path, metadata):
    with pytest.raises(WeightsError, match="its metadata are no table of texts"):
        read(write(tmp_path / "x.safetensors", [], metadata), config)


def test_a_folder_of_pefts_says_its_alpha_beside_the_weights(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(dict(lora_alpha=2, r=4)))
    assert alphas(config, tmp_path, {}, name="adapter_model.safetensors") == [0.5, 0.5]


def test_names_are_checked(config, base, files):
    adapters = loaded(config, base, files)
    assert adapters.files == {name: str(files[name]) for name in "ab"}
    assert adapters.sha256("a") == hashlib.sha256(files["a"].read_bytes()).hexdigest()
    adapters.add("a", files["a"])
    with pytest.raises(ValueError, match="a LoRA named 'a' is loaded already, from another file"):
        adapters.add("a", files["b"])
    with pytest.raises(ValueError, match=r"no LoRA named 'c' is loaded: load it first \(loaded: a, b\)"):
        adapters.params({"c": 1.0})
    with pytest.raises(ValueError, match=r"no LoRA named 'c' is loaded: load it first \(loaded: none\)"):
        Adapters(config, base).sha256("c")
    assert adapters.check({"b": 0, "a": np.float32(0.5)}) == {"a": 0.5}
