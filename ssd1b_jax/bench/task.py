"""What is timed: a part of the work, of one model, at one size; the same for all contenders."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssd1b_jax import images, presets
from ssd1b_jax.config import ModelConfig

MODELS = {"emoji": presets.emoji, "ssd_1b": presets.ssd_1b}
GUIDED = 2  # the negative and the positive prompt
PICTURES, TOGETHER = 64, 16  # in all, and at a time: PyTorch is twice as fast with 16 as with 4, and no faster with 64
MIXED = {4: 16, 12: 26, 24: 16, 50: 6}  # pictures by steps
FOLDER = Path(tempfile.gettempdir()) / "ssd1b_jax-bench"  # for models with random weights, and pictures


@dataclass(frozen=True, kw_only=True)
class Task:
    """`part` is a name in `ours.PARTS`; `size` is the picture's height and width in pixels.

    `width` is pictures at a time on each of so many `devices`, in the parts of the queue; `seconds` are those of
    each open load.
    """

    part: str
    model: str
    size: int
    steps: int
    strength: float
    width: int = 1
    devices: int = 1
    seconds: float = 300.0

    @property
    def config(self) -> ModelConfig:
        return MODELS[self.model]()

    def draw(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)

    @property
    def latents(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        side = self.size // self.config.vae.factor
        return side, side, self.config.vae.latent_channels

    @property
    def length(self) -> int:
        return min(self.config.text_encoder.max_position_embeddings, self.config.text_encoder_2.max_position_embeddings)

    def tokens(self) -> np.ndarray:
        """Ids of both prompts; what they say makes no difference to the time."""
        tokens = np.random.default_rng(0).integers(1, 500, (GUIDED, self.length))
        tokens[:, -1] = self.config.text_encoder.vocab_size - 1
        return tokens

    def picture(self) -> np.ndarray:
        """Pixels; smooth, as photographs are."""
        ramp = np.linspace(0, 255, self.size)
        return np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1, None]), axis=-1).astype(np.uint8)

    def all_steps(self) -> list[int]:
        """Steps of each picture in order of arrival: as asked for, or mixed."""
        if self.part == "queue-even":
            return [self.steps] * PICTURES
        return np.random.default_rng(0).permutation(np.repeat([*MIXED], [*MIXED.values()])).tolist()

    def write_pictures(self, who: str, count: int) -> list[Path]:
        """As many files as asked for, of twice the height and width that they are remade in."""
        folder = FOLDER / who / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i}.png" for i in range(count)]
        for i, path in enumerate(paths):
            images.save(np.roll(self.picture(), i, axis=0).repeat(2, axis=0).repeat(2, axis=1), path)
        return paths
