"""Runs of a manifest: from files to files, as `ssd1b batch` makes them."""

import json
import shutil
import time

import jax
import numpy as np

from ssd1b_jax import runs
from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.ours import Watch
from ssd1b_jax.bench.task import FOLDER, PICTURES, TOGETHER, Task
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.runs import origin
from ssd1b_jax.runs.folder import Folder

SIZES = (64, 64, 96)  # of the mixed part; the model's own comes most often
SAMPLERS = ("euler", "dpmpp_2m_karras", "heun", "euler_a")


def run(task: Task) -> Prepared:
    """All pictures of a task, in a folder that is new every time.

    The notes are medians: pictures a second, the manifest's check included, and the share of the time in which some
    device had work.
    """
    jax.config.update("jax_num_cpu_devices", task.devices)
    pipe = Pipeline.from_pretrained(task.model, devices=Devices(per_device=TOGETHER // task.devices))
    watch = Watch(pipe)
    manifest = runs.read(_write_manifest(task))
    defaults = runs.Defaults(config=pipe.config, request=dict(strength=task.strength, negative_prompt="a cat"))
    made_by = origin.describe(manifest, defaults, dict(name=task.model), {})
    out = FOLDER / "runs" / "out"
    times: list[tuple[float, float]] = []

    def once() -> None:
        shutil.rmtree(out, ignore_errors=True)
        watch.take()
        began = time.perf_counter()
        opened = runs.Run(manifest, defaults, Folder(out), made_by)
        opened.make(pipe)
        opened.close()
        times.append((time.perf_counter() - began, watch.take()))
        assert opened.tally.completed == PICTURES, opened.tally.summary()

    def notes() -> dict[str, float]:
        seconds, spent = np.transpose(times[1:])
        return dict(pictures_per_s=float(PICTURES / np.median(seconds)), busy_share=float(np.median(spent / seconds)))

    return Prepared(once, notes=notes)


def _write_manifest(task: Task):
    paths = task.write_pictures("runs", PICTURES)
    lines = []
    for index, (path, steps) in enumerate(zip(paths, task.all_steps(), strict=True)):
        line = dict(image=str(path), prompt="a red apple", seed=index, steps=task.steps, guidance_scale=5.0)
        size = task.size
        if task.part == "batch-mixed":
            size = task.size * SIZES[index % len(SIZES)] // SIZES[0]
            line |= dict(steps=steps, scheduler=SAMPLERS[index % len(SAMPLERS)])
        lines.append(line | dict(width=size, height=size))
    manifest = FOLDER / "runs" / f"{task.part}.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


PARTS = {"batch": run, "batch-mixed": run}
