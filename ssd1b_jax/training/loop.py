"""The training loop: Muon, an average of the weights, checkpoints, and a log to draw curves from.

A run is a folder: `checkpoints/STEP`, and `log.jsonl` with a line for every report. Killed at any
moment, the same command goes on from the last checkpoint; batches depend on the step alone, so a
run that was stopped gives the weights that it would have given.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssd1b_jax.checkpoints import orbax
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast. The learning rate warms up, stays, and falls linearly in the last `cooldown` of steps.

    A checkpoint is written every `checkpoint_every` steps, and at least every `checkpoint_seconds`.
    """

    steps: int
    batch_size: int
    learning_rate: float
    adam_learning_rate: float
    warmup: int = 100
    cooldown: float = 0.3
    ema_decay: float = 0.999
    seed: int = 0
    checkpoint_every: int = 200
    checkpoint_seconds: float = 300.0
    report_every: int = 20


def optimizer(learning_rate, adam_learning_rate) -> optax.GradientTransformation:
    """Muon (Jordan 2024; RMS-matched as in 2502.16982) for matrices and convolutions, Adam for the rest.

    Tables of embeddings and the first and last layers are the rest, as its author advises.
    """

    def dimension_numbers(params):
        def choose(path, leaf):
            names = [getattr(part, "key", None) for part in path]
            outer = {"conv_in", "conv_out", "embedding"} & set(names)
            if outer or names[-1] != "kernel":
                return None
            axes = tuple(range(leaf.ndim - 1))
            return optax.contrib.MuonDimensionNumbers(reduction_axis=axes, output_axis=leaf.ndim - 1)

        return jax.tree_util.tree_map_with_path(choose, params)

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            learning_rate,
            adam_learning_rate=adam_learning_rate,
            adam_b2=0.99,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=dimension_numbers,
        ),
    )


def schedule(recipe: Recipe) -> Callable:
    def factor(step):
        falling = (recipe.steps - step) / max(recipe.cooldown * recipe.steps, 1)
        return jnp.clip(jnp.minimum((step + 1) / recipe.warmup, falling), 0.0, 1.0)

    return factor


def train(
    folder: Path,
    recipe: Recipe,
    params,
    loss: Callable,
    batch: Callable[[np.random.Generator], dict],
    on_report: Callable[[dict], None] = print,
):
    """Minimize `loss(params, key, **batch) -> (scalar, metrics)` and return the averaged weights.

    Batches are spread over the local devices, whose number must divide their size.
    """
    devices = Devices()
    factor = schedule(recipe)
    tx = optimizer(
        lambda step: recipe.learning_rate * factor(step), lambda step: recipe.adam_learning_rate * factor(step)
    )

    def initial():
        return dict(params=params, ema=params, optimizer=tx.init(params), step=jnp.zeros((), jnp.int32))

    @jax.jit(donate_argnums=0)
    def update(state, inputs):
        key = jax.random.fold_in(jax.random.key(recipe.seed), state["step"])
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state["params"], key, **inputs)
        updates, opt_state = tx.update(grads, state["optimizer"], state["params"])
        new = optax.apply_updates(state["params"], updates)
        decay = jnp.minimum(recipe.ema_decay, (1 + state["step"]) / (10 + state["step"]))
        ema = optax.incremental_update(new, state["ema"], 1 - decay)
        return dict(params=new, ema=ema, optimizer=opt_state, step=state["step"] + 1), dict(loss=value, **metrics)

    # The initial weights also live on in the caller: donate copies, never those.
    state = jax.device_put(jax.tree.map(jnp.array, _resume(folder, initial)), devices.replicated)
    start = int(state["step"])
    folder.mkdir(parents=True, exist_ok=True)
    _forget_reports(folder / "log.jsonl", start)
    with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
        began, sums = time.monotonic(), []
        kept = began
        for step in range(start, recipe.steps):
            inputs = jax.device_put(batch(np.random.default_rng((recipe.seed, step))), devices.sharded)
            state, metrics = update(state, inputs)
            sums.append(metrics)
            done = step + 1
            if done % recipe.report_every == 0 or done == recipe.steps:
                means = {name: float(np.mean([m[name] for m in sums])) for name in metrics}
                if not np.isfinite(means["loss"]):
                    raise TrainingError(f"the loss is not finite at step {done}: lower the learning rate")
                elapsed = time.monotonic() - began
                rate = recipe.batch_size * len(sums) / elapsed
                report = dict(step=done, pictures=done * recipe.batch_size, per_second=round(rate, 1), **means)
                log.write(json.dumps(report | {"seconds": round(elapsed, 2)}) + "\n")
                log.flush()
                on_report(report)
                began, sums = time.monotonic(), []
            late = time.monotonic() - kept > recipe.checkpoint_seconds
            if done % recipe.checkpoint_every == 0 or done == recipe.steps or late:
                _keep(folder, done, state)
                kept = time.monotonic()
    return state["ema"]


def _checkpoints(folder: Path) -> list[Path]:
    folders = (folder / "checkpoints").glob("*")
    return sorted((path for path in folders if path.name.isdigit()), key=lambda path: int(path.name))


def _resume(folder: Path, initial: Callable):
    saved = _checkpoints(folder)
    if not saved:
        return initial()
    return orbax.load(saved[-1], jax.eval_shape(initial))


def _forget_reports(log: Path, step: int) -> None:
    """Drop the lines of a log after `step`: a run that goes on from there will write them again."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def _keep(folder: Path, step: int, state) -> None:
    """Save, then forget all but the last two checkpoints."""
    path = folder / "checkpoints" / str(step)
    if not path.exists():
        orbax.save(path, state)
    for old in _checkpoints(folder)[:-2]:
        shutil.rmtree(old)


def averaged(folder: Path, params):
    """The averaged weights of a run's last checkpoint; `params` gives their shapes."""
    saved = _checkpoints(folder)
    if not saved:
        raise FileNotFoundError(f"{folder} has no checkpoint: train first")
    return orbax.load_part(saved[-1], "ema", params)
