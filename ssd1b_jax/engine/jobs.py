"""Requests to jobs: the first thing that happens to a request, before its picture is read.

A job says what it runs: the programs, by their shapes, and the model calls, by its table. So its work is known
exactly before anything runs.
"""

import dataclasses
import functools
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssd1b_jax import prompts, samplers
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine.pictures import KEPT, InputPicture, InputPictures
from ssd1b_jax.prompts import Chunks, notations, shorten
from ssd1b_jax.prompts.known import KnownWords
from ssd1b_jax.prompts.tokenizer import PromptTokenizer
from ssd1b_jax.request import PROMPTS, Request
from ssd1b_jax.settings import SETTINGS

LATE = 0.8  # of the trained timesteps; below, there is at most a third of the noise
MAX_NOTE = 120  # characters of one that quotes a prompt
STACK = 64  # calls with host-made noise at least, so that few programs serve all step counts


class Program(NamedTuple):
    """What of a job is compiled in: jobs that agree share every program."""

    width: int
    height: int
    guided: bool
    chunks: int
    noise_rows: int  # 0: the noise of calls is drawn on the device, if at all


class Group(NamedTuple):
    """Jobs that can share rows: one program, and one set of LoRAs."""

    program: Program
    loras: tuple[tuple[str, float], ...]


class Span(NamedTuple):
    """Model calls from `start`, before `stop`, that are all guided or all not."""

    guided: bool
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A resolved request, tokenized.

    `prompts` are the chunks of both encoders, of the negative prompt first where there is guidance. `spans` are its
    model calls in order. `work` is their cost: a guided call counts 2, at the model's own size. `picture` is there
    where it was read already.
    """

    request: Request
    table: samplers.Table
    group: Group
    spans: tuple[Span, ...]
    prompts: tuple[tuple[Chunks, Chunks], ...]
    notes: tuple[str, ...]
    area: float
    picture: InputPicture | None = None

    @property
    def calls(self) -> int:
        return self.table.calls

    @functools.cached_property
    def kinds(self) -> frozenset[bool]:
        """Whether it has guided calls, and whether others."""
        return frozenset(span.guided for span in self.spans)

    def span(self, call: int) -> Span:
        """The span that a call belongs to."""
        return next(span for span in self.spans if call < span.stop)

    @functools.cached_property
    def total(self) -> float:
        """The cost of all calls."""
        return self.work(0)

    def work(self, done: int) -> float:
        """The cost of the calls that are left after `done` of them."""
        calls = sum((1 + span.guided) * max(span.stop - max(span.start, done), 0) for span in self.spans)
        return calls * self.area


class Planner:
    """Makes jobs for one model. Usable from many threads. Words of prompts beyond `known_words` are noted.

    `loras` are the names of the LoRAs that prompts may name.
    """

    def __init__(
        self, config: ModelConfig, tokenizers: Sequence[PromptTokenizer], known_words: KnownWords | None = None
    ):
        self.config = config
        self.tokenizers = tokenizers
        self.known_words = known_words
        self.loras: Collection[str] = ()
        self._kept: dict[int, tuple[Request, Job]] = {}
        self._lock = threading.Lock()

    def keep(self, requests: Iterable[Request]) -> list[Job]:
        """Plan requests that will be asked for soon; `take` then gives the same job for the same object, once.

        The first few pictures are read too. Raises RequestError and ImageError.
        """
        jobs, pictures, different = [], InputPictures(self.config.vae.factor), set()
        for request in requests:
            job = self.plan(request)
            if len(different) < KEPT:
                job = dataclasses.replace(job, picture=pictures.get(job.request))
                different.add(id(job.picture))
            with self._lock:
                self._kept[id(request)] = request, job
            jobs.append(job)
        return jobs

    def take(self, request: Request) -> Job:
        """The job of a request that was kept, or else a new one. Raises RequestError."""
        with self._lock:
            _, job = self._kept.pop(id(request), (None, None))
        return job or self.plan(request)

    def plan(self, request: Request) -> Job:
        """Resolve and tokenize a request. Raises RequestError."""
        request = _with_tagged(request, self.loras)
        if not request.is_resolved(self.config):
            request = request.resolve(self.config)
        table, notes = request.table(self.config), [*request.notes]
        notes += _late_start(request, self.config)
        spans = _spans(request, table)
        guided = any(span.guided for span in spans)
        texts = [("prompt", request.prompt, request.prompt_2)]
        if guided:
            texts.insert(0, ("negative prompt", request.negative_prompt, request.negative_prompt_2))
        elif request.guided:
            notes.append("no step lies in the guidance interval, so nothing was guided")
        encoded = [self._encode(*text, request.prompt_weights, notes) for text in texts]
        chunks = max(len(chunked.ids) for both in encoded for chunked in both)
        stacked = request.noise != "jax" and table.draws.any()
        noise_rows = max(STACK, 1 << (table.calls - 1).bit_length()) if stacked else 0
        defaults = self.config.defaults
        return Job(
            request=request,
            table=table,
            group=Group(
                program=Program(request.width, request.height, guided, chunks, noise_rows),
                loras=tuple(used for used in request.loras.items() if used[1]),
            ),
            spans=spans,
            prompts=tuple(tuple(prompts.pad(chunked, chunks) for chunked in both) for both in encoded),
            notes=tuple(notes),
            area=request.width * request.height / (defaults.width * defaults.height),
        )

    def _encode(
        self, name: str, prompt: str | None, prompt_2: str | None, weighted: bool, notes: list[str]
    ) -> tuple[Chunks, Chunks]:
        texts = prompt or "", (prompt if prompt_2 is None else prompt_2) or ""
        notes += [shorten(note, MAX_NOTE) for text in dict.fromkeys(texts) for note in notations.notes(name, text)]
        if self.known_words:
            plain = " ".join(prompts.plain(notations.without_tags(text), weighted=weighted) for text in texts)
            unknown = (shorten(note, MAX_NOTE) for note in self.known_words.notes(plain))
            notes += [note for note in unknown if note not in notes]
        first, second = (
            prompts.encode(tokenizer, text, weighted=weighted)
            for tokenizer, text in zip(self.tokenizers, texts, strict=True)
        )
        dropped = max(first.dropped, second.dropped, key=len)
        if dropped:
            notes.append(shorten(f"the {name} is too long for the model, left out: {dropped!r}", MAX_NOTE))
        return first, second


def _with_tagged(request: Request, loras: Collection[str]) -> Request:
    """The request with the LoRAs that its prompts name in A1111's tags, and with prompts without these."""
    if not loras:
        return request
    texts, scales = {}, {}
    for name in PROMPTS:
        if isinstance(text := getattr(request, name), str):
            texts[name], tagged = notations.take_loras(text, loras)
            scales |= tagged
    return (
        dataclasses.replace(request, **texts, loras=SETTINGS["loras"].check(request.loras) | scales)
        if scales
        else request
    )


def _late_start(request: Request, config: ModelConfig) -> list[str]:
    """A note where the full run of so many steps begins far below the noise that the model was trained on."""
    total, steps = config.schedule.num_train_timesteps, request.num_inference_steps
    full = dataclasses.replace(request, strength=1.0, exact_steps=False).table(config)
    first = full.timesteps[0]
    is_shorter = request.exact_steps and request.strength < 1  # which runs other timesteps
    if is_shorter or first >= LATE * total:
        return []
    spaced = f"spaced {request.timestep_spacing}"
    words = f"1 step {spaced} begins" if steps == 1 else f"{steps} steps {spaced} begin"
    return [f"{words} at timestep {first:.0f} of {total}, far from all noise: timestep_spacing trailing begins there"]


def _spans(request: Request, table: samplers.Table) -> tuple[Span, ...]:
    """Before, in and after the guidance interval, without those that are empty.

    Steps are those of diffusers' guiders, but that 0.29 of 100 steps are 29.
    """
    begin = end = 0
    if request.guided:
        fractions = [round(fraction * table.steps_run, 9) for fraction in request.guidance_interval]
        begin, end = (int(call) for call in np.searchsorted(table.steps, [int(fraction) for fraction in fractions]))
    if begin == end:
        return (Span(False, 0, table.calls),)
    bounds = (0, begin, end, table.calls)
    spans = (Span(i == 1, bounds[i], bounds[i + 1]) for i in range(3))
    return tuple(span for span in spans if span.start < span.stop)
