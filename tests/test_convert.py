"""Conversion is exact, strict and complete, in both directions; what is wrong is said in one sentence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from safetensors.torch import save_file

from convert.__main__ import main
from convert.diffusers_folder import STEMS, read_part
from convert.weights import to_flax, to_torch
from ssd1b_jax import config as presets
from ssd1b_jax.checkpoint import abstract_params, load_model
from ssd1b_jax.names import table
from ssd1b_jax.released import read_config
from ssd1b_jax.tensors import WeightsError, read_safetensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.tiny_pipeline_folder(tmp_path_factory.mktemp("convert") / "tiny")


@pytest.fixture(scope="module")
def config(folder):
    return read_config(folder)


@pytest.fixture
def source(folder, tmp_path):
    """A copy of the folder to damage: links to all files."""
    for path in folder.rglob("*"):
        if path.is_file():
            link = tmp_path / "source" / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return tmp_path / "source"


def replace_file(path, tensors):
    path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def test_there_and_back_is_the_identity(folder, config):
    parts = {part: read_part(folder, part) for part in STEMS}
    params = to_flax(config, parts)
    jax.tree.map(lambda ours, leaf: np.testing.assert_equal(ours.shape, leaf.shape), params, abstract_params(config))
    back = to_torch(config, params)
    for part, tensors in parts.items():
        assert len(back[part]) == len(tensors)
        for name, tensor in tensors:
            name = name if name in back[part] else f"text_model.{name}"  # as released files have it
            np.testing.assert_array_equal(back[part][name], tensor, strict=True)
    again = to_flax(config, {part: tensors.items() for part, tensors in back.items()})
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_names_and_shapes_of_full_size_ssd_1b():
    """Those of diffusers' own model, built without memory from the released config."""
    config = dict(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=[1, [2, 2], [4, 4]],
        reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    with torch.device("meta"):
        theirs = reference.diffusers.UNet2DConditionModel(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {name: entry.shape for name, entry in table("unet", presets.ssd_1b()).items()} == shapes
    assert len(shapes) == 944


def test_faults_are_collected_over_all_parts(folder, config):
    parts = {part: dict(read_part(folder, part)) for part in STEMS}
    tensors = parts["unet"]
    tensors["conv_in.scale"] = tensors.pop("conv_in.bias")
    tensors["conv_out.weight"] = tensors["conv_out.weight"].reshape(16, 4, 3, 3)
    tensors["conv_out.bias"] = tensors["conv_out.bias"] * np.float32(np.nan)
    parts["vae"]["quant_conv.bias"] = np.full(8, 1e5, np.float32)
    key = "encoder.mid_block.attentions.0.{}.weight"
    parts["vae"][key.format("query")] = parts["vae"][key.format("to_q")]
    with pytest.raises(WeightsError) as caught:
        to_flax(config, {part: tensors.items() for part, tensors in parts.items()}, "float16")
    for fault in (
        "1 unknown (unet conv_in.scale)",
        "1 missing (unet conv_in.bias)",
        "1 mis-shaped (unet conv_out.weight is (16, 4, 3, 3), not (4, 16, 3, 3))",
        "2 not finite in float16 (unet conv_out.bias, vae quant_conv.bias)",
        "1 repeated (vae encoder.mid_block.attentions.0.to_q.weight)",
    ):
        assert fault in str(caught.value)


def test_many_faults_are_counted_and_ten_are_named(config):
    with pytest.raises(WeightsError, match=r"^the weights do not fit the config: 200 missing \((\S+ \S+, ){10}…\)$"):
        to_flax(config, {"vae": []})


def test_old_names_and_buffers(folder, config):
    """The VAE's attention as older files call it, and position ids, which are no weights."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = dict(read_part(folder, "vae"))
    for name in [name for name in vae if ".attentions.0." in name]:
        for new, before in old.items():
            if f".{new}." in name:
                vae[name.replace(f".{new}.", f".{before}.")] = vae.pop(name)
    text = dict(read_part(folder, "text_encoder_2"))
    text["text_model.embeddings.position_ids"] = np.arange(reference.LENGTH)[None]
    renamed = to_flax(config, dict(vae=vae.items(), text_encoder_2=text.items()))
    plain = to_flax(config, {part: read_part(folder, part) for part in renamed})
    jax.tree.map(np.testing.assert_array_equal, renamed, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_safetensors_are_read_as_written(tmp_path, dtype):
    tensor = torch.randn(3, 5).to(dtype)
    save_file({"odd": torch.ones(3, dtype=torch.int64), "x": tensor}, tmp_path / "x.safetensors")
    read = dict(read_safetensors(tmp_path / "x.safetensors"))["x"]
    assert read.dtype == np.dtype(str(dtype).removeprefix("torch."))
    np.testing.assert_array_equal(read.astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("damage", ["empty", "cut", "no header", "foreign dtype"])
def test_damaged_safetensors_are_refused(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(100)}, path)
    data = path.read_bytes()
    changed = {
        "empty": b"",
        "cut": data[:-4],
        "no header": b"<html>" + data,
        "foreign dtype": data.replace(b'"F32"', b'"F99"'),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(WeightsError, match="x.safetensors is no whole safetensors file"):
        read_safetensors(path)


def test_repeated_name_in_a_header(tmp_path):
    entry = '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{entry},{entry}}}".encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert [name for name, _ in read_safetensors(tmp_path / "x.safetensors")] == ["x", "x"]


def test_command(folder, config, tmp_path, capsys):
    target = tmp_path / "made" / "model"
    assert main([str(folder), str(target), "--dtype", "float16"]) == 0
    assert "in float16, licence unknown" in capsys.readouterr().out
    model = load_model(target, dtype=jnp.float32)
    assert model.config == config
    expected = to_flax(config, {part: read_part(folder, part) for part in STEMS})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16)), model.params, expected)
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_shards_halves_and_licence(source, config, tmp_path, capsys):
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in read_safetensors(path)}
    path.unlink()
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, source / "unet" / file)
    index = dict(weight_map={name: file for file, held in shards.items() for name in held})
    (source / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    vae = source / "vae" / "diffusion_pytorch_model.safetensors"
    halves = {name: torch.from_numpy(tensor.copy()).bfloat16() for name, tensor in read_safetensors(vae)}
    vae.unlink()
    save_file(halves, source / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert main([str(source), str(tmp_path / "model")]) == 0
    assert "in bfloat16, licence apache-2.0" in capsys.readouterr().out
    bias = load_model(tmp_path / "model", dtype="float32").params["unet"]["conv_in"]["bias"]
    np.testing.assert_array_equal(bias, tensors["conv_in.bias"].bfloat16().float().numpy())


def test_refusals_are_one_sentence_and_write_nothing(source, tmp_path, capsys):
    target = tmp_path / "model"

    def refused(code, sentence, source=source, target=target):
        assert main([str(source), str(target)]) == code
        printed = capsys.readouterr()
        assert printed.out == "" and sentence in printed.err and printed.err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir() if path.name not in ("source", "full")] == []

    refused(2, "no folder at 'nowhere': give a diffusers folder", source="nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    refused(2, "full exists and is not an empty folder", target=tmp_path / "full")
    refused(3, "File exists", target=tmp_path / "full" / "precious" / "model")
    (source / "tokenizer_2" / "tokenizer_config.json").unlink()
    refused(2, "tokenizer_2 must hold tokenizer_config.json, and vocab.json with merges.txt or tokenizer.json")
    replace_file(source / "vae" / "diffusion_pytorch_model.safetensors", {"x": torch.ones(1)})
    refused(2, "1 unknown (vae x); 200 missing (vae ")
    (source / "unet" / "diffusion_pytorch_model.safetensors").rename(source / "unet" / "diffusion_pytorch_model.bin")
    refused(2, "(.bin and .ckpt files are not read: they are pickles, which can run code)")
    (source / "unet" / "config.json").unlink()
    refused(2, "config.json is missing: not a diffusers folder of the SDXL family")
