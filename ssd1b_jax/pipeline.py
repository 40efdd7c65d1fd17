"""Requests to Results: the one way through, for a picture on a laptop and for a thousand on a pod."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssd1b_jax import images, noise, sampler, solvers
from ssd1b_jax.checkpoint import DTYPES, Model, load_model, read_manifest
from ssd1b_jax.devices import Devices, enable_compilation_cache
from ssd1b_jax.request import Request, RequestError, Result, repeat
from ssd1b_jax.stages import ORDER, Guidance, Inputs, KeyNoise, Prompt, StackedNoise, Stages, part_dtypes
from ssd1b_jax.tokenizer import PromptTokenizer

STACK = 64  # rows of host-made noise at least, so that few programs serve all step counts


class NonFiniteError(ArithmeticError):
    """A network gave NaN or infinity."""


@dataclass(frozen=True)
class Progress:
    """Model calls and pictures, done and in all, of one `generate`."""

    calls_done: int
    calls: int
    pictures_done: int
    pictures: int


class Program(NamedTuple):
    """What of a request is compiled in: requests that agree here can share a batch."""

    width: int
    height: int
    guided: bool
    noise_rows: int  # 0: rows' noise is drawn on the device, if at all


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A resolved request on its way to the devices."""

    index: int
    request: Request
    table: solvers.Table
    program: Program


class Pipeline:
    """A model on devices, ready to remake pictures.

    `per_device` pictures are made at a time on each device; other numbers than 1 change pixels
    by rounding. Compiled programs are kept in the user's cache folder; see `devices`.
    """

    def __init__(self, model: Model, *, devices: Sequence[jax.Device] | None = None, per_device: int = 1):
        self.config = model.config
        self.devices = Devices(devices, per_device)
        length = min(
            self.config.text_encoder.max_position_embeddings, self.config.text_encoder_2.max_position_embeddings
        )
        self._tokenizers = [
            PromptTokenizer.from_folder(model.folder / name, length=length) for name in ("tokenizer", "tokenizer_2")
        ]
        # What each part was loaded in is what it computes in.
        stages = Stages(self.config, {part: jax.tree.leaves(tree)[0].dtype for part, tree in model.params.items()})
        self.dtype = stages.dtypes["unet"]
        self._params = jax.device_put(model.params, self.devices.replicated)
        self._prepare = self.devices.map(stages.prepare, batches=2)
        self._advance = self.devices.map(stages.advance, batches=7, donate=(1,))
        self._decode = self.devices.map(stages.decode, batches=1)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        *,
        dtype: str | None = None,
        devices: Sequence[jax.Device] | None = None,
        per_device: int = 1,
    ) -> "Pipeline":
        """Load the embedded model "emoji", or a folder that `python -m convert` wrote.

        `dtype` is float32 on a CPU and bfloat16 elsewhere unless given. Raises ModelError for a
        folder that is missing, damaged or foreign.
        """
        enable_compilation_cache()
        if dtype is None:
            platform = (devices or jax.local_devices())[0].platform
            dtype = "float32" if platform == "cpu" else "bfloat16"
        if dtype not in DTYPES:
            raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        dtypes = part_dtypes(read_manifest(model).config, jnp.dtype(dtype))
        placed = load_model(model, dtype=dtypes, sharding=Devices(devices).replicated)
        return cls(placed, devices=devices, per_device=per_device)

    def __call__(
        self, *, num_images: int = 1, on_progress: Callable[[Progress], None] | None = None, **settings
    ) -> Result | list[Result]:
        """Make one picture from a Request's fields, or a list of `num_images` with successive seeds."""
        requests = repeat(Request(**settings).resolve(self.config), num_images)
        results = self.generate(requests, on_progress=on_progress)
        return results[0] if num_images == 1 else results

    def generate(
        self, requests: Iterable[Request], *, on_progress: Callable[[Progress], None] | None = None
    ) -> list[Result]:
        """Make every picture asked for, in any mixture of settings and sizes; results in order.

        `on_progress` is called after every model call of a batch, and after every batch. Every
        request is checked before anything runs: RequestError. A picture that can't be read is an
        ImageError, a network's output that is not finite a NonFiniteError.
        """
        results = dict(self.stream(requests, on_progress=on_progress))
        return [results[index] for index in range(len(results))]

    def stream(
        self, requests: Iterable[Request], *, on_progress: Callable[[Progress], None] | None = None
    ) -> Iterator[tuple[int, Result]]:
        """As `generate`, but each picture as soon as its batch is done, with its index among the requests."""
        jobs = [self._plan(index, request) for index, request in enumerate(requests)]
        batches = self._batches(jobs)
        calls = sum(max(job.table.calls for job in batch) for batch in batches)
        progress = Progress(0, calls, 0, len(jobs))

        def report(**done: int) -> None:
            nonlocal progress
            progress = dataclasses.replace(progress, **done)
            if on_progress:
                on_progress(progress)

        def advanced() -> None:
            report(calls_done=progress.calls_done + 1)

        for batch in batches:
            results = self._run(batch, advanced if on_progress else None)
            report(pictures_done=progress.pictures_done + len(batch))
            yield from results.items()

    def _plan(self, index: int, request: Request) -> _Job:
        request = request.resolve(self.config)
        table = solvers.build(
            request.scheduler, self.config.schedule, request.num_inference_steps, request.strength, request.exact_steps
        )
        stacked = request.noise != "jax" and _draws(table).any()
        rows = max(STACK, 1 << (table.calls - 1).bit_length()) if stacked else 0
        return _Job(
            index=index,
            request=request,
            table=table,
            program=Program(request.width, request.height, request.guided, rows),
        )

    def _batches(self, jobs: list[_Job]) -> list[list[_Job]]:
        """Jobs of one program, as many together as the devices take."""
        groups: dict[Program, list[_Job]] = {}
        for job in jobs:
            groups.setdefault(job.program, []).append(job)
        size = self.devices.batch_size
        return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]

    def _run(self, batch: list[_Job], advanced: Callable[[], None] | None) -> dict[int, Result]:
        began = time.perf_counter()
        loaded = [images.load(job.request.image) for job in batch]
        arrays, calls, notes = self._arrays(batch, loaded)
        inputs, rows, guidance, row_noise = self.devices.split(arrays)
        state, conditioning, encoded = self._prepare(self._of("text_encoder", "text_encoder_2", "vae"), inputs, rows)
        state = self._sample(state, (conditioning, guidance, rows, row_noise), calls, advanced)
        pixels, decoded = self._decode(self._of("vae"), state.latents)
        self._check(batch, encoded | decoded)
        pixels = self.devices.join(pixels)
        seconds = (time.perf_counter() - began) / len(batch)
        return {
            job.index: Result(
                pixels=pixels[i], request=job.request, steps_run=job.table.steps_run, seconds=seconds, notes=notes[i]
            )
            for i, job in enumerate(batch)
        }

    def _sample(self, state: sampler.State, fixed: tuple, calls: np.ndarray, advanced: Callable[[], None] | None):
        """The whole loop in one go, or call by call where someone wants to know."""
        last = calls.max()
        start, waiting = np.zeros_like(calls), None
        for stop in range(1, last + 1) if advanced else [last]:
            stop = np.minimum(calls, stop)
            state, token = self._advance(self._of("unet"), state, *fixed, start, stop)
            if waiting is not None:  # one behind, so that the devices never wait for the host
                jax.block_until_ready(waiting)
                advanced()
            start, waiting = stop, token
        if advanced:
            jax.block_until_ready(waiting)
            advanced()
        return state

    def _of(self, *parts: str) -> dict:
        return {part: self._params[part] for part in parts}

    def _arrays(self, batch: list[_Job], loaded: list[images.Loaded]):
        """The batch as arrays, each device's number of model calls, and the notes of each picture.

        The last picture is repeated where there are fewer than the devices take.
        """
        notes = [list(picture.notes) for picture in loaded]
        request = batch[0].request
        factor, channels = self.config.vae.factor, self.config.vae.latent_channels
        shape = (request.height // factor, request.width // factor, channels)
        columns = []
        for i, (job, picture) in enumerate(zip(batch, loaded, strict=True)):
            request = job.request
            source = noise.source(request.noise, request.seed)
            pixels = images.resize(picture.pixels, request.width, request.height, request.resize_mode)
            posterior, start = np.asarray(source.posterior(shape)), np.asarray(source.start(shape))
            prompt = self._tokenize(request.prompt, "prompt", notes[i])
            negative = self._tokenize(request.negative_prompt, "negative prompt", notes[i]) if request.guided else None
            if job.program.noise_rows:
                row_noise = StackedNoise(self._stack_noise(source, job, shape))
            else:
                row_noise = KeyNoise(noise.key_data(request.seed))
            inputs = Inputs(images.to_model(pixels), posterior, start, prompt, negative)
            guidance = Guidance(np.float32(request.guidance_scale), np.float32(request.guidance_rescale))
            columns.append((inputs, guidance, row_noise))
        missing = self.devices.batch_size - len(batch)
        inputs, guidance, row_noise = jax.tree.map(lambda *rows: np.stack(rows), *columns, *columns[-1:] * missing)
        rows = sampler.stack([job.table for job in batch] + [batch[-1].table] * missing)
        # A device without a picture of its own makes no model call.
        calls = np.array([job.table.calls for job in batch] + [0] * missing, np.int32)
        calls = calls.reshape(-1, self.devices.per_device).max(axis=1, keepdims=True)
        calls = np.broadcast_to(calls, (len(calls), self.devices.per_device))
        return (inputs, rows, guidance, row_noise), calls, [tuple(sentences) for sentences in notes]

    def _tokenize(self, prompt: str | None, name: str, notes: list[str]) -> Prompt:
        """`None` is an absent prompt: zeros where the model was trained so, else the empty prompt."""
        first, second = (tokenizer(prompt or "") for tokenizer in self._tokenizers)
        dropped = max(first.dropped, second.dropped, key=len)
        if dropped:
            notes.append(f"the {name} is too long for the model, this was left out: {dropped!r}")
        present = prompt is not None or not self.config.force_zeros_for_empty_prompt
        return Prompt(first.ids, second.ids, np.bool_(present))

    def _stack_noise(self, source: noise.Source, job: _Job, shape: noise.Shape) -> np.ndarray:
        stack = np.zeros((job.program.noise_rows, *shape), np.float32)
        for row in np.flatnonzero(_draws(job.table)):
            stack[row] = source.row(int(row), shape)
        return stack

    def _check(self, batch: list[_Job], finite: dict[str, jax.Array]) -> None:
        joined = self.devices.join(finite)
        for stage in ORDER:
            for job, good in zip(batch, joined[stage], strict=False):  # the padding doesn't count
                if not good:
                    raise NonFiniteError(
                        f"the {stage} gave values that are not finite for picture {job.index + 1} "
                        f"(seed {job.request.seed}, dtype {jnp.dtype(self.dtype).name}): "
                        "try dtype float32 or bfloat16, or a lower guidance_scale"
                    )


def _draws(table: solvers.Table) -> np.ndarray:
    """Which rows of a table use noise."""
    return (table.matrices @ solvers.NOISE != 0).any(axis=1)
