"""LoRAs against diffusers with PEFT: files that it saved, merged by us, and files in kohya's layout read by both.

Theirs are run beside the layers, ours are merged into them; networks agree as they do without LoRAs.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

import diffusers  # noqa: E402
from helpers import reference  # noqa: E402
from helpers.compare import QUICK_TO_COMPILE, error  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from convert.diffusers_folder import STEMS, read_part  # noqa: E402
from convert.weights import to_flax  # noqa: E402
from ssd1b_jax.checkpoints.diffusers_config import read_config  # noqa: E402
from ssd1b_jax.checkpoints.lora_alphas import PARTS  # noqa: E402
from ssd1b_jax.checkpoints.tensor_names import PREFIXES, sgm_names  # noqa: E402
from ssd1b_jax.engine.adapters import Adapters  # noqa: E402
from ssd1b_jax.models import abstract  # noqa: E402

WHOLE = 5e-5  # relative, as in test_models
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
# What LCM-LoRA changes.
EVERYTHING = [
    *ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
    "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
]  # fmt: skip
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
END = len(reference.vocabulary()[0]) - 1
TOKENS = np.array([[END - 1, 3, 4, 5, END, END], [END - 1, 6, 7, 8, 9, END]])

# Two LoRAs on one model are what these tests want.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.tiny_pipeline_folder(tmp_path_factory.mktemp("lora") / "tiny")


@pytest.fixture(scope="module")
def base(folder):
    config = read_config(folder)
    params = to_flax(config, {part: read_part(folder, part) for part in STEMS})
    return config, jax.tree.map(jnp.asarray, params)


def pipeline(folder):
    return diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(folder, add_watermarker=False)


def trained(folder, seed, unet_targets, unet=None, text=None, **settings):
    """The networks with a LoRA that PEFT added and we filled with numbers, as by training."""
    pipe = pipeline(folder)
    generator = torch.Generator().manual_seed(seed)
    for part in PARTS:
        module = getattr(pipe, part)
        targets, more = (unet_targets, unet) if part == "unet" else (TEXT, text)
        module.add_adapter(peft.LoraConfig(target_modules=targets, **settings, **(more or {})))
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                draw = torch.randn(parameter.shape, generator=generator)
                parameter.data = draw * (0.5 * parameter[0].numel() ** -0.5)
    return pipe


def state(pipe, part):
    return {name: tensor.contiguous() for name, tensor in peft.get_peft_model_state_dict(getattr(pipe, part)).items()}


def save(pipe, folder, metadata=False):
    said = {f"{part}_lora_adapter_metadata": _config(getattr(pipe, part)) for part in PARTS} if metadata else {}
    layers = {f"{part}_lora_layers": state(pipe, part) for part in PARTS}
    pipe.save_lora_weights(folder, **layers, **said)
    return folder


def _config(module):
    fields = module.peft_config["default"].to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory):
    """One LoRA of attention with alphas of its own in the metadata, and one of all layers without any."""
    target = tmp_path_factory.mktemp("files")
    unet = dict(rank_pattern={"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": 2})
    unet |= dict(alpha_pattern={"up_blocks.*to_k": 1})
    text = dict(rank_pattern={"fc1": 3}, alpha_pattern={"layers.1.mlp.fc2": 9})
    a = trained(folder, 1, ATTENTION, unet, text, r=4, lora_alpha=6)
    b = trained(folder, 2, EVERYTHING, r=2, lora_alpha=2)
    return {"a": save(a, target / "a", metadata=True), "b": save(b, target / "b")}


def outputs(params, config):
    """The UNet's noise, and each text encoder's features."""
    unet = [np.asarray(value, np.float32) for value in arguments()]
    found = [network("unet", config)(params["unet"], *unet)]
    for part in ("text_encoder", "text_encoder_2"):
        found += network(part, config)(params[part], TOKENS)
    return [np.asarray(output) for output in found]


@cache
def network(part, config):
    graphdef, _ = abstract(part, config)
    return jax.jit(lambda tree, *args: nnx.merge(graphdef, tree)(*args), compiler_options=QUICK_TO_COMPILE)


def arguments():
    rng = np.random.default_rng(0)
    latents, context, pooled = (rng.standard_normal(shape) for shape in ((2, 8, 8, 4), (2, 7, 80), (2, 40)))
    return latents, np.array([20.0, 900.0]), context, pooled, np.array([[64, 64, 0, 0, 64, 64]] * 2)


@torch.no_grad()
def torch_noise(unet):
    latents, times, context, pooled, time_ids = (torch.tensor(value, dtype=torch.float32) for value in arguments())
    added = dict(text_embeds=pooled, time_ids=time_ids)
    return reference.nhwc(unet(latents.movedim(-1, 1), times, context, added_cond_kwargs=added, return_dict=False)[0])


@torch.no_grad()
def torch_outputs(pipe):
    first = pipe.text_encoder(torch.from_numpy(TOKENS), output_hidden_states=True)
    second = pipe.text_encoder_2(torch.from_numpy(TOKENS), output_hidden_states=True)
    found = [torch_noise(pipe.unet), first.hidden_states[-2], first.pooler_output]
    return [np.asarray(output) for output in (*found, second.hidden_states[-2], second.text_embeds)]


def errors(ours, theirs):
    return [error(a, b) for a, b in zip(ours, theirs, strict=True)]


@pytest.fixture(scope="module")
def ours(base, files):
    adapters = Adapters(*base)
    for name, path in files.items():
        adapters.add(name, path)
    return adapters


@pytest.mark.parametrize("scales", [{"a": 0.5, "b": 1.2}, {"b": 0.7}, {"b": -1.0, "a": 2.0}], ids=str)
def test_what_diffusers_saved_does_what_it_does_there(folder, base, files, ours, scales):
    theirs = pipeline(folder)
    for name in scales:
        theirs.load_lora_weights(files[name], adapter_name=name)
    theirs.set_adapters(list(scales), list(scales.values()))
    expected = torch_outputs(theirs)
    assert max(errors(outputs(ours.params(scales), base[0]), expected)) <= WHOLE
    assert min(errors(outputs(base[1], base[0]), expected)) >= 1e-2, "a LoRA that does nothing says nothing"


def kohya(pipe, alpha, names=lambda part, module: module):
    """The LoRA in kohya's layout, with one alpha for all, under the names that its UNet gives the modules."""
    tensors = {}
    for part, prefix in {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}.items():
        for name, tensor in state(pipe, part).items():
            module, half = name.removesuffix(".weight").rsplit(".", 1)
            if part != "unet" and not module.startswith("text_model."):  # newer transformers leave it out
                module = f"text_model.{module}"
            spelled = f"{prefix}_{names(part, module).replace('.', '_')}"
            tensors[f"{spelled}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[half] }.weight"] = tensor
            tensors[f"{spelled}.alpha"] = torch.tensor(float(alpha))
    return tensors


@pytest.mark.parametrize("naming", ["diffusers", "sgm"])
def test_kohyas_layout_is_read_as_diffusers_reads_it(folder, base, tmp_path, naming):
    """One alpha for all: diffusers 0.42 itself loses those that differ from most."""
    config, params = base
    sgm = sgm_names("unet", config)

    def names(part, module):
        sgm_name = sgm.get(f"{module}.weight") if part == "unet" and naming == "sgm" else None
        return sgm_name.removeprefix(PREFIXES["unet"]).removesuffix(".weight") if sgm_name else module

    path = tmp_path / "lora.safetensors"
    made = trained(folder, 3, EVERYTHING, r=3, lora_alpha=3)
    save_file(kohya(made, 1.5, names), path, metadata={"ss_network_alpha": "1.5"})
    theirs = pipeline(folder)
    theirs.load_lora_weights(path, adapter_name="k")
    theirs.set_adapters("k", 0.9)
    adapters = Adapters(config, params)
    adapters.add("k", path)
    expected = torch_outputs(theirs)
    assert max(errors(outputs(adapters.params({"k": 0.9}), config), expected)) <= WHOLE
    assert min(errors(outputs(params, config), expected)) >= 1e-2, "a LoRA that does nothing says nothing"


@pytest.mark.parametrize("library", ["diffusers", "peft"])
def test_a_unet_saved_by_itself(base, tmp_path, library):
    """Names without a part, the alpha in the file (diffusers) or beside it (PEFT), and a scale by the rank's root."""
    settings = peft.LoraConfig(target_modules=["to_k", "ff.net.2"], r=4, lora_alpha=3, use_rslora=True)
    theirs = peft.get_peft_model(reference.unet(), settings) if library == "peft" else reference.unet()
    if library == "diffusers":
        theirs.add_adapter(settings)
    for name, parameter in theirs.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path) if library == "peft" else theirs.save_lora_adapter(tmp_path)
    adapters = Adapters(*base)
    adapters.add("x", tmp_path)
    expected = torch_noise(theirs)
    unet = [np.asarray(value, np.float32) for value in arguments()]
    found = {scale: network("unet", base[0])(adapters.params({"x": scale})["unet"], *unet) for scale in (0, 1)}
    assert max(errors([np.asarray(found[1])], [expected])) <= WHOLE
    assert min(errors([np.asarray(found[0])], [expected])) >= 1e-2, "a LoRA that does nothing says nothing"
