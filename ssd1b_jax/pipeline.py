"""Requests to Results: the one way through, for a picture on a laptop and for a thousand on a pod."""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from ssd1b_jax import records
from ssd1b_jax.checkpoints.model_folder import TOKENIZERS, Model, abstract_params, check_dtype, load_model, verify
from ssd1b_jax.config import VAEConfig
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.engine.batches import Batch, Batcher, Job, Phase
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.loop import Known, State
from ssd1b_jax.engine.pictures import Pictures
from ssd1b_jax.engine.prefetch import ahead, beside
from ssd1b_jax.engine.stages import ORDER, Sides, Stages, part_dtypes
from ssd1b_jax.errors import NonFiniteError, RequestError
from ssd1b_jax.images import masks, previews
from ssd1b_jax.prompts.tokenizer import PromptTokenizer
from ssd1b_jax.request import Request, check_names, listed, repeat
from ssd1b_jax.result import Result
from ssd1b_jax.settings.fields import RequestFields

OnProgress = Callable[["Progress"], None]
EVENTS_AHEAD = 64  # of the devices, while the caller keeps pictures: about as many results at most


@dataclass(frozen=True)
class Progress:
    """Model calls and pictures, done and in all, of one `generate`."""

    calls_done: int
    calls: int
    pictures_done: int
    pictures: int
    _running: "_Running | None" = field(default=None, repr=False, compare=False)

    @property
    def previews(self) -> dict[int, np.ndarray]:
        """What the pictures being made are expected to become, by their index: uint8, one pixel a latent.

        Empty between batches, and for an autoencoder that `previews` has no map of. Costs nothing
        unless asked for.
        """
        return self._running.previews() if self._running else {}


@dataclass(frozen=True)
class _Running:
    """The predicted clean latents of a batch."""

    jobs: list[Job]
    clean: jax.Array
    vae: VAEConfig

    def previews(self) -> dict[int, np.ndarray]:
        latents = np.asarray(self.clean)
        pixels = previews.preview(self.vae, latents.reshape(-1, *latents.shape[2:]))
        return {} if pixels is None else {job.index: pixels[i] for i, job in enumerate(self.jobs)}


class Pipeline:
    """A model on devices, ready to remake pictures.

    `per_device` pictures are made at a time on each device; other numbers than 1 change pixels
    by rounding; `devices` may be `Devices`, which know how many. Compiled programs are kept in the
    user's cache folder; see `devices`.
    """

    def __init__(
        self,
        model: Model,
        *,
        devices: Sequence[jax.Device] | Devices | None = None,
        per_device: int = 1,
    ):
        self.config = model.config
        self.devices = _devices(devices, per_device)
        length = min(
            self.config.text_encoder.max_position_embeddings, self.config.text_encoder_2.max_position_embeddings
        )
        tokenizers = [PromptTokenizer.from_folder(model.folder / name, length=length) for name in TOKENIZERS]
        self._batcher = Batcher(self.config, tokenizers, self.devices)
        # What each part was loaded in is what it computes in.
        dtypes = {part: jax.tree.leaves(tree)[0].dtype for part, tree in model.params.items()}
        platform = self.devices.platform
        stages = Stages(self.config, dtypes, platform)
        self.dtype = stages.dtypes["unet"]
        manifest, first = model.manifest, self.devices.devices[0]
        self._maker = records.maker(
            {name: getattr(manifest, name) for name in ("name", "source", "revision", "sha256")},
            dict(platform=first.platform, kind=first.device_kind),
            stages.dtypes,
            self.devices.per_device,
            self.devices.pool_threads,
        )
        self._adapters = Adapters(self.config, self._placed(model), platform)
        self._lora_files: dict[str, str] = {}
        self._prepare = self.devices.map(stages.prepare, batches=2)
        self._advance = self.devices.map(stages.advance, batches=8, donate=(1,))
        self._decode = self.devices.map(stages.decode, batches=1)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        *,
        dtype: str | None = None,
        devices: Sequence[jax.Device] | Devices | None = None,
        per_device: int = 1,
        loras: Mapping[str, str | Path] = MappingProxyType({}),
        requests: Iterable[Request] = (),
    ) -> "Pipeline":
        """Load the embedded model "emoji", or a folder that `ssd1b convert` wrote.

        `dtype` is float32 on a CPU and bfloat16 elsewhere unless given. `loras` are files by name, as for
        `load_lora`. What `requests` will run is compiled while the weights are read, so that the first
        picture is there sooner. Raises ModelError for a folder that is missing, damaged or foreign, and
        before weights are read what `load_lora` raises, and RequestError as `generate` does; of the
        requests' pictures not all are looked at.
        """
        enable_compilation_cache()
        placed = _devices(devices, per_device)
        if dtype is None:
            dtype = "float32" if placed.platform == "cpu" else "bfloat16"
        check_dtype(dtype, RequestError)
        manifest = verify(model)
        dtypes = part_dtypes(manifest.config, dtype)
        pipe = cls(Model(manifest=manifest, params=abstract_params(manifest.config, dtypes)), devices=placed)
        for name, path in loras.items():
            pipe.load_lora(path, name)
        with beside(pipe._compile(pipe._plan(requests))):
            loaded = load_model(manifest, dtype=dtypes, sharding=placed.replicated, platform=placed.platform)
        pipe._adapters.load(pipe._placed(loaded))
        return pipe

    def load_lora(self, path: str | Path, name: str | None = None) -> str:
        """Load a LoRA (diffusers', PEFT's or kohya's safetensors) for requests to use by its name, which is returned.

        The name is the file's own unless given. Nothing changes until a request has it in `loras`; then
        it is merged into the weights, and no program is compiled again. Raises WeightsError for a file
        that does not fit the model, RequestError for a name that another file has.
        """
        name = Path(path).stem if name is None else name
        self._adapters.add(name, path)
        self._lora_files[name] = str(path)
        return name

    @overload
    def __call__(
        self, *, num_images: Literal[1] = 1, on_progress: OnProgress | None = None, **fields: Unpack[RequestFields]
    ) -> Result: ...

    @overload
    def __call__(
        self, *, num_images: int, on_progress: OnProgress | None = None, **fields: Unpack[RequestFields]
    ) -> list[Result]: ...

    def __call__(self, *, num_images: int = 1, on_progress: OnProgress | None = None, **fields: Any):
        """Make one picture from a Request's fields, or a list of `num_images` with successive seeds."""
        check_names(fields, "num_images", "on_progress")
        requests = repeat(Request(**fields).resolve(self.config), num_images)
        results = self.generate(requests, on_progress=on_progress)
        return results[0] if num_images == 1 else results

    def generate(self, requests: Iterable[Request], *, on_progress: OnProgress | None = None) -> list[Result]:
        """Make every picture asked for, in any mixture of settings and sizes; results in order.

        `on_progress` is called after every model call of a batch, and after every batch. Every
        request is checked before anything runs: RequestError. A picture that can't be read is an
        ImageError, a network's output that is not finite a NonFiniteError.
        """
        results = dict(self.stream(requests, on_progress=on_progress))
        return [results[index] for index in range(len(results))]

    def stream(
        self, requests: Iterable[Request], *, on_progress: OnProgress | None = None
    ) -> Iterator[tuple[int, Result]]:
        """As `generate`, but each picture as soon as its batch is done, with its index among the requests.

        The next batches are prepared and run while the caller is busy with a picture. Where values
        are not finite the other pictures are made nevertheless, and the NonFiniteError comes last.
        """
        jobs = self._plan(requests)
        for job in jobs:
            self._adapters.check(job.request.loras)
        failures: list[str] = []
        for event in ahead(self._events(jobs, on_progress is not None, failures), EVENTS_AHEAD):
            if not isinstance(event, Progress):
                yield event
            elif on_progress:
                on_progress(event)
        if failures:
            raise NonFiniteError("; ".join(failures) + ": try dtype float32 or bfloat16, or a lower guidance_scale")

    def _placed(self, model: Model) -> dict[str, dict]:
        return self.devices.replicate(model.prepacked(self.devices.platform))

    def _plan(self, requests: Iterable[Request]) -> list[Job]:
        return [self._batcher.plan(index, request) for index, request in enumerate(listed(requests))]

    def _compile(self, jobs: list[Job]) -> Iterator[None]:
        """Compile what they run, a program at every step; of the weights, shapes are enough."""
        params, pictures = self._adapters.params({}), Pictures(self.config.vae.factor)
        distinct = {}
        for job in jobs:
            guided = (phase.guided for phase in self._batcher.phases([job]))
            distinct[job.program._replace(loras=()), *guided] = job
        for job in distinct.values():
            batch = self._batcher.batch([job], pictures)
            prepared = self._prepare.lower(params, batch.inputs, batch.rows)
            prepared.compile()
            yield
            state, sides, known, _ = prepared.out_info
            for phase in batch.phases:
                self._advance.lower(*_advancing(params, state, sides, known, batch, phase)).compile()
                yield
            self._decode.lower(dict(vae=params["vae"]), state.latents).compile()
            yield

    def _events(self, jobs: list[Job], watched: bool, failures: list[str]) -> Iterator[Progress | tuple[int, Result]]:
        """Results as they come, and Progress: after every model call where that is `watched`."""
        groups = self._batcher.group(jobs)
        calls = sum(phase.calls for group in groups for phase in self._batcher.phases(group))
        progress = Progress(0, calls, 0, len(jobs))
        pictures = Pictures(self.config.vae.factor)
        for batch in ahead((self._batcher.batch(group, pictures) for group in groups), 1):
            began = time.perf_counter()
            pixels, finite, progress = yield from self._make(batch, watched, progress)
            seconds = (time.perf_counter() - began) / len(batch.jobs)
            done = progress.pictures_done + len(batch.jobs)
            yield (progress := dataclasses.replace(progress, pictures_done=done, _running=None))
            for i, job in enumerate(batch.jobs):
                failed = next((stage for stage in ORDER if not finite[stage][i]), None)
                if failed:
                    failures.append(self._failure(failed, job))
                else:
                    yield job.index, self._result(batch, i, pixels[i], seconds)

    def _make(
        self, batch: Batch, watched: bool, progress: Progress
    ) -> Generator[Progress, None, tuple[np.ndarray, dict[str, np.ndarray], Progress]]:
        """A batch's pixels, and what of each picture is finite; yields Progress, and returns the last."""
        params = self._adapters.params(batch.jobs[0].request.loras)
        state, sides, known, encoded = self._prepare(params, batch.inputs, batch.rows)
        waiting = None
        for phase in _slices(batch.phases, watched):
            state, clean = self._advance(*_advancing(params, state, sides, known, batch, phase))
            if waiting is not None:  # one behind, so that the devices never wait for the host
                yield (progress := _called(progress, waiting))
            waiting = _Running(batch.jobs, clean, self.config.vae) if watched else None
        if waiting is not None:
            yield (progress := _called(progress, waiting))
        pixels, decoded = self._decode(dict(vae=params["vae"]), state.latents)
        finite, pixels = self.devices.join((encoded | decoded, pixels))
        return pixels, finite, progress

    def _result(self, batch: Batch, i: int, pixels: np.ndarray, seconds: float) -> Result:
        job, column = batch.jobs[i], batch.columns[i]
        if column.picture.share is not None:
            pixels = masks.blend(column.picture.pixels, pixels, column.picture.share)
        loras = {
            name: dict(name=self._lora_files[name], sha256=self._adapters.sha256(name)) for name in job.request.loras
        }
        record = records.describe(job.request, column.picture.sources, self._maker, job.table.steps_run, loras)
        return Result(
            pixels=pixels,
            request=job.request,
            steps_run=job.table.steps_run,
            seconds=seconds,
            record=records.with_pixels(record, pixels),
            notes=column.notes,
        )

    def _failure(self, stage: str, job: Job) -> str:
        return (
            f"the {stage} gave values that are not finite for picture {job.index + 1} "
            f"(seed {job.request.seed}, dtype {jnp.dtype(self.dtype).name})"
        )


def _devices(devices: Sequence[jax.Device] | Devices | None, per_device: int) -> Devices:
    if not isinstance(devices, Devices):
        return Devices(devices, per_device)
    if per_device not in (1, devices.per_device):
        raise RequestError(f"per_device is {devices.per_device} by the Devices given, got {per_device} too")
    return devices


def _advancing(params: dict, state: State, sides: Sides, known: Known, batch: Batch, phase: Phase) -> tuple:
    """The arguments of `Stages.advance`."""
    sides = sides if phase.guided else sides[-1:]
    fixed = batch.guidance, batch.rows, known, batch.row_noise
    return dict(unet=params["unet"]), state, sides, *fixed, phase.start, phase.stop


def _called(progress: Progress, running: _Running) -> Progress:
    """Progress after one more model call, which is waited for."""
    jax.block_until_ready(running.clean)
    return dataclasses.replace(progress, calls_done=progress.calls_done + 1, _running=running)


def _slices(phases: list[Phase], watched: bool) -> Iterator[Phase]:
    """The phases themselves, or, where someone watches, one model call at a time."""
    for phase in phases:
        if not watched:
            yield phase
            continue
        for done in range(phase.calls):
            start, stop = (np.minimum(phase.start + i, phase.stop) for i in (done, done + 1))
            yield Phase(phase.guided, start, stop)
