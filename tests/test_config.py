"""Configs: what released folders say, what is refused, and that nothing is lost on the way to JSON."""

import dataclasses
import json
from dataclasses import replace

import pytest

from ssd1b_jax import presets
from ssd1b_jax.checkpoints import schedules
from ssd1b_jax.checkpoints.diffusers_config import read_config
from ssd1b_jax.config import ModelConfig, ScheduleConfig
from ssd1b_jax.errors import ConfigError

SCHEDULER = "scheduler/scheduler_config.json"
SSD_1B = {
    "model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.22.0.dev0",
        "force_zeros_for_empty_prompt": True,
        "unet": ["diffusers", "UNet2DConditionModel"],
    },
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "center_input_sample": False,
        "class_embed_type": None,
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_type": "UNetMidBlock2D",
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_attention_heads": None,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "sample_size": 128,
        "time_cond_proj_dim": None,
        "time_embedding_type": "positional",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    "text_encoder_2/config.json": {
        "architectures": ["CLIPTextModelWithProjection"],
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
        "vocab_size": 49408,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "EulerDiscreteScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
}
SDXL_UNET = {
    "mid_block_type": None,
    "reverse_transformer_layers_per_block": None,
    "transformer_layers_per_block": [1, 2, 10],
}
VEGA_UNET = {
    "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
    "transformer_layers_per_block": [1, [1, 1], [2, 2]],
}


def write(folder, file=None, **changes):
    """The released files, with changes to one of them; a change to None leaves the key out."""
    for name, data in SSD_1B.items():
        if name == file:
            data = {key: value for key, value in (data | changes).items() if changes.get(key, data) is not None}
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))
    return folder


def test_released_folders_are_the_presets(tmp_path):
    assert read_config(write(tmp_path)) == presets.ssd_1b()
    assert read_config(write(tmp_path, "unet/config.json", **SDXL_UNET)) == presets.sdxl_base()
    assert read_config(write(tmp_path, "unet/config.json", **VEGA_UNET)) == presets.vega()


@pytest.mark.parametrize("preset", [presets.ssd_1b, presets.vega, presets.sdxl_base, presets.emoji])
def test_json_round_trip(preset):
    config = preset()
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(preset())


@pytest.mark.parametrize(
    "file, changes, message",
    [
        ("unet/config.json", dict(time_cond_proj_dim=256), "time_cond_proj_dim must be None, got 256"),
        ("unet/config.json", dict(addition_embed_type=None), "addition_embed_type must be 'text_time', got None"),
        ("unet/config.json", dict(use_linear_projection=None), "use_linear_projection must be True, got False"),
        ("unet/config.json", dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn"), "mid_block_type"),
        ("unet/config.json", dict(down_block_types=["DownBlock2D", "AttnDownBlock2D", "X"]), "'AttnDownBlock2D'"),
        ("unet/config.json", dict(in_channels=9), "the UNet takes 9 and gives 4"),
        ("unet/config.json", dict(cross_attention_dim=1024), "give 2048 channels, the UNet expects 1024"),
        ("unet/config.json", dict(attention_head_dim=[7, 10, 20]), "must divide into 32 groups and 7 heads"),
        ("vae/config.json", dict(latent_channels=16), "the VAE has 16 latent channels"),
        ("vae/config.json", dict(shift_factor=0.1), "shift_factor must be None, got 0.1"),
        ("text_encoder/config.json", dict(hidden_act="relu"), "hidden_act must be quick_gelu or gelu, got 'relu'"),
        ("text_encoder_2/config.json", dict(architectures=["CLIPTextModel"]), "projects to None, the UNet expects"),
        ("scheduler/scheduler_config.json", dict(prediction_type="sample"), "prediction_type must be one of"),
        (SCHEDULER, dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr needs prediction_type v_prediction"),
        (SCHEDULER, dict(rescale_betas_zero_snr="yes"), "rescale_betas_zero_snr must be true or false, got 'yes'"),
        (SCHEDULER, dict(_class_name="EDMEulerScheduler"), "class 'EDMEulerScheduler' is not understood"),
        (SCHEDULER, dict(_class_name="FlowMatchEulerDiscreteScheduler"), "'FlowMatchEulerDiscreteScheduler' is not"),
        (SCHEDULER, dict(sigma_max=120.0), "sigma_max must be None, got 120.0"),
        (SCHEDULER, dict(timestep_type="continuous"), "timestep_type must be 'discrete', got continuous"),
        (SCHEDULER, dict(use_flow_sigmas=True), "use_flow_sigmas must be False, got True"),
        (SCHEDULER, dict(trained_betas=[0.1]), "trained_betas must be None"),
        (SCHEDULER, dict(beta_schedule="squaredcos_cap_v2"), "beta_schedule must be one of scaled_linear, linear"),
        (SCHEDULER, dict(snr_shift_scale=3.0), "snr_shift_scale 3.0 is not understood"),
    ],
)
def test_other_networks_are_refused(tmp_path, file, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, file, **changes))


@pytest.mark.filterwarnings("ignore:__array(_wrap)?__ :DeprecationWarning")
def test_every_setting_of_a_sampler_is_understood(tmp_path):
    """And changes nothing: each request names its own sampler."""
    diffusers = pytest.importorskip("diffusers")
    plain = read_config(write(tmp_path)).schedule
    for name in schedules.CLASSES - {"DPMSolverSDEScheduler"}:  # which needs another package
        kind = getattr(diffusers, name)
        config = {**kind.from_config({}).config, **dataclasses.asdict(plain), "_class_name": name}
        assert schedules.read(json.loads(json.dumps(config))) == plain
    assert schedules.read(dataclasses.asdict(plain) | dict(use_karras_sigmas=True, new_switch=False)) == plain
    for name in schedules.BETAS:
        with pytest.raises(ConfigError, match=f"{name} is missing"):
            schedules.read({key: value for key, value in dataclasses.asdict(plain).items() if key != name})


MARKED = {
    "nothing": ((), {}, {}),
    "NoobAI-XL V": (("v_pred", "ztsnr"), {}, dict(prediction_type="v_prediction", rescale_betas_zero_snr=True)),
    "v alone": (("v_pred",), {}, dict(prediction_type="v_prediction")),
    "metadata of v": ((), {"modelspec.prediction_type": "v"}, dict(prediction_type="v_prediction")),
    "metadata of epsilon": ((), {"modelspec.prediction_type": "epsilon"}, {}),
    "a trainer's": ((), {"ss_v_parameterization": "True"}, dict(prediction_type="v_prediction")),
    "a trainer's of epsilon": ((), {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "False"}, {}),
    "a trainer's to no signal": (
        (),
        {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
        dict(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_single_file_says_what_it_predicts(name):
    marks, metadata, changes = MARKED[name]
    if changes.get("rescale_betas_zero_snr"):
        changes = changes | dict(timestep_spacing="trailing")
    assert schedules.of_file(marks, metadata) == ScheduleConfig(**changes)


@pytest.mark.parametrize(
    ("marks", "metadata", "sentence"),
    [
        (("edm_mean",), {}, "its edm_mean marks an EDM model, as CosXL and Playground 2.5 are"),
        (("v_pred", "edm_vpred.sigma_max"), {}, "its edm_vpred.sigma_max marks an EDM model"),
        ((), {"modelspec.prediction_type": "sample"}, "its metadata say prediction_type 'sample', which is not"),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, "two things, .*: choose by --prediction-type"),
    ],
)
def test_marks_that_are_not_understood_are_named(marks, metadata, sentence):
    with pytest.raises(ConfigError, match=sentence):
        schedules.of_file(marks, metadata)


def test_incomplete_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="model_index.json is missing: not a diffusers folder of the SDXL family"):
        read_config(tmp_path)
    for data, message in (("{", "is not readable JSON"), ("[]", "must hold a JSON object, got list")):
        (write(tmp_path) / "vae" / "config.json").write_text(data)
        with pytest.raises(ConfigError, match=message):
            read_config(tmp_path)
    for file, key in (("unet/config.json", "block_out_channels"), ("text_encoder/config.json", "hidden_size")):
        with pytest.raises(ConfigError, match=key):
            read_config(write(tmp_path, file, **{key: None}))


def test_unknown_and_wrong_fields_are_refused():
    data = presets.emoji().to_dict()
    with pytest.raises(ConfigError, match="unknown config keys: colour"):
        ModelConfig.from_dict(data | {"colour": 1})
    with pytest.raises(ConfigError, match="config part 'vae'.*colour"):
        ModelConfig.from_dict(data | {"vae": data["vae"] | {"colour": 1}})
    with pytest.raises(ConfigError, match="up blocks must have 2 resnets each"):
        replace(presets.emoji().unet, down_depths=((0,), (1,), (1,)))
    with pytest.raises(ConfigError, match="betas must satisfy"):
        ScheduleConfig(beta_start=0.1, beta_end=0.01)


def test_sizes_that_follow():
    config = presets.ssd_1b()
    assert (config.vae.factor, config.size_multiple) == (8, 8)
    assert (config.unet.pooled_dim, config.unet.time_embed_dim) == (1280, 1280)
