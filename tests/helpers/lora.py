"""LoRA files of random numbers."""

import json

import numpy as np

from ssd1b_jax.checkpoints.tensor_names import table

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64"}
TO_OUT = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
LINEAR, CONV, SHORTCUT = TO_OUT, "mid_block.resnets.0.conv1", "up_blocks.0.resnets.0.conv_shortcut"


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def write(path, tensors, metadata=None):
    """A safetensors file; `tensors` are pairs, so that a name can occur twice."""
    entries, data = [("__metadata__", metadata or {})], b""
    for name, tensor in tensors:
        tensor = np.asarray(tensor)
        offsets = [len(data), len(data) + tensor.nbytes]
        entries.append((name, dict(dtype=DTYPES[tensor.dtype.name], shape=tensor.shape, data_offsets=offsets)))
        data += tensor.tobytes()
    header = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries) + "}"
    path.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + data)
    return path


def kohya(config, names=(LINEAR, CONV, SHORTCUT), rank=2, alpha=1.0, seed=0, part="unet"):
    """The tensors of a LoRA of these layers in kohya's layout, as a dict."""
    tensors = {}
    for name in names:
        outputs, inputs, *space = table(part, config)[f"{name}.weight"].shape
        key = f"{dict(unet='lora_unet', text_encoder='lora_te1', text_encoder_2='lora_te2')[part]}_{name}"
        key = key.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = draw(rank, inputs, *space, seed=seed)
        tensors[f"{key}.lora_up.weight"] = draw(outputs, rank, *[1 for _ in space], seed=seed)
        tensors[f"{key}.alpha"] = np.float32(alpha)
    return tensors
