"""Layouts held against PyTorch, diffusers and transformers: what they read and write is what we do."""

import json
import warnings

import jax
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from helpers import checkpoints, reference
from helpers.requests import picture
from safetensors.torch import load_file, save_file

from convert.__main__ import main
from convert.diffusers_folder import STEMS, read_part
from convert.single_file import read_single_file
from convert.to_diffusers import to_diffusers
from convert.to_model import convert
from ssd1b_jax import presets
from ssd1b_jax.checkpoints.model_folder import load_model
from ssd1b_jax.checkpoints.model_json import EMBEDDED
from ssd1b_jax.checkpoints.safetensors import read_safetensors
from ssd1b_jax.checkpoints.tensor_names import PREFIXES, sgm_names, table

CONFIG = checkpoints.small_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.tiny_pipeline_folder(tmp_path_factory.mktemp("convert") / "tiny")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder, and a single file, of the same weights."""
    parts = checkpoints.tensors(CONFIG)
    made = tmp_path_factory.mktemp("small")
    folder = checkpoints.diffusers_folder(made / "folder", CONFIG, parts)
    return folder, checkpoints.save(made / "small.safetensors", checkpoints.single_tensors(CONFIG, parts))


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
        unet = reference.diffusers.UNet2DConditionModel(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    assert {name: entry.shape for name, entry in table("unet", presets.ssd_1b()).items()} == shapes
    assert len(shapes) == 944


@pytest.mark.parametrize(
    "preset", ["ssd_1b", "emoji", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vega", "sdxl_base"))]
)
def test_sgm_names_are_those_that_diffusers_reads(preset):
    """A tensor of one number stands for each; diffusers' converter must give it the name that we gave it."""
    config = getattr(presets, preset)()
    marks, named = {}, {}
    for part in ("unet", "vae"):
        for number, (name, sgm) in enumerate(sgm_names(part, config).items()):
            assert sgm not in named
            marks[part, name] = number
            named[sgm] = torch.full((1, 1, 1, 1), float(number))
    unet = dict(layers_per_block=config.unet.layers_per_block, addition_embed_type="text_time")
    levels = [None] * len(config.vae.block_out_channels)
    read = {
        "unet": theirs.convert_ldm_unet_checkpoint(named, unet),
        "vae": theirs.convert_ldm_vae_checkpoint(named, dict(down_block_types=levels, up_block_types=levels)),
    }
    assert {(part, name): int(tensor.flatten()[0]) for part in read for name, tensor in read[part].items()} == marks


def test_the_open_clip_layout_is_what_diffusers_reads(small):
    folder, path = small
    prefix = PREFIXES["text_encoder_2"]
    named = {name: tensor for name, tensor in load_file(path).items() if name.startswith(prefix)}
    read = theirs.convert_open_clip_checkpoint(None, named, prefix=prefix)
    expected = dict(read_part(folder, "text_encoder_2"))
    assert read.keys() == expected.keys()
    for name, tensor in read.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name], strict=True)


def test_diffusers_loads_the_single_file_and_the_folder(small):
    folder, path = small
    kind = reference.diffusers.StableDiffusionXLImg2ImgPipeline
    loaded = [
        kind.from_pretrained(folder, add_watermarker=False),
        kind.from_single_file(path, config=str(folder), local_files_only=True, add_watermarker=False),
    ]
    for part in STEMS:
        states = [getattr(pipe, part).state_dict() for pipe in loaded]
        assert states[0].keys() == states[1].keys()
        held = {name.removeprefix("text_model."): tensor for name, tensor in read_part(folder, part)}
        for name, tensor in states[0].items():
            np.testing.assert_array_equal(tensor, states[1][name], strict=True)
            np.testing.assert_array_equal(tensor.numpy(), held[name.removeprefix("text_model.")], strict=True)
        assert len(states[0]) == len(held)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_files_are_read_as_pytorch_writes_them(tmp_path, dtype):
    tensor = torch.randn(3, 5).to(dtype)
    tensors = {"odd": torch.ones(3, dtype=torch.int64), "x": tensor, "turned": tensor.T, "part": tensor[1:, 2:]}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    state = {name: torch.nn.Parameter(tensor) if name == "x" else tensor for name, tensor in tensors.items()}
    trainer = dict(epoch=3, loops={"a": [1, 2.5, None, True]}, state_dict=state, callbacks={}, lr=np.float64(0.1))
    torch.save(trainer, tmp_path / "x.ckpt")
    torch.save(state, tmp_path / "plain.pth")
    for file in ("x.safetensors", "x.ckpt", "plain.pth"):
        read = dict(read_single_file(tmp_path / file)[0])
        assert read.keys() == tensors.keys()
        for name, expected in tensors.items():
            assert read[name].dtype == np.dtype(str(expected.dtype).removeprefix("torch."))
            np.testing.assert_array_equal(read[name].astype(np.float32), expected.float().numpy(), strict=True)


def test_old_ckpt_files_are_refused_by_name(tmp_path, capsys):
    torch.save({"x": torch.ones(3)}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    assert main([str(tmp_path / "x.ckpt"), str(tmp_path / "model")]) == 2
    assert (
        "x.ckpt is no .ckpt that can be read: it is a pickle in PyTorch's format of before 1.6"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_bit_identical(folder, tmp_path, dtype, capsys):
    expected = {part: dict(read_part(folder, part)) for part in STEMS}
    source = folder
    if dtype != "float32":
        expected = {
            part: {name: tensor.astype(dtype) for name, tensor in named.items()} for part, named in expected.items()
        }
        source = tmp_path / "source"
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".safetensors":
                (source / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                (source / path.relative_to(folder)).write_bytes(path.read_bytes())
        for part, named in expected.items():
            checkpoints.save(source / part / f"{STEMS[part]}.safetensors", named)
    assert main([str(source), str(tmp_path / "model"), "--dtype", dtype]) == 0
    assert main(["--to-diffusers", str(tmp_path / "model"), str(tmp_path / "back")]) == 0
    assert f"GB in {dtype}" in capsys.readouterr().out
    for part, named in expected.items():
        found = load_file(tmp_path / "back" / part / f"{STEMS[part]}.safetensors")  # by safetensors' own reader
        prefixed = {name if name in found else f"text_model.{name}": tensor for name, tensor in named.items()}
        assert found.keys() == prefixed.keys()
        for name, tensor in prefixed.items():
            assert found[name].shape == tensor.shape and str(found[name].dtype) == f"torch.{dtype}"
            assert found[name].contiguous().view(torch.uint8).numpy().tobytes() == tensor.tobytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_folder_that_we_wrote_gives_the_same_pictures_in_diffusers(folder, tmp_path):
    convert(folder, tmp_path / "model", "float32")
    to_diffusers(tmp_path / "model", tmp_path / "back")
    made = []
    for path in (folder, tmp_path / "back"):
        pipe = reference.diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(path, add_watermarker=False)
        pipe.set_progress_bar_config(disable=True)
        sizes = dict(original_size=(32, 32), target_size=(32, 32))
        generator = torch.Generator("cpu").manual_seed(1)
        image = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255
        called = dict(prompt="a red cat", image=image, strength=0.5, num_inference_steps=6, generator=generator)
        made.append(pipe(**called, **sizes, output_type="np").images[0])
    assert made[0].std() > 0.02, "a flat picture would agree with anything"
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.slow
def test_the_embedded_model_loads_in_diffusers(tmp_path):
    to_diffusers("emoji", tmp_path / "emoji", "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = reference.diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(tmp_path / "emoji")
    assert (
        json.loads((EMBEDDED["emoji"] / "model.json").read_text())["licence"]
        in (tmp_path / "emoji" / "README.md").read_text()
    )
    again = convert(tmp_path / "emoji", tmp_path / "again", "float16")
    jax.tree.map(np.testing.assert_array_equal, load_model(again.folder).params, load_model("emoji").params)
    assert sum(tensor.numel() for tensor in pipe.unet.state_dict().values()) == sum(
        tensor.size for _, tensor in read_safetensors(tmp_path / "emoji" / "unet" / f"{STEMS['unet']}.safetensors")
    )
