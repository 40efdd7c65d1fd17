"""Packed arguments are the arrays that they stand for, to the bit, and a stage is given those that it uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SIZE
from jax.interpreters import partial_eval

from ssd1b_jax import Pipeline
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.jobs import Program
from ssd1b_jax.engine.packing import SMALL, Packing
from ssd1b_jax.engine.parameters import USED, Parameters

STAGES = ("prepare", "advance", "advance_unguided", "decode")
PROGRAM = Program(SIZE, SIZE, guided=True, chunks=1, noise_rows=0)


def tree(*lead: int) -> dict:
    """An array of every dtype with a value of every kind, none, and one that is large."""
    rng = np.random.default_rng(0)
    floats = np.array([0.0, -0.0, np.nan, np.inf, 1e-45], np.float32)
    floats[2:3].view(np.uint32)[:] = 0x7FC12345  # a NaN of its own
    return dict(
        floats=np.broadcast_to(floats, (*lead, 5)).copy(),
        scalar=rng.standard_normal(lead).astype(np.float32).reshape(lead),
        words=rng.integers(2**32, size=(*lead, 2, 3), dtype=np.uint32),
        ids=rng.integers(-(2**31), 2**31, size=(*lead, 4)).astype(np.int32),
        flags=rng.integers(2, size=(*lead, 3, 1)).astype(bool),
        halves=rng.standard_normal((*lead, 7)).astype(jnp.bfloat16),
        absent=None,
        large=rng.standard_normal((*lead, SMALL // 4 + 1)).astype(np.float32),
    )


def shapes(arrays, axes: int = 0):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axes:], x.dtype), arrays)


def assert_same_bits(some, others):
    some, others = jax.tree.map(np.asarray, (some, others))
    assert jax.tree.structure(some) == jax.tree.structure(others)
    for one, other in zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_a_tree_comes_back_from_fewer_arrays(lead):
    arrays = tree(*lead)
    packing = Packing(shapes(arrays, len(lead)))
    packed = packing.pack(arrays)
    assert [(x.dtype, x.shape[:-1]) for x in packed] == [(np.uint32, lead), (jnp.bfloat16, lead), (np.float32, lead)]
    assert all(isinstance(x, np.ndarray) for x in packed) and packed[-1] is arrays["large"]
    assert_same_bits(jax.jit(packing.unpack)(packed), arrays)
    assert_same_bits(jax.jit(packing.pack)(arrays), packed)
    if not lead:
        assert shapes(packed) == packing.shapes


@pytest.fixture
def calls(tiny_pipe):
    return tiny_pipe.runner.programs.calls


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_given_the_parameters_that_it_uses(calls, stage):
    function, (params, *batches), _ = calls.packed(stage, PROGRAM)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
    jaxpr = jax.make_jaxpr(function)(params, *rows).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    assert all(used[: len(jax.tree.leaves(params))])
    assert len(jax.tree.leaves(params)) < len(jax.tree.leaves([calls.params[part] for part in USED[stage]])) / 2


def test_parameters_that_are_not_used_would_be_seen(calls):
    """They are NaN: no picture that used one would be finite."""
    shapes = calls.params["unet"]
    parameters = Parameters("advance", "unet", shapes)
    unpacked = jax.eval_shape(parameters.unpack, parameters.shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), unpacked) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), parameters.shapes)
    assert np.isnan(parameters.unpack(ones)["add_embedding"]["linear_1"]["kernel"]).all()


def test_what_is_called_is_what_was_compiled(tiny_model, monkeypatch):
    """The arrays of every call are of the shapes that its program was compiled for."""
    pipe = Pipeline(tiny_model, devices=Devices(jax.devices()[:1]))
    called, run = {}, pipe.runner.run

    def note(name, program, *arguments):
        called[name] = program, jax.tree.map(lambda x: (x.shape, x.dtype), arguments)
        return run(name, program, *arguments)

    monkeypatch.setattr(pipe.runner, "run", note)
    pipe(image=np.zeros((8, 8, 3), np.uint8), prompt="a cat", seed=0)
    assert set(called) == {"prepare", "advance", "decode"}
    for name, (program, arguments) in called.items():
        planned = pipe.runner.programs.calls.packed(name, program).arguments
        assert jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), planned) == arguments
