"""Conversion is exact, strict and complete, in both directions; what is wrong is said in one sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import checkpoints, tiny

from convert.__main__ import main
from convert.diffusers_folder import STEMS, read_part
from convert.weights import to_flax
from ssd1b_jax.checkpoints.diffusers_config import read_config
from ssd1b_jax.checkpoints.model_folder import abstract_params, load_model
from ssd1b_jax.checkpoints.safetensors import read_safetensors
from ssd1b_jax.errors import WeightsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny.tiny_config()
    folder = tmp_path_factory.mktemp("convert") / "tiny"
    return checkpoints.diffusers_folder(folder, config, checkpoints.tensors(config))


@pytest.fixture(scope="module")
def config(folder):
    return read_config(folder)


@pytest.fixture
def source(folder, tmp_path):
    """A copy of the folder to damage."""
    return shutil.copytree(folder, tmp_path / "source")


def test_there_and_back_is_the_identity(folder, config):
    parts = {part: read_part(folder, part) for part in STEMS}
    params = to_flax(config, parts)
    jax.tree.map(lambda ours, leaf: np.testing.assert_equal(ours.shape, leaf.shape), params, abstract_params(config))
    back = checkpoints.to_torch(config, params)
    for part, tensors in parts.items():
        assert len(back[part]) == len(tensors)
        for name, tensor in tensors:
            name = name if name in back[part] else f"text_model.{name}"  # as released files have it
            np.testing.assert_array_equal(back[part][name], tensor, strict=True)
    again = to_flax(config, {part: tensors.items() for part, tensors in back.items()})
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_axes_of_length_one_and_buffers_make_no_difference(folder, config):
    parts = {part: dict(read_part(folder, part)) for part in STEMS}
    expected = to_flax(config, {part: tensors.items() for part, tensors in parts.items()})
    for name in ("to_q.weight", "to_q.bias"):
        tensors, key = parts["vae"], f"encoder.mid_block.attentions.0.{name}"
        tensors[key] = tensors[key][..., None, None]
    parts["text_encoder"]["text_projection.weight"] = np.ones((4, 4), np.float32)
    parts["text_encoder_2"]["logit_scale"] = np.ones((), np.float32)
    got = to_flax(config, {part: tensors.items() for part, tensors in parts.items()})
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_faults_are_collected_over_all_parts(folder, config):
    parts = {part: dict(read_part(folder, part)) for part in STEMS}
    tensors = parts["unet"]
    tensors["conv_in.scale"] = tensors.pop("conv_in.bias")
    tensors["conv_out.weight"] = tensors["conv_out.weight"].reshape(8, 4, 3, 3)
    tensors["conv_out.bias"] = tensors["conv_out.bias"] * np.float32(np.nan)
    parts["vae"]["quant_conv.bias"] = np.full(8, 1e5, np.float32)
    key = "encoder.mid_block.attentions.0.{}.weight"
    parts["vae"][key.format("query")] = parts["vae"][key.format("to_q")]
    parts["vae"]["encoder.conv_in.weight"] = np.zeros_like(parts["vae"]["encoder.conv_in.weight"])
    with pytest.raises(WeightsError) as caught:
        to_flax(config, {part: tensors.items() for part, tensors in parts.items()}, "float16")
    for fault in (
        "1 unknown (unet conv_in.scale)",
        "1 missing (unet conv_in.bias)",
        "1 mis-shaped (unet conv_out.weight is (8, 4, 3, 3), not (4, 8, 3, 3))",
        "2 not finite in float16 (unet conv_out.bias, vae quant_conv.bias)",
        "1 repeated (vae encoder.mid_block.attentions.0.to_q.weight)",
        "1 zero from end to end (vae encoder.conv_in.weight)",
    ):
        assert fault in str(caught.value)


def test_many_faults_are_counted_and_ten_are_named(config):
    with pytest.raises(WeightsError, match=r"^the weights do not fit the config: 120 missing \((\S+ \S+, ){10}…\)$"):
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
    text["text_model.embeddings.position_ids"] = np.arange(16)[None]
    renamed = to_flax(config, dict(vae=vae.items(), text_encoder_2=text.items()))
    plain = to_flax(config, {part: read_part(folder, part) for part in renamed})
    jax.tree.map(np.testing.assert_array_equal, renamed, plain)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int64"])
def test_safetensors_are_read_as_written(tmp_path, dtype):
    tensors = {
        "x": np.arange(15).reshape(3, 5).astype(dtype),
        "number": np.ones((), np.float64),
        "none": np.ones((0, 3)),
    }
    read = dict(read_safetensors(checkpoints.save(tmp_path / "x.safetensors", tensors)))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor, strict=True)


def test_repeated_name_in_a_header(tmp_path):
    entry = '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{entry},{entry}}}".encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert [name for name, _ in read_safetensors(tmp_path / "x.safetensors")] == ["x", "x"]


@pytest.mark.slow
def test_shards_halves_and_licence(source, config, tmp_path, capsys):
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in read_safetensors(path)}
    path.unlink()
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in shards.items():
        checkpoints.save(source / "unet" / file, {name: tensors[name] for name in held})
    index = dict(weight_map={name: file for file, held in shards.items() for name in held})
    (source / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    vae = source / "vae" / "diffusion_pytorch_model.safetensors"
    halves = {name: tensor.astype("bfloat16") for name, tensor in read_safetensors(vae)}
    vae.unlink()
    checkpoints.save(source / "vae" / "diffusion_pytorch_model.fp16.safetensors", halves)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert main([str(source), str(tmp_path / "model")]) == 0
    assert "in bfloat16, licence apache-2.0" in capsys.readouterr().out
    bias = load_model(tmp_path / "model", dtype="float32").params["unet"]["conv_in"]["bias"]
    np.testing.assert_array_equal(bias, tensors["conv_in.bias"].astype("bfloat16").astype(np.float32))


def test_the_dtype_decides_between_two_precisions(source):
    whole = source / "vae" / "diffusion_pytorch_model.safetensors"
    halves = {name: tensor.astype(np.float16) for name, tensor in read_safetensors(whole)}
    checkpoints.save(whole.with_name("diffusion_pytorch_model.fp16.safetensors"), halves)
    for dtype, expected in (("float32", np.float32), ("bfloat16", np.float16), ("float16", np.float16)):
        assert {tensor.dtype for _, tensor in read_part(source, "vae", dtype)} == {np.dtype(expected)}


HALVES = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float16", "bfloat16")]


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_there_and_back_through_a_model_folder(folder, config, tmp_path, dtype, capsys):
    """Bit for bit, and the config with it."""
    target = tmp_path / "new" / "model"
    assert main([str(folder), str(target), "--dtype", dtype]) == 0
    assert f"in {dtype}, licence unknown" in capsys.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    model = load_model(target, dtype=jnp.float32)
    assert model.config == config
    params = to_flax(config, {part: read_part(folder, part) for part in STEMS})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(dtype)), model.params, params)
    assert main(["--to-diffusers", str(target), str(tmp_path / "back")]) == 0
    assert f"GB in {dtype}" in capsys.readouterr().out
    assert read_config(tmp_path / "back") == read_config(folder)
    for part in STEMS:
        expected = {name: tensor.astype(dtype) for name, tensor in read_part(folder, part)}
        found = dict(read_part(tmp_path / "back", part))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            assert found[name].tobytes() == tensor.tobytes()
    for name in ("tokenizer/vocab.json", "tokenizer_2/merges.txt"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_the_way_back_refuses(folder, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    assert main(["--to-diffusers", "emoji", str(tmp_path / "full")]) == 2
    assert "full exists and is not an empty folder" in capsys.readouterr().err
    assert main(["--to-diffusers", str(folder), str(tmp_path / "back")]) == 2
    assert "is a diffusers folder" in capsys.readouterr().err
    assert main(["--to-diffusers", "emoji", str(tmp_path / "back"), "--revision", "main"]) == 2
    assert "--revision does not go with --to-diffusers: leave it out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("way", [[], ["--to-diffusers"]])
def test_interrupted_it_leaves_nothing(folder, tmp_path, capsys, monkeypatch, way):
    def interrupt(bars, stage, count):
        if stage == "writing":
            raise KeyboardInterrupt

    monkeypatch.setattr("ssd1b_jax.cli.convert._Bars.advance", interrupt)
    assert main([*way, "emoji" if way else str(folder), str(tmp_path / "target")]) == 130
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: interrupted\n") and not any(tmp_path.iterdir())


def test_help_needs_no_jax():
    parse = "import sys; import convert.__main__ as it; it._parser().parse_args(['a', 'b'])"
    script = f"{parse}; print({{'jax', 'flax'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_refusals_are_one_sentence_and_write_nothing(source, tmp_path, capsys):
    target = tmp_path / "model"

    def refused(code, sentence, source=source, target=target):
        assert main([str(source), str(target)]) == code
        printed = capsys.readouterr()
        assert printed.out == "" and sentence in printed.err and printed.err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir() if path.name not in ("source", "full")] == []

    refused(2, "no file or folder at 'nowhere': give a diffusers folder, a single file or a hub id", source="nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    refused(2, "full exists and is not an empty folder", target=tmp_path / "full")
    refused(3, "cannot be saved: file exists", target=tmp_path / "full" / "precious" / "model")
    (source / "unet" / "diffusion_pytorch_model.safetensors").rename(source / "unet" / "diffusion_pytorch_model.bin")
    refused(
        2, "unet has no diffusion_pytorch_model.safetensors, whole, in shards or as .fp16 (diffusion_pytorch_model.bin:"
    )
