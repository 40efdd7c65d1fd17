"""Planning for devices that need not be here: on the CPU for real, for TPUs where their compiler is installed."""

import dataclasses
import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny
from helpers.commands import run

from ssd1b_jax import Pipeline, cli, plan, presets
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.errors import PlanError
from ssd1b_jax.models import abstract, layers
from ssd1b_jax.models.unet import UNet
from ssd1b_jax.plan import blocks, compiler
from ssd1b_jax.plan import plan as steps
from ssd1b_jax.plan.compiler import Chip, Cost

DTYPE = dict(dtype=jnp.float32, rngs=nnx.Rngs(0))
HAS_LIBTPU = find_spec("libtpu") is not None


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of these tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield folder


def shape(*size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(size, jnp.float32)


def quiet(line: str) -> None:
    pass


@pytest.mark.slow
def test_the_shapes_that_are_planned_are_those_that_run(tiny_model, monkeypatch):
    pipe = Pipeline(tiny_model, devices=Devices(jax.devices()[:2], 2))
    called, run_stage = {}, pipe.runner.run

    def note(name, program, *arguments):
        called[name] = jax.tree.map(shape_and_dtype, (program, *arguments)[1:])
        return run_stage(name, program, *arguments)

    monkeypatch.setattr(pipe.runner, "run", note)
    result = pipe(image=np.zeros((8, 8, 3), np.uint8), prompt="a cat", seed=0)
    program = pipe._planner.plan(result.request).group.program
    assert set(called) == {"prepare", "advance", "decode"}
    programs = pipe.runner.programs
    for name, arguments in called.items():
        planned, seen = programs.lowerable(name, program), []
        monkeypatch.setattr(programs.stages, name, seeing(getattr(programs.stages, name), seen))
        function, packed, _ = programs.calls.packed(name, program)
        assert jax.tree.map(shape_and_dtype, packed) == arguments
        jax.eval_shape(function, *planned._replace(arguments=packed).per_device)  # takes the packs apart
        assert jax.tree.map(shape_and_dtype, seen) == [jax.tree.map(shape_and_dtype, planned.per_device)]


def seeing(stage, seen):
    def spy(*arguments):
        seen.append(arguments)
        return stage(*arguments)

    return spy


def shape_and_dtype(x):
    return tuple(x.shape), np.dtype(x.dtype)


def test_the_compiler_is_asked_once(monkeypatch):
    n = 64
    lowered = jax.jit(lambda a, b: a @ b + 1).lower(shape(n, n), shape(n, n))
    said = []
    first = compiler.cost(lowered, jax.devices()[0], "a product", said.append)
    assert first.arguments == 2 * first.outputs == 2 * 4 * n * n
    assert 2 * n**3 <= first.flops <= 2 * n**3 + n * n  # and one addition an element
    assert first.refused is None and first.seconds is None  # XLA estimates no time for a CPU
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_: pytest.fail("compiled again"))
    assert compiler.cost(lowered, jax.devices()[0], "a product", said.append) == first
    assert re.fullmatch(r"a product: compiled in \d+\.\d s", said[0]) and said[1] == "a product: known"


def test_a_damaged_answer_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lowered = jax.jit(jnp.sin).lower(shape(8))
    first = compiler.cost(lowered, jax.devices()[0], "sines", quiet)
    (answer,) = tmp_path.rglob("*.json")
    answer.write_text("{")
    again = compiler.cost(lowered, jax.devices()[0], "sines", quiet)
    assert dataclasses.replace(again, compile_seconds=0.0) == dataclasses.replace(first, compile_seconds=0.0)


def test_a_program_that_the_compiler_refuses(monkeypatch):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: needs 608.00G of 15.75G\nSee the manual")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    cost = compiler.cost(jax.jit(jnp.sin).lower(shape(8)), jax.devices()[0], "too large", quiet)
    assert cost.refused == "RESOURCE_EXHAUSTED: needs 608.00G of 15.75G"
    program = plan.PlannedProgram(title="too large", cost=cost, weights=0, idle=0)
    chip = Chip(1.0, 1.0, 10**18)
    assert not program.fits(chip) and program.most(chip, 1) == 0


def test_what_fits():
    cost = Cost(arguments=50, outputs=10, aliased=5, temporaries=20, code=5, flops=30.0, traffic=80.0)
    program = plan.PlannedProgram(title="", cost=cost, weights=60, idle=20)  # 40 of the arguments are weights
    assert program.memory == 100
    assert program.fits(Chip(1.0, 1.0, 100)) and not program.fits(Chip(1.0, 1.0, 99))
    # 65 stay, 35 go with the batch of 2.
    assert [program.most(Chip(1.0, 1.0, memory), 2) for memory in (64 + 17, 65 + 18, 100, 65 + 350)] == [0, 1, 2, 20]
    assert cost.roofline(Chip(10.0, 40.0, 0)) == (3.0, 2.0) and cost.compute(Chip(10.0, 40.0, 0)) == 1
    assert cost.roofline(Chip(20.0, 20.0, 0)) == (1.5, 4.0) and cost.compute(Chip(20.0, 20.0, 0)) == 1.5 / 4


def test_blocks_of_a_program_and_what_lives_beside_them():
    graphdef, params = nnx.split(layers.Conv(4, 4, 3, **DTYPE))

    def function(params, x, turns):
        conv = nnx.merge(graphdef, params)
        conv(x * 2)  # of no use to anyone
        skip = conv(x) + 1  # lives to the end
        return jax.lax.fori_loop(0, turns, lambda _, y: conv(y), conv(skip)) + skip

    image = 4 * 8 * 8 * 4  # bytes
    found = blocks.blocks(function, params, shape(1, 8, 8, 4), jax.ShapeDtypeStruct((), jnp.int32))
    assert [str(block) for block in found] == ["Conv 1x8x8x4"] * 3
    assert len({block.key for block in found}) == 1
    assert [block.outputs for block in found] == [image] * 3
    # Nothing; skip; skip, and what the loop starts from with its counter.
    assert [block.live for block in found] == [0, image, 2 * image + 4]


def test_a_block_that_is_scanned_counts_as_often_as_it_runs():
    graphdef, params = nnx.split(layers.Linear(4, 4, **DTYPE))

    def function(params, x):
        return jax.lax.scan(lambda x, _: (nnx.merge(graphdef, params)(x), None), x, length=5)[0]

    (block,) = blocks.blocks(function, params, shape(2, 4))
    assert block.times == 5


def test_every_layer_of_the_unet_is_in_a_block():
    model = tiny.tiny_config()
    graphdef, params = abstract("unet", model)
    call = UNet.__call__
    arguments = shape(2, 4, 4, 4), shape(2), shape(2, 16, 32), shape(2, 16), shape(2, 6)
    found = blocks.blocks(lambda params, *rest: nnx.merge(graphdef, params)(*rest), params, *arguments)
    names = [block.name for block in found]
    depths = [*model.unet.down_depths, *model.unet.up_depths]
    assert names.count("ResnetBlock") == sum(map(len, depths)) + 1
    assert names.count("TransformerBlock") == sum(map(sum, depths))
    # No parameter is left over.
    given = sum(aval.size for block in found for aval in block.jaxpr.in_avals)
    assert given >= sum(leaf.size for leaf in jax.tree.leaves(params))
    assert UNet.__call__ is call


@pytest.fixture(scope="module")
def whole(cache, tiny_folder):
    return plan.make(str(tiny_folder), "cpu", dtype="float32", quick=False)


@pytest.mark.slow
def test_a_whole_plan_says_what_the_compiler_says(whole, tiny_model):
    titles = [program.title for program in whole.programs]
    assert titles == ["text encoders and VAE encoder", "denoising loop, one model call", "VAE decoder"]
    assert (whole.width, whole.height, whole.devices, whole.chip) == (tiny.SIZE, tiny.SIZE, 1, None)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny_model.params))
    unet = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny_model.params["unet"]))
    for program in whole.programs:
        assert program.weights == total and program.memory > total
        assert program.cost.flops > 0 and program.cost.traffic > program.cost.arguments
    loop = whole.programs[1]
    assert unet < loop.cost.arguments < unet + 2**20  # latents and tables besides
    assert loop.cost.aliased > 0  # the state is donated


@pytest.fixture(scope="module")
def in_parts(cache, tiny_folder):
    return plan.make(str(tiny_folder), "cpu", dtype="float32", quick=True)


@pytest.mark.slow
def test_the_quick_form_adds_up_to_the_whole(whole, in_parts):
    quick = in_parts
    assert quick.quick and not whole.quick
    for ours, theirs in zip(quick.programs, whole.programs, strict=True):
        assert ours.title == theirs.title and ours.blocks
        # What lies between blocks is elementwise: much in a model 8 channels wide, little in a large one.
        assert 0.8 < ours.cost.flops / theirs.cost.flops <= 1.0


@pytest.mark.slow
def test_a_larger_batch_takes_more(in_parts, tiny_folder, monkeypatch):
    """Of the VAE decoder; the others are left out."""
    quick = steps._quick
    left_out = Cost(), ()
    monkeypatch.setattr(steps, "_quick", lambda stage, *how: quick(stage, *how) if stage.name == "decode" else left_out)
    one = in_parts.programs[2].cost
    two = plan.make(str(tiny_folder), "cpu", dtype="float32", per_device=2, quick=True).programs[2].cost
    assert two.flops / one.flops == pytest.approx(2, rel=0.05)
    assert two.temporaries > 1.5 * one.temporaries


@pytest.mark.slow
def test_presets_need_no_weights(monkeypatch):
    seen = []

    def note(called, device, say):
        seen.append(called)
        return Cost(), ()

    monkeypatch.setattr(steps, "_quick", note)
    made = plan.make("SSD-1B", "cpu", per_device=3)
    assert (made.width, made.height, made.dtype) == (1024, 1024, "bfloat16")
    assert made.programs[0].weights == pytest.approx(4.46e9, rel=0.01)  # 2.23 billion parameters, two bytes each
    state = seen[1].arguments[1]
    assert state.latents.shape == (1, 3, 128, 128, 4)
    conditioning = seen[1].arguments[2].conditioning
    assert conditioning.added.shape == (1, 2, 3, presets.ssd_1b().unet.time_embed_dim)


@pytest.mark.slow
def test_the_command(capsys, monkeypatch, in_parts, tiny_folder):
    monkeypatch.setitem(compiler.CHIPS, "cpu", Chip(1e12, 1e11, 10**9))
    arguments = tiny_folder, "--topology", "cpu", "--dtype", "float32", "--quick", "--blocks"
    code, out, err = run(capsys, "plan", *arguments)
    assert code == 0 and "ESTIMATE" in out and " x ResnetBlock 2x16x16x8" in out
    assert len(re.findall(r"^(?:text encoders|denoising loop|VAE decoder).* yes$", out, re.MULTILINE)) == 3
    assert re.search(r"largest per-device batch that should fit: [1-9]\d*,", out)
    assert "VAE decoder, block 1 of " in err
    assert all(line.endswith(": known") for line in err.splitlines()), "the same plan was made above"
    for program in in_parts.programs:
        assert re.search(rf"^{program.title} +{program.cost.flops / 1e9:,.1f} ", out, re.MULTILINE)


def test_two_plans_side_by_side(capsys, monkeypatch):
    plans = []

    def make(*_, **__):
        """One call's cost; of the second plan, twice as much."""
        plans.append(len(plans) + 1)
        cost = Cost(flops=2e12, traffic=1e9 * plans[-1], temporaries=10**9 * plans[-1])
        program = plan.PlannedProgram(title="a loop", cost=cost, weights=0, idle=0)
        about = dict(devices=1, device_kind="one", per_device=1, width=64, height=64, dtype="bfloat16", quick=False)
        return plan.Plan(programs=(program,), chip=Chip(1e15, 1e12, 10**10), **about)

    monkeypatch.setattr(plan, "make", make)
    code, out, _ = run(capsys, "plan", "emoji", "--compare")
    assert code == 0 and plans == [1, 2]
    rows = {line[:34].strip(): line[34:].split() for line in out.split("a loop")[-1].splitlines()[1:]}
    assert rows["GFLOP"] == ["2,000.00", "2,000.00", "1.00"]
    assert rows["moved, GB"] == rows["temporaries, GB"] == ["1.00", "2.00", "0.50"]
    assert rows["roofline, ms"] == ["2.00", "2.00", "1.00"] and rows["of it compute, %"][0] == "100.00"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sdxl"], "no model folder at 'sdxl'"),
        (["emoji", "--size", "33"], "width must be a multiple of 8, got 33: try 32 or 40"),
        (["emoji", "--size", "64x4096"], "width x height must be at most 4 times the model's own size"),
        (["emoji", "--per-device", "0"], "per_device must be a whole number from 1 to 256, got 0"),
        pytest.param(
            ["emoji", "--topology", "v5e:2x2"],
            "compiling for v5e:2x2 needs libtpu: run pip install 'jax[tpu]'",
            marks=pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed"),
        ),
        pytest.param(
            ["emoji", "--topology", "v5e"],
            "topology must be cpu or a TPU's name and shape, such as v5e:1x1",
            marks=pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed"),
        ),
    ],
)
def test_what_cannot_be_planned_is_told(capsys, arguments, sentence):
    if "--topology" not in arguments:
        arguments = [*arguments, "--topology", "cpu"]
    code, out, err = run(capsys, "plan", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"error: {sentence}") and err.count("\n") == 1


def test_a_size_that_is_no_size_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["plan", "--size", "large"])
    assert exit.value.code == 2 and "must be a number of pixels, or WIDTHxHEIGHT" in capsys.readouterr().err


def test_a_dtype_that_is_none_is_told():
    with pytest.raises(PlanError, match="dtype must be one of float32, bfloat16, float16, got 'int8'"):
        plan.make("emoji", "cpu", dtype="int8")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed")
def test_the_embedded_model_fits_a_tpu_that_is_not_here():
    quick, whole = (plan.make("emoji", "v5e:2x2", quick=quick) for quick in (True, False))
    assert (whole.devices, whole.device_kind) == (4, "TPU v5 lite")
    for ours, theirs in zip(quick.programs, whole.programs, strict=True):
        assert theirs.fits(whole.chip) and theirs.most(whole.chip, 1) > 100
        assert theirs.cost.seconds > 0 and theirs.cost.code > 0
        # It counts the padding to its tiles, larger than these blocks are, and pads a block alone otherwise.
        assert ours.cost.flops / theirs.cost.flops == pytest.approx(1, abs=0.25)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed")
def test_what_does_not_fit_a_tpu_is_known():
    (device, *_) = compiler.find_devices("v5e:1x1")
    large = jax.ShapeDtypeStruct((300, 2**30), jnp.uint8, sharding=jax.sharding.SingleDeviceSharding(device))
    assert "15.75G" in compiler.cost(jax.jit(lambda x: x + 1).lower(large), device, "too large", quiet).refused
