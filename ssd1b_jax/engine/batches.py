"""Requests to batches: all that the host does before the devices start.

Requests that can share a compiled program are put together, as many as the devices take, and made
into arrays, each placed on its device.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from ssd1b_jax import images, prompts, samplers
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine import loop, noise
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.pictures import Picture, Pictures
from ssd1b_jax.engine.stages import Guidance, Inputs, KeyNoise, Prompt, StackedNoise
from ssd1b_jax.prompts import Chunks, shorten
from ssd1b_jax.prompts.tokenizer import PromptTokenizer
from ssd1b_jax.request import Request

MAX_NOTE = 120  # characters of one that quotes a prompt
STACK = 64  # rows of host-made noise at least, so that few programs serve all step counts


class Program(NamedTuple):
    """What of a request is compiled in, or is the same for a whole batch: requests that agree can share one."""

    width: int
    height: int
    guided: bool
    chunks: int
    noise_rows: int  # 0: rows' noise is drawn on the device, if at all
    loras: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A resolved request on its way to the devices; `prompts` has the positive one last.

    `guided_calls` are the model calls from which and before which guidance is on.
    """

    index: int
    request: Request
    table: samplers.Table
    program: Program
    guided_calls: tuple[int, int]
    prompts: tuple[tuple[Chunks, Chunks], ...]
    notes: tuple[str, ...]


class Phase(NamedTuple):
    """Model calls `start` to `stop` of each picture that run one after another with guidance, or without."""

    guided: bool
    start: Int[np.ndarray, "devices per_device"]
    stop: Int[np.ndarray, "devices per_device"]

    @property
    def calls(self) -> int:
        return int((self.stop - self.start).max())


class Column(NamedTuple):
    """One picture's part of a batch, on the host."""

    inputs: Inputs
    guidance: Guidance
    row_noise: KeyNoise | StackedNoise
    picture: Picture
    notes: tuple[str, ...]


class Batch(NamedTuple):
    """Pictures that are made together; the arrays are on their devices."""

    jobs: list[Job]
    inputs: Inputs
    rows: loop.Rows
    guidance: Guidance
    row_noise: KeyNoise | StackedNoise
    phases: list[Phase]
    columns: list[Column]


class Batcher:
    """Makes batches for one model and its devices."""

    def __init__(self, config: ModelConfig, tokenizers: Sequence[PromptTokenizer], devices: Devices):
        self.config = config
        self.tokenizers = tokenizers
        self.devices = devices

    def plan(self, index: int, request: Request) -> Job:
        """The request, resolved and tokenized. Raises RequestError."""
        request = request.resolve(self.config)
        table, notes = request.table(self.config), [*request.notes]
        texts = [("prompt", request.prompt, request.prompt_2)]
        begin, end = guided_calls = _guided_calls(request, table)
        if begin < end:
            texts.insert(0, ("negative prompt", request.negative_prompt, request.negative_prompt_2))
        elif request.guided:
            notes.append("no step lies in the guidance interval, so nothing was guided")
        encoded = [self._encode(*text, request.prompt_weights, notes) for text in texts]
        chunks = max(len(chunked.ids) for both in encoded for chunked in both)
        stacked = request.noise != "jax" and table.draws.any()
        rows = max(STACK, 1 << (table.calls - 1).bit_length()) if stacked else 0
        loras = tuple(used for used in request.loras.items() if used[1])
        return Job(
            index=index,
            request=request,
            table=table,
            program=Program(request.width, request.height, begin < end, chunks, rows, loras),
            guided_calls=guided_calls,
            prompts=tuple(tuple(prompts.pad(chunked, chunks) for chunked in both) for both in encoded),
            notes=tuple(notes),
        )

    def group(self, jobs: Iterable[Job]) -> list[list[Job]]:
        """Jobs of one program, as many together as the devices take."""
        groups: dict[Program, list[Job]] = {}
        for job in jobs:
            groups.setdefault(job.program, []).append(job)
        size = self.devices.batch_size
        return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]

    def batch(self, jobs: list[Job], pictures: Pictures) -> Batch:
        """Read the jobs' pictures, draw their noise, and place it all. Raises ImageError.

        The last picture is repeated where there are fewer than the devices take; no model call is
        made for the repeats.
        """
        columns = [self._column(job, pictures) for job in jobs]
        missing = self.devices.batch_size - len(jobs)
        inputs, guidance, row_noise = jax.tree.map(
            lambda *rows: np.stack(rows), *(column[:3] for column in columns + columns[-1:] * missing)
        )
        rows = loop.stack([job.table for job in jobs] + [jobs[-1].table] * missing)
        inputs, rows, guidance, row_noise = self.devices.split((inputs, rows, guidance, row_noise))
        return Batch(jobs, inputs, rows, guidance, row_noise, list(self.phases(jobs)), columns)

    def _encode(
        self, name: str, prompt: str | None, prompt_2: str | None, weighted: bool, notes: list[str]
    ) -> tuple[Chunks, Chunks]:
        texts = prompt or "", (prompt if prompt_2 is None else prompt_2) or ""
        first, second = (
            prompts.encode(tokenizer, text, weighted=weighted)
            for tokenizer, text in zip(self.tokenizers, texts, strict=True)
        )
        dropped = max(first.dropped, second.dropped, key=len)
        if dropped:
            notes.append(shorten(f"the {name} is too long for the model, left out: {dropped!r}", MAX_NOTE))
        return first, second

    def _column(self, job: Job, pictures: Pictures) -> Column:
        request, picture = job.request, pictures.get(job.request)
        notes = [*job.notes, *picture.notes]
        shape = (*picture.remade.shape[:2], self.config.vae.latent_channels)
        source = noise.source(request.noise, request.seed)
        posterior, start = np.asarray(source.posterior(shape)), np.asarray(source.start(shape))
        if request.variation_strength:
            other = noise.source(request.noise, request.variation_seed)
            other.posterior(shape)
            start = noise.slerp(start, other.start(shape), request.variation_strength)
        if job.program.noise_rows:
            row_noise = StackedNoise(_stack_noise(source, job, shape))
        else:
            row_noise = KeyNoise(noise.key_data(request.seed))
        *negative, prompt = [self._prompt(job, i) for i in range(len(job.prompts))]
        inputs = Inputs(
            images.to_model(picture.pixels),
            picture.remade,
            posterior,
            start,
            np.int32(request.clip_skip),
            prompt,
            negative[0] if negative else None,
        )
        guidance = Guidance(np.float32(request.guidance_scale), np.float32(request.guidance_rescale))
        return Column(inputs, guidance, row_noise, picture, tuple(notes))

    def _prompt(self, job: Job, side: int) -> Prompt:
        first, second = job.prompts[side]
        request, prefix = job.request, "" if side == len(job.prompts) - 1 else "negative_"
        names = ("original_size", "crops_coords_top_left", "target_size")
        sizes = np.array([getattr(request, prefix + name) for name in names], np.float32).ravel()
        texts = getattr(request, f"{prefix}prompt"), getattr(request, f"{prefix}prompt_2")
        # An absent prompt is zeros where the model was trained so, else the empty one.
        present = any(text is not None for text in texts) or not self.config.force_zeros_for_empty_prompt
        return Prompt(first.ids, first.weights, second.ids, second.weights, np.bool_(present), sizes)

    def phases(self, jobs: list[Job]) -> Iterator[Phase]:
        missing = [0] * (self.devices.batch_size - len(jobs))
        begins, ends = zip(*(job.guided_calls for job in jobs), strict=True)
        bounds = [0] * len(jobs), begins, ends, [job.table.calls for job in jobs]
        padded = [np.array([*bound, *missing], np.int32).reshape(-1, self.devices.per_device) for bound in bounds]
        for i, guided in enumerate((False, True, False)):
            phase = Phase(guided, padded[i], padded[i + 1])
            if phase.calls:
                yield phase


def _guided_calls(request: Request, table: samplers.Table) -> tuple[int, int]:
    """Those of the steps in its interval; as diffusers' guiders, but that 0.29 of 100 steps are 29."""
    if not request.guided:
        return 0, 0
    bounds = [int(round(fraction * table.steps_run, 9)) for fraction in request.guidance_interval]  # what floats add
    begin, end = np.searchsorted(table.steps, bounds)
    return int(begin), int(end)


def _stack_noise(source: noise.Source, job: Job, shape: noise.Shape) -> np.ndarray:
    stack = np.zeros((job.program.noise_rows, *shape), np.float32)
    for row in np.flatnonzero(job.table.draws):
        stack[row] = source.row(int(row), shape)
    return stack
