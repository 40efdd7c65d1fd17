"""Sweeps: what an axis says, which pictures it makes, and how the table looks."""

import json
import re

import jax
import numpy as np
import pytest
from helpers import tiny
from helpers.commands import run

from ssd1b_jax import NonFiniteError, Request, RequestError, images, pipeline, records
from ssd1b_jax.errors import GridError
from ssd1b_jax.grid import MAX_VALUES, Grid, letters, parse_axis
from ssd1b_jax.grid.figure import PALE, Edge, Figure

CONFIG = tiny.tiny_config()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    images.save(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), "in.png")
    return tmp_path


# axes


@pytest.mark.parametrize(
    ("said", "setting", "values"),
    [
        ("strength=0.3,0.5, 0.7", "strength", (0.3, 0.5, 0.7)),
        ("seed=1..4", "seed", (1, 2, 3, 4)),
        ("seed=3..1,18446744073709551615", "seed", (3, 2, 1, 2**64 - 1)),
        ("strength=0.3..0.9/4", "strength", (0.3, 0.5, 0.7, 0.9)),
        ("steps=10..50/5", "num_inference_steps", (10, 20, 30, 40, 50)),
        ("--guidance-scale=1..4", "guidance_scale", (1.0, 2.0, 3.0, 4.0)),
        ('prompt="a cat, asleep",a dog', "prompt", ("a cat, asleep", "a dog")),
        ('prompt="say ""cheese""",1..4', "prompt", ('say "cheese"', "1..4")),
        ("negative-prompt=blurry,", "negative_prompt", ("blurry", "")),
        ("negative-crop=0 0,8 16", "negative_crops_coords_top_left", ((0, 0), (8, 16))),
        ("exact_steps=yes,FALSE", "exact_steps", (True, False)),
        ("exact_steps=0,1", "exact_steps", (False, True)),
        ("guidance_interval=0 0.5,0.25 1", "guidance_interval", ((0, 0.5), (0.25, 1))),
        ("scheduler=Euler a,DPM++ 2M Karras", "scheduler", ("Euler a", "DPM++ 2M Karras")),
        ("image=a=b.png,c.png", "image", ("a=b.png", "c.png")),
        ("lora:my-style=0,0.5", "lora:my-style", (0, 0.5)),
        ("lora:style=-1..1/3", "lora:style", (-1.0, 0.0, 1.0)),
    ],
)
def test_axes(said, setting, values):
    axis = parse_axis(said)
    assert axis.setting == setting and axis.values == values
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("strength", "an axis is SETTING=VALUES, as in strength=0.3,0.5,0.7 or seed=1..4, got 'strength'"),
        ("brightness=1,2", "no setting is named 'brightness': see ssd1b grid --help"),
        ("stregth=0.5", "no setting is named 'stregth': did you mean strength?"),
        ("step=4,5", "no setting is named 'step': did you mean steps?"),
        ("loras=1,2", "an axis is the scale of one LoRA, as in lora:NAME=0,0.5,1, got 'loras=1,2'"),
        ("lora=1,2", "an axis is the scale of one LoRA"),
        ("seed=", "seed must have values"),
        ("seed=1,2,1", "seed must have values, and each once, got '1,2,1'"),
        ("seed=one", "seed: a number is needed, got 'one'"),
        ("seed=1..", "seed: a range is two numbers and a count, as in 1..4 or 0.3..0.9/4, got '1..'"),
        ("seed=1..4/x", "seed: a range is two numbers and a count"),
        ("seed=1..4/3", "seed: '1..4/3' has values that are not whole"),
        ("seed=4..4", f"seed: a range has 2 to {MAX_VALUES} values, got '4..4'"),
        ("seed=1..1000000000000", f"seed: a range has 2 to {MAX_VALUES} values"),
        ("strength=0.1..0.9", "strength: say how many values the range has, as in 0.1..0.9/4"),
        ("strength=nan..1/3", "strength: a range is two numbers and a count"),
        ('prompt="a cat', "prompt: the values '\"a cat' can't be told apart"),
        ("exact_steps=maybe", "exact_steps: true or false is needed, got 'maybe'"),
        ("guidance_interval=0 x", "guidance_interval: a number is needed, got 'x'"),
        ("seed=1..99,1000..1099", f"seed has more than {MAX_VALUES} values"),
    ],
)
def test_axes_that_make_no_sense(said, sentence):
    with pytest.raises(GridError) as error:
        parse_axis(said)
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


# requests


def test_cells_are_counted_row_by_row_and_share_a_seed():
    base = Request(image="in.png", prompt="a cat", exact_steps=True)
    grid = Grid(base=base, x=parse_axis("strength=0.5,1"), y=parse_axis("steps=2..4"))
    requests = grid.requests(CONFIG)
    assert [(request.num_inference_steps, request.strength) for request in requests] == [
        (2, 0.5), (2, 1.0), (3, 0.5), (3, 1.0), (4, 0.5), (4, 1.0),
    ]  # fmt: skip
    assert len({request.seed for request in requests}) == 1
    assert grid.names()[:3] == ["strength-0.5_steps-2", "strength-1_steps-2", "strength-0.5_steps-3"]


def test_cells_share_a_drawn_variation_seed():
    base = Request(image="in.png", prompt="a cat")
    cells = Grid(base=base, x=parse_axis("variation_strength=0,0.1,0.5,0.9")).requests(CONFIG)
    assert [cell.variation_strength for cell in cells] == [0, 0.1, 0.5, 0.9]
    assert cells[0].variation_seed is None and isinstance(cells[1].variation_seed, int)
    assert len({cell.variation_seed for cell in cells[1:]}) == len({cell.seed for cell in cells}) == 1
    given = Grid(base=Request(image="in.png", prompt="", variation_strength=0.5), x=parse_axis("variation_seed=1,2"))
    assert [cell.variation_seed for cell in given.requests(CONFIG)] == [1, 2]


def test_cells_share_the_seeds_that_minus_one_draws():
    base = Request(image="in.png", prompt="a cat", seed=-1, variation_seed=-1, variation_strength=0.2)
    cells = Grid(base=base, x=parse_axis("strength=0.5,1")).requests(CONFIG)
    assert len({(cell.seed, cell.variation_seed) for cell in cells}) == 1 and cells[0].seed >= 0


def test_what_follows_from_a_setting_follows_it_in_every_cell():
    """The base is not resolved first, or the second prompt and the sizes told would stay."""
    base = Request(image="in.png", prompt="a cat", seed=1)
    cells = Grid(base=base, x=parse_axis("prompt=a,b"), y=parse_axis("width=32,40")).requests(CONFIG)
    assert [(cell.prompt, cell.prompt_2, cell.original_size) for cell in cells] == [
        ("a", None, (32, 32)), ("b", None, (32, 32)), ("a", None, (32, 40)), ("b", None, (32, 40)),
    ]  # fmt: skip


def test_the_scale_of_one_lora_is_swept():
    base = Request(image="in.png", prompt="a cat", loras={"a": 1.0, "b": 1.0})
    cells = Grid(base=base, x=parse_axis("lora:a=0,0.5")).requests(CONFIG)
    assert [cell.loras for cell in cells] == [{"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 1.0}]
    with pytest.raises(GridError, match="lora:c is the scale of a LoRA that is not used: give its file with --lora"):
        Grid(base=base, x=parse_axis("lora:c=0,0.5"))


def test_bad_cells_are_told():
    base = Request(image="in.png", prompt="a cat")
    with pytest.raises(RequestError, match=r"strength must be in \(0, 1\], got 1.5"):
        Grid(base=base, x=parse_axis("strength=0.5,1.5")).requests(CONFIG)
    with pytest.raises(GridError, match="x and y must be two settings, got steps twice"):
        Grid(base=base, x=parse_axis("steps=1,2"), y=parse_axis("num-inference-steps=3"))


def test_names_are_names_of_files():
    words = [
        "a/b:c",
        "a b c",
        "x" * 100,
        "x" * 101,
        "été_苹果",
        "A B C",
        "$(a) & 'b'?#%+=;~*",
        "苹" * 90,
        "-1",
        "1",
        "..",
    ]
    grid = Grid(base=Request(image="in.png", prompt=""), x=parse_axis("prompt=" + ",".join(words)))
    names = grid.names()
    assert names[:2] == ["prompt-a-b-c", "prompt-a-b-c~1"] and names[4:7] == [
        "prompt-été-苹果", "prompt-A-B-C~5", "prompt-a-b",
    ]  # fmt: skip
    assert names[-3:] == ["prompt--1", "prompt-1", "prompt"]
    assert len({name.casefold() for name in names}) == len(words), "the capitals of some disks are all the same"
    assert all(len(name.encode()) < 70 and re.fullmatch(r"prompt[\w.~-]*", name) for name in names)


# the drawing


def figure(**changes) -> Figure:
    return Figure(
        **dict(
            title="a cat", subtitle="made from in.png", footer="seed 1", thumbnail=np.zeros((9, 5, 3), np.uint8),
            x=Edge(name="strength", values=["0.5", "1"]), y=Edge(name="seed", values=["1", "2"]), scale=4.0,
        )
        | changes
    )  # fmt: skip


def places(drawn, color) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is drawn in a colour; it must be a rectangle."""
    rows, columns = np.nonzero((drawn == color).all(axis=2))
    top, left = rows.min(), columns.min()
    height, width = rows.max() - top + 1, columns.max() - left + 1
    assert len(rows) == height * width
    return top, left, height, width


def solid(color, height=64, width=64):
    return np.full((height, width, 3), color, np.uint8)


COLORS = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 0, 200)]]


def test_cells_stand_in_rows_and_columns():
    drawn = figure().draw([solid(color) for row in COLORS for color in row])
    found = [[places(drawn, color) for color in row] for row in COLORS]
    assert {place[2:] for row in found for place in row} == {(64, 64)}
    (top, left), (below, right) = found[0][0][:2], found[1][1][:2]
    assert found[0][1][:2] == (top, right) and found[1][0][:2] == (below, left)
    assert right - left == below - top == 64 + 8


def test_rows_and_columns_are_as_large_as_their_pictures():
    sizes = [(32, 32), (32, 64), (64, 32), (64, 64)]
    colors = [color for row in COLORS for color in row]
    drawn = figure().draw([solid(color, *size) for color, size in zip(colors, sizes, strict=True)])
    found = [places(drawn, color) for color in colors]
    assert [place[2:] for place in found] == sizes
    assert found[1][1] - found[0][1] == found[2][0] - found[0][0] == 32 + 8


def test_pictures_of_one_figure_are_scaled_alike():
    assert figure(scale=2.0).cell(solid(COLORS[0][0], 8, 16)).shape == (16, 32, 3)
    base = Request(image="in.png", prompt="a cat", seed=1)
    grid = Grid(base=base, x=parse_axis("width=32,64"))
    assert grid.figure(grid.requests(CONFIG), "tiny", cell=256).scale == 4


def test_every_word_is_written_and_nothing_reaches_the_rim():
    pictures = [solid(color) for row in COLORS for color in row]
    full = figure().draw(pictures)
    for words in (
        dict(title="a dog"),
        dict(subtitle="made from out.png"),
        dict(footer="seed 2"),
        dict(x=Edge(name="strangth", values=["0.5", "1"])),
        dict(x=Edge(name="strength", values=["0.5", "7"])),
        dict(y=Edge(name="sead", values=["1", "2"])),
        dict(y=Edge(name="seed", values=["1", "7"])),
    ):
        other = figure(**words).draw(pictures)
        assert other.shape == full.shape and (other != full).any(), words
        for drawn in (other, full):
            assert (drawn[:30] == 255).all() and (drawn[-30:] == 255).all()
            assert (drawn[:, :30] == 255).all() and (drawn[:, -30:] == 255).all()


@pytest.mark.parametrize("cell", [32, 300])
def test_long_words_are_broken_and_cut(cell):
    long = "word " * 200
    edge = Edge(name="prompt", values=[long, "x" * 500])
    words = dict(title=long, subtitle=long, footer=long, x=edge, y=Edge(name="y", values=[long, "été 苹果"]))
    drawn = figure(**words).draw([solid(color, cell, cell) for row in COLORS for color in row])
    assert drawn.shape[1] <= 1200
    assert (drawn[:30] == 255).all() and (drawn[:, :30] == 255).all() and (drawn[:, -30:] == 255).all()
    places(drawn, COLORS[0][0])  # not written over


def test_lines_are_broken_at_spaces():
    size = 20
    room = letters.width("one two", size)
    assert letters.wrap("one two three", size, room, 3) == ["one two", "three"]
    assert letters.wrap("", size, room, 3) == []
    cut = letters.wrap("one two three four", size, room, 1)
    assert cut[0].endswith(" …") and letters.width(cut[0], size) <= room
    parts = letters.wrap("x" * 50, size, room, 99)
    assert "".join(parts) == "x" * 50 and all(letters.width(part, size) <= room for part in parts)


def test_ink_is_as_wide_as_it_says_and_one_height():
    a, b = letters.write("abc", 20), letters.write("xyz ÄÖ", 20)
    assert a.shape[1] == letters.width("abc", 20) and a.max() == 255 and a.min() == 0
    assert letters.write("q", 20).shape[0] == a.shape[0] and b.size


# the command


@pytest.mark.usefixtures("each_way_of_loading")
def test_grid_makes_the_table_and_keeps_every_picture(capsys, tiny_folder, here):
    arguments = ("--x", "strength=0.5,1", "--y", "seed=1..3", "--model", tiny_folder, "-o", "out/table.png")
    (here / "out").mkdir()
    code, out, err = run(capsys, "grid", "in.png", "a cat", *arguments)
    assert code == 0 and err == ""
    assert out.splitlines()[-1] == "out/table.png: 6 pictures of out/table"
    drawn = images.load("out/table.png").pixels
    names = sorted(path.name for path in (here / "out" / "table").iterdir())
    assert names == sorted(f"strength-{x}_seed-{y}.png" for x in ("0.5", "1") for y in (1, 2, 3))
    for name in names:
        record = records.read(here / "out" / "table" / name)
        request = record["request"]
        assert name == f"strength-{request['strength']:g}_seed-{request['seed']}.png"
        assert images.sha256(images.load(here / "out" / "table" / name).pixels) == record["pixels"]["sha256"]
    assert drawn.shape[0] > 3 * 256 and drawn.shape[1] > 2 * 256
    again = ("--x", "strength=0.5", "--y", "seed=1", *arguments[4:])
    code, _, err = run(capsys, "grid", "in.png", "a cat", *again)
    assert (code, err) == (0, "note: out/table held other files before (6), which stay\n")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--x", "guidance=1,2"], 2, "no setting is named 'guidance': did you mean guidance_scale?"),
        (["--x", "strength=0.5,2"], 2, "strength must be in (0, 1], got 2"),
        (["--x", "image=in.png,missing.png"], 2, "missing.png: cannot be read: no such file or directory"),
        (["--x", "seed=1..4", "--cell", "5"], 2, "cell must be from 32 to 2048 pixels, got 5"),
        (["--x", "seed=1..4", "-o", "nowhere/a.png"], 3, "nowhere/a.png: cannot be saved: its folder does not exist"),
        (["--x", "seed=1..4", "-o", "in.jpg.png"], 2, "in.jpg is in the way of the folder of pictures"),
        (["--x", "seed=1..4", "-o", "in.png"], 2, "in.png is an input, which would be lost: choose another output"),
        (["--x", "seed=1..4", "-o", "a.gif"], 2, "a picture's name must end in .png"),
        (["--x", "seed=0..99", "--cell", "960"], 2, "100 x 1 pictures of 960 pixels are more than 89 megapixels"),
        (["--x", "seed=0..63", "-o", "a.webp"], 2, "a WEBP file has at most 16383 pixels a side, got "),
    ],
)
def test_bad_grids_are_told_before_weights_are_read(capsys, monkeypatch, tiny_folder, here, arguments, code, sentence):
    monkeypatch.setattr(pipeline, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    (here / "in.jpg").touch()
    before = sorted(here.iterdir())
    got, out, err = run(capsys, "grid", "in.png", "a cat", "--exact-steps", "--model", tiny_folder, *arguments)
    assert (got, out) == (code, "") and err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_grid_that_fails_keeps_the_pictures_it_had(capsys, tiny_folder, here, monkeypatch):
    made = pipeline.Pipeline.stream

    def half(self, requests, **how):
        results = made(self, requests, **how)
        yield next(results)
        raise jax.errors.JaxRuntimeError("the device is gone")

    monkeypatch.setattr(pipeline.Pipeline, "stream", half)
    code, out, err = run(capsys, "grid", "in.png", "a cat", "--x", "seed=1,2", "--model", tiny_folder, "-o", "a.png")
    assert code == 70 and err == "error: the device failed: the device is gone\n"
    assert sorted(path.name for path in here.rglob("*.*")) == ["in.png", "seed-1.png"]
    assert json.loads(images.read_text("a/seed-1.png")["ssd1b"])["request"]["seed"] == 1


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_pictures_that_fail_are_blank_cells(capsys, tiny_folder, here, monkeypatch):
    made = pipeline.Pipeline.stream

    def fail_first(self, requests, **how):
        yield from ((i, result) for i, result in made(self, requests, **how) if i > 0)
        raise NonFiniteError("the UNet gave values that are not finite for picture 1")

    monkeypatch.setattr(pipeline.Pipeline, "stream", fail_first)
    arguments = ("--x", "seed=1,2", "--model", tiny_folder, "-o", "a.png")
    code, out, err = run(capsys, "grid", "in.png", "a cat", *arguments)
    assert code == 1 and err == "error: the UNet gave values that are not finite for picture 1\n"
    assert out.splitlines()[-1] == "a.png: 1 pictures of a"
    drawn = images.load("a.png").pixels
    blank = (drawn == PALE).all(axis=2)
    rows, columns = np.flatnonzero(blank.sum(axis=1) >= 256), np.flatnonzero(blank.sum(axis=0) >= 256)
    top, left = rows.min(), columns.min()
    assert blank[top : top + 256, left : left + 256].all()
    picture = images.resize(images.load("a/seed-2.png").pixels, 256, 256, "stretch")
    beside = np.lib.stride_tricks.sliding_window_view(drawn[top : top + 258], (256, 256), axis=(0, 1))
    assert (beside[:, left + 256 : left + 270] == picture.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()


def test_the_footer_tells_what_all_cells_share():
    """`fast` is other steps, another sampler and no guidance: none of them is shared by a table of it."""
    grid = Grid(base=Request(image=None, prompt="a cat", seed=3), x=parse_axis("fast=0,1"))
    requests = grid.requests(CONFIG)
    assert [request.scheduler for request in requests] == ["euler", "lcm"]
    assert grid.figure(requests, "tiny", 32).footer == "strength 1, seed 3, 32 x 32, tiny"
    fast = Grid(base=Request(image=None, prompt="a cat", fast=True), x=parse_axis("seed=1,2"))
    footer = fast.figure(fast.requests(CONFIG), "tiny", 32).footer
    assert footer == "strength 1, steps 4, guidance scale 1, scheduler lcm, fast 1, 32 x 32, tiny"
