"""Full-size checkpoints of random weights in all three layouts, converted one after another in processes of their own.

    python tests/full_size.py FOLDER [--preset ssd_1b] [--layouts diffusers single ckpt]

makes them under FOLDER (about 4.5 GB each for SSD-1B in float16), converts each to bfloat16, says how
long that took and how much memory, and whether the model folders hold the same weights; then loads
one, and writes it back. `--layouts ckpt` needs PyTorch; nothing else here does.

Memory is the process's resident set, everything counted (VmHWM: pages of mapped files too), less
what it was after the imports.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.checkpoints import join  # noqa: E402

from ssd1b_jax import presets  # noqa: E402
from ssd1b_jax.checkpoints import diffusers_config, model_folder, orbax  # noqa: E402
from ssd1b_jax.checkpoints.safetensors import read_safetensors, write_safetensors  # noqa: E402
from ssd1b_jax.checkpoints.tensor_names import table  # noqa: E402
from ssd1b_jax.config import ModelConfig  # noqa: E402
from ssd1b_jax.training import vocabulary  # noqa: E402

STEMS = dict(
    unet="diffusion_pytorch_model", vae="diffusion_pytorch_model", text_encoder="model", text_encoder_2="model"
)


def make(folder: Path, model: ModelConfig, dtype: type = np.float16) -> None:
    """A diffusers folder of random weights, the same at every call."""
    for path, data in diffusers_config.to_diffusers_configs(model).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(data))
    rng = np.random.default_rng(0)
    for part, stem in STEMS.items():
        entries = {name: (entry.shape, dtype) for name, entry in table(part, model).items()}
        drawn = ((name, draw(rng, name, shape).astype(dtype, copy=False)) for name, (shape, _) in entries.items())
        write_safetensors(folder / part / f"{stem}.safetensors", entries, drawn)
    vocabulary.save(folder, ["a red apple"], size=520, length=model.text_encoder.max_position_embeddings)


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that keeps activations at their size: scales near 1, kernels by fan-in, small biases."""
    values = rng.standard_normal(shape, np.float32)
    values *= 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
    if len(shape) == 1 and name.endswith("weight"):
        values += 1
    return values


def memory(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measured(name: str, work, *arguments) -> None:
    """Run it in a fresh process; print its time and memory."""
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(name, work, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} failed")


def _measure(name, work, *arguments):
    import jax

    import convert.to_model  # noqa: F401

    jax.config.update("jax_platforms", "cpu")
    jax.numpy.zeros(1).block_until_ready()
    before, began = memory("VmRSS"), time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - began
    print(f"{name}: {seconds:.0f} s, at most {(memory('VmHWM') - before) / 1e9:.2f} GB above {before / 1e9:.2f} GB")


def _convert(source, target, tokenizers=None):
    from convert.to_model import convert

    convert(source, target, dtype="bfloat16", tokenizers=tokenizers)


def _load(model):
    loaded = model_folder.load_model(model)
    import jax

    jax.block_until_ready(loaded.params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params))
    print(f"the model's size: {size / 1e9:.2f} GB")


def _back(model, target):
    from convert.to_diffusers import to_diffusers

    to_diffusers(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=("ssd_1b", "vega", "sdxl_base"), default="ssd_1b")
    parser.add_argument(
        "--layouts", nargs="+", choices=("diffusers", "single", "ckpt"), default=["diffusers", "single"]
    )
    arguments = parser.parse_args()
    model, folder = getattr(presets, arguments.preset)(), arguments.folder
    source, single, ckpt = folder / "diffusers", folder / "single.safetensors", folder / "single.ckpt"
    if not source.exists():
        make(source, model)
    if "diffusers" in arguments.layouts:
        measured("diffusers folder", _convert, source, folder / "from-diffusers")
    if {"single", "ckpt"} & {*arguments.layouts} and not single.exists():
        parts = {part: dict(read_safetensors(source / part / f"{stem}.safetensors")) for part, stem in STEMS.items()}
        joined = dict(join(model, parts))
        write_safetensors(single, {name: (a.shape, a.dtype) for name, a in joined.items()}, joined.items())
    if "single" in arguments.layouts:
        measured("single file", _convert, single, folder / "from-single", source)
    if "ckpt" in arguments.layouts:
        script = "import sys, torch; from safetensors.torch import load_file as load; "
        script += "torch.save({'state_dict': load(sys.argv[1]), 'global_step': 7}, sys.argv[2])"
        subprocess.run([sys.executable, "-c", script, str(single), str(ckpt)], check=True)
        measured("ckpt", _convert, ckpt, folder / "from-ckpt", source)
    made = [folder / f"from-{layout}" for layout in arguments.layouts]
    for part in model_folder.PARTS:
        shapes = model_folder.abstract_params(model, ml_dtypes.bfloat16)[part]
        for leaves in zip(*(orbax.read_leaves(path / part, shapes) for path in made), strict=True):
            (path, first), *others = leaves
            assert all(where == path and first.tobytes() == other.tobytes() for where, other in others), (part, path)
    print(f"{len(made)} model folders with the same weights")
    measured("loading", _load, made[0])
    measured("back to diffusers", _back, made[0], folder / "back")


if __name__ == "__main__":
    main()
