"""Where a LoRA's file is, found without reading it."""

from pathlib import Path

from ssd1b_jax.errors import WeightsError

PICKLES = (b"PK\x03\x04", b"\x80")  # how files that torch.save writes begin
# The name of a folder's file in diffusers and in PEFT. PEFT keeps its alphas in adapter_config.json.
FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


def find(path: str | Path) -> Path:
    """The safetensors file that `read` would read. Raises WeightsError."""
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in FILES if (path / name).is_file()]
        if len(files) != 1:
            if (path / "model.json").is_file() or (path / "model_index.json").is_file():
                raise WeightsError(f"{path} is a model and no LoRA: give the LoRA's file")
            raise WeightsError(f"{path} must hold {' or '.join(FILES)}: give the LoRA's file")
        path = files[0]
    if not path.is_file():
        raise WeightsError(f"no LoRA at {str(path)!r}: give a safetensors file or the folder it is in")
    with open(path, "rb") as file:
        refuse_pickle(path, file.read(16))
    return path


def refuse_pickle(path: Path, head: bytes) -> None:
    """Raise WeightsError for a file that torch.save wrote, by how it begins and whatever it is called."""
    if head.startswith(PICKLES) and head[8:9] != b"{":  # where a safetensors header starts
        raise WeightsError(
            f"{path} is a pickle of PyTorch's, which can run code: load it there, and save it as safetensors"
        )
