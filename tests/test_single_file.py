"""Single files and .ckpt: the weights are those of a diffusers folder; what a file is, its content tells."""

import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import checkpoints

from convert import family
from convert.__main__ import main
from convert.family import infer
from convert.single_file import read_single_file, slots, weights
from convert.to_model import convert
from convert.weights import fill
from ssd1b_jax import presets
from ssd1b_jax.checkpoints.memory import release_pages
from ssd1b_jax.checkpoints.model_folder import load_model
from ssd1b_jax.checkpoints.tensor_names import table
from ssd1b_jax.errors import WeightsError

CONFIG = checkpoints.small_config()


@pytest.fixture(scope="module")
def parts():
    return checkpoints.tensors(CONFIG, "float16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, parts):
    return checkpoints.diffusers_folder(tmp_path_factory.mktemp("single") / "folder", CONFIG, parts)


@pytest.fixture(scope="module")
def named(parts):
    return checkpoints.single_tensors(CONFIG, parts)


@pytest.mark.slow
def test_three_layouts_give_one_model(tmp_path, folder, named):
    sources = [
        folder,
        checkpoints.save(tmp_path / "x.safetensors", named),
        checkpoints.ckpt(tmp_path / "x.ckpt", named, global_step=checkpoints.number(7)),
    ]
    models = [
        load_model(convert(path, tmp_path / str(i), "bfloat16", tokenizers=folder).folder)
        for i, path in enumerate(sources)
    ]
    for model in models[1:]:
        assert model.config == models[0].config == CONFIG
        jax.tree.map(np.testing.assert_array_equal, model.params, models[0].params)
    assert [model.manifest.source for model in models] == ["folder", "x.safetensors", "x.ckpt"]


def names_and_shapes(config) -> list[tuple[str, np.ndarray]]:
    """A single file's, of full size, in no memory."""
    value = np.zeros(1, np.float16)
    return [
        (name, np.broadcast_to(value.reshape((1,) * len(slot.shape)), slot.shape))
        for name, slot in slots(config).items()
    ]


@pytest.mark.parametrize(
    ("preset", "name"), [("ssd_1b", "SSD-1B"), ("vega", "Segmind Vega"), ("sdxl_base", "SDXL base")]
)
def test_released_models_are_told_apart(preset, name):
    config = getattr(presets, preset)()
    tensors = names_and_shapes(config)
    assert infer(tensors) == config and family.family(infer(tensors)).title == name
    count = sum(len(table(part, config)) for part in ("unet", "vae", "text_encoder", "text_encoder_2"))
    assert sum(len(slot.views) for slot in slots(config).values()) == count


CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
OTHERS = {
    "Stable Diffusion 1": [CONV_IN, "cond_stage_model.transformer.x", "first_stage_model.x"],
    "Stable Diffusion 2": [CONV_IN, "cond_stage_model.model.x", "first_stage_model.x"],
    "the SDXL refiner": [CONV_IN, "conditioner.embedders.0.model.ln_final.bias", "first_stage_model.x"],
    "Stable Diffusion 3": ["model.diffusion_model.joint_blocks.0.context_block.attn.qkv.bias"],
    "Flux": ["double_blocks.0.img_attn.norm.key_norm.scale"],
    "a LoRA: convert the model that it is for": ["lora_unet_input_blocks_4_1_proj_in.lora_down.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a VAE alone": ["encoder.conv_in.weight", "decoder.conv_in.weight"],
    "a text encoder alone": ["text_model.embeddings.token_embedding.weight"],
    "a textual inversion embedding": ["clip_l", "clip_g"],
    "one part of a diffusers folder: give the whole folder": ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    "a UNet without vae and text_encoder and text_encoder_2": [CONV_IN],
    "no model that is known here": ["weight"],
}  # fmt: skip


@pytest.mark.parametrize("said", OTHERS)
def test_other_families_are_refused_by_name(said, tmp_path, capsys):
    path = checkpoints.save(tmp_path / "x.safetensors", {name: np.zeros((4, 4), np.float32) for name in OTHERS[said]})
    assert main([str(path), str(tmp_path / "model")]) == 2
    expected = f"error: {path}: this is {said}; single files of the SDXL family are converted\n"
    assert capsys.readouterr().err == expected and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model.diffusion_model.input_blocks.0.0.weight": (64, 9, 3, 3)}, "an inpainting model .its UNet takes 9"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (64, 8, 3, 3)}, "takes 8 channels, not 4"),
        ({"model.diffusion_model.time_embed.cond_proj.weight": (1, 1)}, "takes the guidance scale .an LCM"),
    ],
)
def test_models_of_the_family_that_can_not_run(named, changed, said):
    tensors = named | {name: np.zeros(shape, np.float32) for name, shape in changed.items()}
    with pytest.raises(WeightsError, match=said):
        infer(list(tensors.items()))


OPEN_CLIP = "conditioner.embedders.1.model."


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({f"{OPEN_CLIP}transformer.resblocks.{i}.x": (1,) for i in range(500)}, "has 500 layers, more than any"),
        ({f"model.diffusion_model.output_blocks.{i}.0.x": (1,) for i in range(500)}, "more layers than any"),
        ({f"model.diffusion_model.input_blocks.{'9' * 5000}.0.x": (1,)}, None),
        ({f"{OPEN_CLIP}text_projection": (4,)}, "no model of the SDXL family"),
        ({f"{OPEN_CLIP}token_embedding.weight": (1, 1 << 40)}, "token_embedding.weight is .1, 1099511627776., which"),
        ({f"{OPEN_CLIP}token_embedding.weight": (0, 128)}, "token_embedding.weight is .0, 128., which nothing"),
        ({f"{OPEN_CLIP}token_embedding.weight": (520, 32)}, "no model of the SDXL family"),
        (
            {f"{OPEN_CLIP}token_embedding.weight": None},
            "every model of the SDXL family has: 1 missing .*token_embedding.weight",
        ),
        ({f"{OPEN_CLIP}text_projection": None}, "family has: 1 missing .*text_projection.$"),
        (
            {"model.diffusion_model.label_emb.0.0.weight": None, "first_stage_model.encoder.conv_in.weight": None},
            "2 missing .first_stage_model.encoder.conv_in.weight, model.diffusion_model.label_emb.0.0.weight.",
        ),
        ({"model.diffusion_model.input_blocks.1.0.out_layers.3.weight": None}, "1 missing .*out_layers.3.weight"),
    ],
)
def test_files_that_lie_about_their_size(named, changed, said):
    value = np.zeros((1,) * 4, np.float32)
    tensors = dict(named)
    for name, shape in changed.items():
        tensors.pop(name, None)
        if shape is not None:
            empty = np.empty(shape, np.float32) if 0 in shape else None
            tensors[name] = np.broadcast_to(value.reshape((1,) * len(shape)), shape) if empty is None else empty
    began = time.process_time()
    if said is None:
        assert infer(list(tensors.items())) == CONFIG  # and the tensor is then unknown
    else:
        with pytest.raises(WeightsError, match=said):
            infer(list(tensors.items()))
    assert time.process_time() - began < 2


def test_faults_of_a_single_file_are_told_in_its_names(tmp_path, folder, named, capsys):
    wrong = dict(named)
    wrong["model.diffusion_model.out.2.scale"] = wrong.pop("model.diffusion_model.out.2.bias")
    fused = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
    wrong[fused] = wrong[fused][:-1]
    wrong["first_stage_model.quant_conv.bias"] = wrong["first_stage_model.quant_conv.bias"] * np.float16(np.nan)
    path = checkpoints.save(tmp_path / "x.safetensors", wrong)
    assert main([str(path), str(tmp_path / "model"), "--tokenizers", str(folder)]) == 2
    said = capsys.readouterr().err
    for fault in (
        f"error: {path}: the weights do not fit the config: ",
        "1 unknown (model.diffusion_model.out.2.scale)",
        "1 missing (model.diffusion_model.out.2.bias)",
        f"1 mis-shaped ({fused} is (383, 128), not (384, 128))",
        "1 not finite in bfloat16 (first_stage_model.quant_conv.bias)",
    ):
        assert fault in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_revision_is_of_a_hub_id(tmp_path, folder, named, capsys):
    for source in (folder, checkpoints.save(tmp_path / "x.safetensors", named)):
        assert main([str(source), str(tmp_path / "model"), "--revision", "v1", "--tokenizers", str(folder)]) == 2
        said = f"error: --revision is of a hub id, and {source} is on this machine: leave it out\n"
        assert capsys.readouterr().err == said
    assert not (tmp_path / "model").exists()


def test_strides_and_shared_storages_of_a_ckpt(tmp_path):
    values = np.arange(12, dtype=np.float32)
    entries = {
        "whole": checkpoints.tensor(checkpoints.storage("FloatStorage", "0", 12), (3, 4), (4, 1)),
        "turned": checkpoints.tensor(checkpoints.storage("FloatStorage", "0", 12), (4, 3), (1, 4)),
        "end": checkpoints.tensor(checkpoints.storage("FloatStorage", "0", 12), (2,), (1,), 10),
        "none": checkpoints.tensor(checkpoints.storage("FloatStorage", "0", 12), (0, 3), (3, 1)),
        "number": checkpoints.tensor(checkpoints.storage("FloatStorage", "0", 12), (), (), 5),
    }
    pickle = checkpoints.PROTO + checkpoints.table(entries) + checkpoints.STOP
    read = dict(read_single_file(checkpoints.zipped(tmp_path / "x.ckpt", pickle, {"0": values.tobytes()}))[0])
    expected = dict(whole=values.reshape(3, 4), turned=values.reshape(3, 4).T, end=values[10:], number=values[5])
    for name, array in (expected | dict(none=np.empty((0, 3), np.float32))).items():
        np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("write", [checkpoints.save, checkpoints.ckpt])
def test_memory_of_a_mapped_file_is_given_back(tmp_path, write):
    """Also of views of views, and of tensors with strides."""
    path = write(tmp_path / "x", {"x": np.ones((1 << 12, 1 << 12), np.float32)})

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * 4096  # mapped from files

    [(_, tensor)], _ = read_single_file(path)
    before = resident()
    assert tensor.sum() == 1 << 24
    assert resident() - before > 60e6
    release_pages(tensor[5:].T)
    assert resident() - before < 4e6
    assert tensor[7, 7] == 1


@pytest.mark.parametrize("write", [checkpoints.save, checkpoints.ckpt])
def test_views_are_of_the_mapped_file(tmp_path, named, write):
    """Nothing is copied before it is written."""
    path = write(tmp_path / "x", named)
    tensors = weights(read_single_file(path)[0])
    held = dict(tensors)
    params = fill(slots(CONFIG), tensors, CONFIG, "float16")
    kernel = params["text_encoder_2"]["layers"][1]["self_attn"]["k_proj"]["kernel"]
    fused = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
    assert np.shares_memory(kernel, held[fused])
    np.testing.assert_array_equal(kernel, held[fused][128:256].T)


@pytest.mark.parametrize(
    "name",
    [
        "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.0.logit_scale",
        "conditioner.embedders.0.transformer.text_projection.weight",
        "first_stage_model.model_ema.decay",
        "first_stage_model.loss.logvar",
    ],
)
def test_leftovers_are_no_weights(name):
    tensor = np.ones(2, np.float32)
    kept = weights([(name, tensor), ("conditioner.embedders.1.model.text_projection", tensor)])
    assert [name for name, _ in kept] == ["conditioner.embedders.1.model.text_projection"]
