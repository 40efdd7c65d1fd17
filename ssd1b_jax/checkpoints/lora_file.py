"""Where a LoRA's file is, found without reading it."""

from pathlib import Path

from ssd1b_jax.errors import WeightsError

# The name of a folder's file in diffusers and in PEFT. PEFT keeps its alphas in adapter_config.json.
FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


def find(path: str | Path) -> Path:
    """The safetensors file that `read` would read. Raises WeightsError."""
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in FILES if (path / name).is_file()]
        if len(files) != 1:
            raise WeightsError(f"{path} must hold {' or '.join(FILES)}: give the LoRA's file")
        path = files[0]
    if not path.is_file():
        raise WeightsError(f"no LoRA at {str(path)!r}: give a safetensors file or the folder it is in")
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is no .safetensors file (others are pickles, which can run code): convert it")
    return path
