"""Trees of arrays come back from disk as they went there, whole, in part, and a few leaves at a time."""

import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd1b_jax.checkpoints import orbax


def test_trees_and_their_parts(tmp_path):
    tree = dict(ema={"layers": {i: jnp.full(2, i) for i in range(12)}}, optimizer=[jnp.ones(3)], step=jnp.int32(4))
    orbax.save(tmp_path / "tree", tree)
    jax.tree.map(np.testing.assert_array_equal, orbax.load(tmp_path / "tree", tree), tree)
    part = orbax.load_part(tmp_path / "tree", "ema", jax.eval_shape(lambda: tree["ema"]))
    jax.tree.map(np.testing.assert_array_equal, part, tree["ema"])


def test_leaves_that_only_one_side_has_are_named(tmp_path):
    tree = dict(ema={"layers": {i: jnp.full(2, i) for i in range(2)}}, step=jnp.int32(4))
    orbax.save(tmp_path / "tree", tree)
    layers = tree["ema"]["layers"]
    for wrong, sentence in (
        ({"layers": {0: layers[0]}}, r"do not match:\nema.layers.1:\n +- Source: MISSING"),
        ({"layers": layers, "more": jnp.ones(2)}, r"do not match:\nema.more:\n.*\n +- Target: MISSING"),
    ):
        with pytest.raises(ValueError, match=sentence):
            orbax.load_part(tmp_path / "tree", "ema", wrong)
    with pytest.raises(ValueError, match=r"do not match:\nstep:\n +- Source: MISSING"):
        orbax.load(tmp_path / "tree", dict(ema=tree["ema"]))


def test_leaves_come_and_go_a_few_at_a_time(tmp_path, monkeypatch):
    """With room for few, many pieces are written and read, and what is loaded is the same."""
    held = []

    def leaves():
        for number in range(40):
            held.append(number)
            yield ("layers", number, "kernel"), np.full((4, 256), number, np.float32)
            yield ("layers", number, "bias"), np.full(3, number, np.float32)

    monkeypatch.setattr(orbax, "BATCH", 3 * 4096)
    saved, during = orbax.ocp.partial.save, []
    monkeypatch.setattr(orbax.ocp.partial, "save", lambda path, tree: (during.append(len(held)), saved(path, tree))[1])
    orbax.save_leaves(tmp_path / "tree", leaves())
    assert during[0] <= 4 and len(during) >= 13  # written before the rest was made
    shapes = {"layers": {i: dict(kernel=jnp.zeros((4, 256)), bias=jnp.zeros(3)) for i in range(40)}}
    tree = orbax.load(tmp_path / "tree", shapes)
    read = dict(orbax.read_leaves(tmp_path / "tree", shapes))
    assert len(read) == 80
    for number in range(40):
        for name, size in (("kernel", (4, 256)), ("bias", 3)):
            expected = np.full(size, number, np.float32)
            np.testing.assert_array_equal(tree["layers"][number][name], expected, strict=True)
            np.testing.assert_array_equal(read["layers", number, name], expected, strict=True)


def test_the_root_logger_stays_as_it_is(tmp_path, monkeypatch):
    """Else what a program sets up by `logging.basicConfig` after the first model would do nothing."""
    monkeypatch.setattr(logging.root, "handlers", [])
    orbax.save(tmp_path / "tree", dict(step=jnp.int32(4)))
    orbax.load(tmp_path / "tree", dict(step=jnp.int32(0)))
    assert logging.root.handlers == []


@pytest.mark.slow
def test_importing_it_leaves_the_root_logger_as_it_is():
    program = "import logging; import ssd1b_jax.checkpoints.orbax; assert logging.root.handlers == []"
    subprocess.run([sys.executable, "-c", program], check=True)
