"""LoRAs at work: merged into the model's weights, so that the models know nothing of them and run no slower.

Other scales are another merge, always with the model's own weights, and never another program.
"""

import dataclasses
import functools
import operator
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssd1b_jax.checkpoints.lora import LoRA, read
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine.packing import Arrays
from ssd1b_jax.engine.parameters import USED, Parameters
from ssd1b_jax.errors import RequestError
from ssd1b_jax.kernels import Winograd
from ssd1b_jax.models import ParamPath, algorithms
from ssd1b_jax.request import FAST

Loras = tuple[tuple[str, float], ...]  # names and scales, as in `Group`
Term = tuple[Array, Array, np.float32]  # down, up, and what their product counts


class Adapters:
    """The LoRAs loaded beside a model, by name, and the model's parameters with any of them merged in.

    `params` are by part, placed by `jax.device_put` (jit compiles again for arrays that are tied to no
    device), and prepacked for `platform` (see `models.prepack`). The last merge is kept: it takes the memory
    of the kernels it changed.
    """

    def __init__(self, config: ModelConfig, params: dict, platform: str | None = None):
        self._config = config
        self._params = params
        self._algorithms = {
            (part, *path): algorithm
            for part, tree in params.items()
            for path, algorithm in algorithms(part, config, jax.tree.leaves(tree)[0].dtype, platform).items()
        }
        self._loras: dict[str, LoRA] = {}
        self._files: dict[str, str] = {}
        self._offered: dict[str, Path] = {}
        self._last: tuple[dict[str, float], dict] | None = None
        self._compiled: set[frozenset[str]] = set()  # names of LoRAs whose merge is
        self._used: dict[tuple[str, str], tuple[Parameters, Arrays]] = {}  # by stage and part, with the packs
        self._arguments: dict[tuple[Loras, str], dict[str, Arrays]] = {}  # of the model and of the last merge
        self._lock = threading.Lock()

    def load(self, params: dict) -> None:
        """Take the parameters whose shapes it was made with."""
        self._params = params
        self._used, self._arguments = {}, {}

    @property
    def files(self) -> Mapping[str, str]:
        """The file of each LoRA that requests may use, by its name."""
        return MappingProxyType({name: str(path) for name, path in self._offered.items()} | self._files)

    def offer(self, name: str, path: Path) -> None:
        """A file to load under a name when it is first asked for, unless another has the name by then."""
        self._offered[name] = path

    def sha256(self, name: str) -> str:
        """Of the file that the LoRA was read from. RequestError for an unknown name."""
        if name not in self._loras and name in self._offered:
            self.add(name, self._offered[name])
        if name not in self._loras:
            loaded = ", ".join(self._loras) or "none"
            if name == FAST:
                raise RequestError(f"fast needs a few-step LoRA for this model: load one by the name {FAST!r} first")
            raise RequestError(f"no LoRA named {name!r} is loaded: load it first (loaded: {loaded})")
        return self._loras[name].sha256

    def add(self, name: str, path: str | Path, partial: bool = False) -> None:
        """Load a LoRA under a name. WeightsError for a file that does not fit, RequestError for a name in use."""
        lora = read(path, self._config, partial=partial)
        if name not in self._loras:
            self._loras[name] = place(lora, self._params)
            self._files[name] = str(path)
        elif self._loras[name].sha256 != lora.sha256:
            raise RequestError(f"a LoRA named {name!r} is loaded already, from another file: choose another name")

    def left_out(self, name: str) -> tuple[int, int]:
        """The layers of a LoRA that the model lacks, and all of its layers."""
        lora = self._loras[name]
        return lora.left_out, lora.left_out + lora.layers

    def check(self, scales: Mapping[str, Any]) -> dict[str, float]:
        """The scales as floats in the order of merging, which is that of the files' sha256; scales of 0 are left out.

        Equal scales give equal parameters: neither names nor the order of loading change a bit. Raises RequestError
        for an unknown name.
        """
        order = {name: self.sha256(name) for name in scales}
        checked = {name: float(scale) for name, scale in scales.items() if scale}
        return dict(sorted(checked.items(), key=lambda item: (order[item[0]], item[1])))

    def params(self, scales: Mapping[str, Any]) -> dict:
        """The model's parameters with LoRAs merged in at these scales; themselves where all are 0."""
        scales = self.check(scales)
        if not scales:
            return self._params
        with self._lock:
            if self._last is not None and self._last[0] == scales:
                return self._last[1]
            self._last, self._arguments = None, {}  # frees its memory for the next
            params = merge(self._params, *self._chosen(scales), self._algorithms)
            self._last = scales, params
            return params

    def is_compiled(self, names: Collection[str]) -> bool:
        """Whether all that merging these LoRAs runs is compiled."""
        return not names or frozenset(names) in self._compiled

    def compile(self, names: Collection[str]) -> Iterator[ParamPath]:
        """Compile what merging these LoRAs runs, at any scales, by merging one kernel of each kind; nothing is kept.

        Yields the path of each such kernel after it.
        """
        terms = _terms(*self._chosen(dict.fromkeys(names, 1.0)))
        different = {}
        for path, factors in terms.items():
            kernel = functools.reduce(operator.getitem, path, self._params)
            arrays = jax.tree.leaves((kernel, [(down, up) for down, up, _ in factors]))
            shapes = tuple((array.shape, array.dtype) for array in arrays)
            different.setdefault((shapes, self._algorithms.get(path)), (path, kernel))
        for path, kernel in different.values():
            jax.block_until_ready(_merged(kernel, terms[path], self._algorithms.get(path)))
            yield path
        self._compiled.add(frozenset(names))

    def _chosen(self, scales: Mapping[str, float]) -> tuple[list[LoRA], list[float]]:
        """LoRAs and their scales, in the order of merging."""
        scales = self.check(scales)
        return [self._loras[name] for name in scales], [*scales.values()]

    def arguments(self, loras: Loras, stage: str) -> dict[str, Arrays]:
        """The same as a compiled stage takes them: what it uses, packed, by part (see `Parameters`)."""
        key = loras, stage
        arguments = self._arguments.get(key)
        if arguments is None:
            params = self.params(dict(loras))
            arguments = {part: self._packed(stage, part, params[part]) for part in USED[stage]}
            self._arguments[key] = arguments
        return arguments

    def _packed(self, stage: str, part: str, tree: dict) -> Arrays:
        key = stage, part
        if key not in self._used:
            parameters = Parameters(stage, part, tree)
            self._used[key] = parameters, parameters.packs(tree)
        parameters, packs = self._used[key]
        return *packs, *parameters.others(tree)


def place(lora: LoRA, params: dict) -> LoRA:
    """The LoRA with its factors where the model's weights are, in the dtypes of its file."""
    factors = {}
    for part, of_part in lora.factors.items():
        sharding = jax.tree.leaves(params[part])[0].sharding
        factors[part] = {
            path: factor._replace(down=jax.device_put(factor.down, sharding), up=jax.device_put(factor.up, sharding))
            for path, factor in of_part.items()
        }
    return dataclasses.replace(lora, factors=factors)


def merge(
    params: dict,
    loras: Sequence[LoRA],
    scales: Sequence[float],
    algorithms: Mapping[tuple[str | int, ...], Winograd] = MappingProxyType({}),
) -> dict:
    """Each kernel plus the sum over LoRAs of `scale * (alpha / rank) * (down @ up)`, in float32, rounded once.

    `algorithms` are Winograd transforms of kernels; they are linear, so the transform of the sum is added to the
    transformed kernel. Kernels without a LoRA are the same arrays; merged ones stay on their devices. Programs are
    small, one for each shape of kernel and rank, and shared by all LoRAs and scales: the same LoRAs at the same
    scales give the same bits, whatever else is loaded.
    """
    terms = _terms(loras, scales)

    def merged(node, path: ParamPath):
        if path in terms:
            return _merged(node, terms[path], algorithms.get(path))
        return {key: merged(value, (*path, key)) for key, value in node.items()} if isinstance(node, dict) else node

    return merged(params, ())


def _terms(loras: Sequence[LoRA], scales: Sequence[float]) -> dict[ParamPath, list[Term]]:
    """What is added to each kernel, by its path."""
    terms: dict[ParamPath, list[Term]] = {}
    for lora, scale in zip(loras, scales, strict=True):
        for part, factors in lora.factors.items():
            for path, factor in factors.items():
                terms.setdefault((part, *path), []).append((factor.down, factor.up, np.float32(scale * factor.scale)))
    return terms


def _merged(kernel, terms: Sequence[Term], algorithm: Winograd | None):
    """A kernel, or the matrices that stand for it, with what is added."""
    if algorithm is None:
        return _sum(kernel.astype(jnp.float32), terms).astype(kernel.dtype)
    down, up, _ = terms[0]
    change = _sum(jnp.zeros_like(down, jnp.float32, shape=(*down.shape[:-1], up.shape[-1])), terms)
    return {i: kernel[i] + matrix for i, matrix in enumerate(algorithm.pack(change))}


def _sum(
    total: Float[Array, "*kernel inputs outputs"], terms: Sequence[Term]
) -> Float[Array, "*kernel inputs outputs"]:
    for term in terms:
        total = _add(total, *term)
    return total


@jax.jit
def _add(
    kernel: Float[Array, "*kernel inputs outputs"],
    down: Float[Array, "*kernel inputs rank"],
    up: Float[Array, "rank outputs"],
    scale: Float[Array, ""],
) -> Float[Array, "*kernel inputs outputs"]:
    # The highest precision, or accelerators would multiply in fewer bits than float32 has.
    change = jnp.matmul(down.astype(jnp.float32), up.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return kernel + scale * change
