"""`ssd1b grid`: sweep two settings and draw the table of pictures."""

import argparse
from pathlib import Path

import numpy as np

from ssd1b_jax import files
from ssd1b_jax.cli import settings
from ssd1b_jax.cli.console import Console, add_output
from ssd1b_jax.errors import NonFiniteError, RequestError


def add(commands) -> None:
    parser = commands.add_parser(
        "grid",
        usage="%(prog)s IMAGE PROMPT --x SETTING=VALUES [--y SETTING=VALUES] [-o OUT] [option ...]",
        help="sweep two settings and draw the table of pictures",
        description="Remake IMAGE after PROMPT for all values of two settings, and draw a labelled table of the "
        "pictures. Each is also kept in a folder named like OUT without its suffix.",
        epilog="VALUES are a list (0.3,0.5,0.7), a range of whole numbers (1..4), or so many at equal distances "
        "(0.3..0.9/4); quote what has commas: --y 'prompt=\"a cat, asleep\",a dog'. lora:NAME is a LoRA's scale.",
    )
    parser.set_defaults(command=_run)
    add = parser.add_argument
    add("--x", required=True, metavar="SETTING=VALUES", help="columns: strength, steps, prompt, any other setting")
    add("--y", metavar="SETTING=VALUES", help="rows: another one")
    add("-o", "--output", type=Path, metavar="OUT", help="default: grid.png, or the next free name")
    add("--cell", type=int, default=256, metavar="PIXELS", help="size of a picture in the table (default: 256)")
    add_output(parser)
    settings.add(parser)


def _run(arguments: argparse.Namespace) -> None:
    # Every mistake is reported before the weights are read.
    from ssd1b_jax import grid, images
    from ssd1b_jax.checkpoints.model_json import read_manifest
    from ssd1b_jax.grid.figure import PALE
    from ssd1b_jax.records import SOURCES

    path = arguments.output or _free(Path("grid.png"))
    folder = path.with_suffix("")
    output = settings.output(arguments, named=False)
    suffix = output.suffix if output.format else path.suffix
    if not 32 <= arguments.cell <= 2048:
        raise RequestError(f"cell must be from 32 to 2048 pixels, got {arguments.cell}")
    settings.check(arguments, output, path.with_suffix(suffix))
    settings.keep(path, arguments.image, arguments.mask)
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is in the way of the folder of pictures: choose another output")
    axes = [grid.parse_axis(text) for text in (arguments.x, arguments.y) if text is not None]
    table = grid.Grid(base=settings.of_request(arguments), **dict(zip("xy", axes, strict=False)))
    requests = table.requests(read_manifest(arguments.model).config)
    for axis in axes:
        if axis.setting in SOURCES:
            for picture in axis.values:
                settings.keep(path, picture)
                images.load(picture)
    figure = table.figure(requests, Path(arguments.model).name, arguments.cell)
    cells = [figure.cell(np.full((request.height, request.width, 3), PALE, np.uint8)) for request in requests]
    height, width, _ = figure.draw(cells).shape
    images.check_writable(path, width, height)
    largest = max(requests, key=lambda request: max(request.width, request.height))
    settings.check_files(arguments, output, path.with_suffix(suffix), largest)
    pipe = settings.pipeline(arguments, requests)
    files.make_folder(folder)
    names = table.names()
    paths = [folder / f"{name}{suffix}" for name in names]
    others = sum(1 for _ in folder.iterdir())
    count, failure = 0, None
    with Console(arguments) as console:
        if others:
            console.note([f"{folder} held other files before ({others}), which stay"])
        try:
            for index, result in console.watch(pipe, requests):
                saved = result.save(paths[index], output)
                cells[index] = figure.cell(result.pixels)
                console.picture(result, saved, cell=names[index])
                count += 1
        except NonFiniteError as error:  # only the cells of those pictures stay blank
            failure = error
        if count:
            images.save(figure.draw(cells), path)
            table = dict(output=str(path), folder=str(folder), pictures=count)
            console.report(f"{path}: {count} pictures of {folder}", table)
    if failure:
        raise failure


def _free(path: Path) -> Path:
    """The first of grid.png, grid-2.png … that neither a file nor a folder of pictures has."""
    free, count = path, 1
    while free.exists() or free.with_suffix("").exists():
        count += 1
        free = path.with_stem(f"{path.stem}-{count}")
    return free
