"""Requests to Results: the one way through, for a picture on a laptop and for a thousand on a pod."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack, overload

import jax

from ssd1b_jax import records
from ssd1b_jax.checkpoints import lora
from ssd1b_jax.checkpoints.model_folder import TOKENIZERS, Model, load_model, verify
from ssd1b_jax.checkpoints.model_json import Manifest, check_dtype
from ssd1b_jax.engine import programs, width
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.engine.callers import OnProgress, Outcome, Progress, Stream, failure
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.jobs import Job, Planner
from ssd1b_jax.engine.prefetch import in_background
from ssd1b_jax.engine.queue import Queue
from ssd1b_jax.engine.results import Results
from ssd1b_jax.engine.runner import Runner
from ssd1b_jax.engine.stages import part_dtypes
from ssd1b_jax.engine.ticket import Ticket
from ssd1b_jax.errors import Error, RequestError
from ssd1b_jax.prompts.known import KnownWords
from ssd1b_jax.prompts.tokenizer import PromptTokenizer
from ssd1b_jax.request import FAST, Request, check_names, repeat
from ssd1b_jax.request_list import as_requests
from ssd1b_jax.result import Result
from ssd1b_jax.settings.fields import RequestFields
from ssd1b_jax.settings.options import AUTO

__all__ = ["Pipeline", "Progress", "planner"]


class Pipeline:
    """A model on devices, ready to remake pictures. Usable from many threads.

    Each device takes `per_device` pictures at a time; other numbers than 1 change pixels by rounding. `devices` may be
    `Devices`, which know how many. All pictures go through one queue, in which they join and leave at any step.
    Compiled programs are kept in the user's cache folder; see `compile_cache`.
    """

    def __init__(
        self,
        model: Model,
        *,
        devices: Sequence[jax.Device] | Devices | None = None,
        per_device: int = 1,
        _planner: Planner | None = None,
    ):
        self.config = model.config
        self.devices = _devices(devices, per_device)
        self._planner = _planner or planner(model.manifest)
        # Each part computes in what it was loaded in.
        dtypes = {part: jax.tree.leaves(tree)[0].dtype for part, tree in model.params.items()}
        self.dtype = dtypes["unet"]
        self.manifest = manifest = model.manifest
        first = self.devices.devices[0]
        maker = records.maker(
            {name: getattr(manifest, name) for name in ("name", "source", "revision", "sha256")},
            dict(platform=first.platform, kind=first.device_kind),
            dtypes,
            self.devices.per_device,
            self.devices.pool_threads,
        )
        platform = self.devices.platform
        params = self.devices.replicate(model.prepacked(platform))
        self._adapters = Adapters(self.config, params, platform)
        if (few_steps := manifest.few_steps) is not None:
            self._adapters.offer(FAST, few_steps)
        self._planner.loras = self._adapters.files
        self.runner = Runner(programs.shared(self.config, dtypes, self.devices), self._adapters)
        results = Results(maker, self._adapters, self.dtype)
        self.queue = Queue(self.runner, results)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        *,
        dtype: str | None = None,
        devices: Sequence[jax.Device] | Devices | None = None,
        per_device: int | Literal["auto"] = 1,
        loras: Mapping[str, str | Path] = MappingProxyType({}),
        lora_partial: bool = False,
        requests: Iterable[Request] = (),
    ) -> "Pipeline":
        """Load the embedded model "emoji", or a folder that `ssd1b convert` wrote.

        `dtype` is float32 on a CPU and bfloat16 elsewhere unless given. `per_device` "auto" is the number that makes
        the most pictures in a second: it is measured the first time, and kept; see `engine.width`. `loras` are files
        by name, as for `load_lora`, which also explains `lora_partial`. The programs that `requests` run are compiled
        while the weights are read, so that the first picture is there sooner. Raises ModelError for a folder that is
        missing, damaged or foreign, and before weights are read what `load_lora` raises, and RequestError and
        ImageError as `generate` does.
        """
        enable_compilation_cache()
        is_open = per_device == AUTO
        placed = _devices(devices, 1 if is_open else per_device)
        if dtype is None:
            dtype = "float32" if placed.platform == "cpu" else "bfloat16"
        check_dtype(dtype, RequestError)
        manifest = verify(model)
        for path in loras.values():
            lora.read(path, manifest.config, partial=lora_partial)
        dtypes = part_dtypes(manifest.config, dtype)
        if is_open and (known := width.kept(manifest.config, dtypes, placed)):
            is_open, placed = False, Devices(placed.devices, known)
        plans = planner(manifest)
        plans.loras = loras.keys()
        compiled = programs.shared(manifest.config, dtypes, placed)
        jobs = plans.keep(requests)
        with in_background(_compile(compiled, () if is_open else jobs)):
            loaded = load_model(manifest, dtype=dtypes, sharding=placed.replicated, platform=placed.platform)
        if is_open:
            placed = Devices(placed.devices, width.measure(manifest.config, dtypes, placed, loaded.params))
        pipe = cls(loaded, devices=placed, _planner=plans)
        for name, path in loras.items():
            pipe.load_lora(path, name, partial=lora_partial)
        return pipe

    def load_lora(self, path: str | Path, name: str | None = None, *, partial: bool = False) -> str:
        """Load a LoRA (diffusers', PEFT's or kohya's safetensors) for requests to use by its name, which is returned.

        The name is the file's own unless given. Nothing changes until a request has it in `loras`; then
        it is merged into the weights, and no program is compiled again. A prompt may name it too, as
        `<lora:NAME:SCALE>`. With `partial` the layers are merged that the model has, and others left out. Raises
        WeightsError for a file that does not fit the model, RequestError for a name that another file has.
        """
        name = Path(path).stem if name is None else name
        self._adapters.add(name, path, partial)
        self._planner.loras = self._adapters.files
        return name

    @property
    def loras(self) -> Mapping[str, str]:
        """The file of each LoRA that requests may use, by its name."""
        return self._adapters.files

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

    @overload
    def generate(
        self,
        requests: Iterable[Request],
        *,
        on_progress: OnProgress | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Result]: ...

    @overload
    def generate(
        self, requests: Iterable[Request], *, on_progress: OnProgress | None = None, on_error: Literal["return"]
    ) -> list[Outcome]: ...

    def generate(
        self, requests: Iterable[Request], *, on_progress: OnProgress | None = None, on_error: str = "raise"
    ) -> list[Any]:
        """Make every picture asked for, in any mixture of settings and sizes; results in order.

        `on_progress` is called after every model call, and after every picture. A picture fails alone: one that
        can't be read with an ImageError, one of values that are not finite with a NonFiniteError. With `on_error`
        "return" the error stands in the result's place, else it is raised after the others are made. A RequestError
        of one of the first requests is raised before anything runs.
        """
        _check_choice(on_error, "raise", "return")
        passed_on = "yield" if on_error == "return" else "raise"
        results = dict(self.stream(requests, on_progress=on_progress, on_error=passed_on))
        return [results[index] for index in range(len(results))]

    @overload
    def stream(
        self,
        requests: Iterable[Request],
        *,
        on_progress: OnProgress | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> Iterator[tuple[int, Result]]: ...

    @overload
    def stream(
        self, requests: Iterable[Request], *, on_progress: OnProgress | None = None, on_error: Literal["yield"]
    ) -> Iterator[tuple[int, Outcome]]: ...

    def stream(
        self, requests: Iterable[Request], *, on_progress: OnProgress | None = None, on_error: str = "raise"
    ) -> Iterator[tuple[int, Any]]:
        """As `generate`, but each picture as soon as it is done, with its index among the requests.

        The requests may be any iterable, however long: a bounded number of them is taken at a time. Pictures are
        made while the caller is busy with one. With `on_error` "yield" errors are yielded as results are, else they
        are raised at the end. Closing the iterator cancels what is not done.
        """
        _check_choice(on_error, "raise", "yield")
        return self._stream(requests, on_progress, on_error == "raise")

    def _stream(self, requests, on_progress, raises: bool) -> Iterator[tuple[int, Outcome]]:
        failures: list[tuple[int, Error]] = []
        for index, outcome in Stream(self.queue, self._planner, as_requests(requests), on_progress).outcomes(raises):
            if raises and isinstance(outcome, Error):
                failures.append((index, outcome))
            else:
                yield index, outcome
        if failures:
            raise failure(failures)

    def remake(self, request: Request, *, row: int = 0, on_progress: OnProgress | None = None) -> Result:
        """Make one picture in a given row of a device's batch, which its record names where there are several."""
        [(_, result)] = Stream(self.queue, self._planner, as_requests([request]), on_progress, row).outcomes(True)
        if isinstance(result, Error):
            raise result
        return result

    def submit(
        self,
        request: Request,
        *,
        priority: Literal["interactive", "batch"] = "interactive",
        caller: object = None,
        deadline: float | int | None = None,
        limit: float | int | None = None,
    ) -> Ticket:
        """Ask for a picture, and return at once with its Ticket. May be called from any thread.

        Interactive pictures come before batch ones, and callers, told apart by any hashable object, take turns.
        `deadline` is in seconds from now: a picture that is not done by then fails with a DeadlineError. Raises
        RequestError, and `Full` where the picture can't be done by its deadline, or where the pictures in front of
        it would take longer than `limit` seconds.
        """
        job = self._planner.take(request)
        return self.queue.submit(job, priority=priority, caller=caller, deadline=deadline, limit=limit)

    @property
    def waiting(self) -> int:
        """Pictures that were asked for, and are not done."""
        return self.queue.waiting

    def close(self, drain: bool = False) -> None:
        """Take no more requests; finish those that were taken, or cancel them. Returns when no thread is left."""
        self.queue.close(drain)


def planner(manifest: Manifest) -> Planner:
    """Makes the jobs of a model folder."""
    config = manifest.config
    length = min(config.text_encoder.max_position_embeddings, config.text_encoder_2.max_position_embeddings)
    tokenizers = [PromptTokenizer.from_folder(manifest.folder / name, length=length) for name in TOKENIZERS]
    return Planner(config, tokenizers, KnownWords.read(manifest.folder, manifest.name))


def _compile(compiled: programs.Programs, jobs: Iterable[Job]) -> Iterator[str]:
    """Compile what the jobs run, a program at every step."""
    kinds: dict = {}
    for job in jobs:
        kinds.setdefault(job.group.program, set()).update(job.kinds)
    for program, guided in kinds.items():
        yield from compiled.compile(program, guided)


def _devices(devices: Sequence[jax.Device] | Devices | None, per_device: int) -> Devices:
    if not isinstance(devices, Devices):
        return Devices(devices, per_device)
    if per_device not in (1, devices.per_device):
        raise RequestError(f"per_device is {devices.per_device} by the Devices given, got {per_device} too")
    return devices


def _check_choice(value: str, *allowed: str) -> None:
    if value not in allowed:
        raise RequestError(f"on_error must be one of {', '.join(allowed)}, got {value!r}")
