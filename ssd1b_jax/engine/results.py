"""Pixels to Results: the masked part put back, the record written, and values checked to be finite."""

import jax.numpy as jnp
import numpy as np

from ssd1b_jax import records
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.engine.slots import Entry
from ssd1b_jax.engine.stages import ORDER
from ssd1b_jax.errors import NonFiniteError
from ssd1b_jax.images import masks
from ssd1b_jax.result import Result


class Results:
    """Makes the results of one pipeline; `maker` is the part of their records that they share."""

    def __init__(self, maker: records.Record, adapters: Adapters, dtype):
        self._maker = maker
        self._adapters = adapters
        self._dtype = jnp.dtype(dtype).name

    def result(self, entry: Entry, pixels: np.ndarray) -> Result:
        """The result of a picture that is decoded. Raises NonFiniteError."""
        self._check_finite(entry)
        job, picture = entry.job, entry.picture
        if picture.share is not None:
            pixels = masks.blend(picture.pixels, pixels, picture.share)
        loras, notes = {}, [*entry.notes]
        for name in job.request.loras:
            loras[name] = dict(name=self._adapters.files[name], sha256=self._adapters.sha256(name))
            missing, count = self._adapters.left_out(name)
            if missing:
                loras[name] |= dict(partial=True)
                notes.append(f"{missing} of the {count} layers of LoRA {name} are none of this model's: left out")
        maker = self._maker | (dict(row=entry.row) if self._maker["per_device"] > 1 else {})
        record = records.describe(job.request, picture.sources, maker, job.table.steps_run, loras)
        return Result(
            pixels=pixels,
            request=job.request,
            steps_run=job.table.steps_run,
            seconds=entry.seconds,
            record=records.with_pixels(record, pixels),
            notes=tuple(notes),
        )

    def _check_finite(self, entry: Entry) -> None:
        finite = {
            stage: bool(np.asarray(values)[device, row])
            for stages, device, row in entry.finite
            for stage, values in stages.items()
        }
        stage = next((stage for stage in ORDER if not finite[stage]), None)
        if stage is not None:
            number = "" if entry.index is None else f" {entry.index + 1}"
            raise NonFiniteError(
                f"the {stage} gave values that are not finite for picture{number} "
                f"(seed {entry.job.request.seed}, dtype {self._dtype}): "
                "try dtype float32 or bfloat16, or a lower guidance_scale"
            )
