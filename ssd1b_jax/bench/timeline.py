"""Draws which picture is in which row of the queue: `python -m ssd1b_jax.bench.timeline timeline.png`.

30 pictures of 2 to 50 steps are submitted, and some are cancelled, waiting or half done. A column is a model call, a
bar is a picture in its row, and a bar that ends in black was cancelled there.
"""

import colorsys
import sys

import numpy as np
from jaxtyping import Int, UInt8

from ssd1b_jax import images
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.request import Request

COUNT, STEPS = 30, (2, 50, 6, 12, 4, 30, 8, 20)
CANCELLED = {0: (1, 9, 17), 5: (21, 25)}  # by the picture whose result is waited for before
WIDTH = 4
CALL, ROW = 5, 16  # pixels
NAMES = "0123456789abcdefghijklmnopqrstuvwxyz"

Column = Int[np.ndarray, " rows"]  # the picture that is in each row, -1 where it makes no call
Timeline = Int[np.ndarray, "rows calls"]


def watch(pipe: Pipeline) -> list[Column]:
    """Columns, which the list gets as the queue makes model calls."""
    columns: list[Column] = []
    advance, width = pipe.runner.advance, pipe.runner.width

    def watched(group, block, stops, guided):
        for call in range(max(stop - entry.call for entry, stop in stops.items())):
            column = np.full(pipe.runner.count * width, -1)
            for entry, stop in stops.items():
                if entry.call + call < stop:
                    column[entry.place.device * width + entry.place.row] = entry.job.request.seed
            columns.append(column)
        return advance(group, block, stops, guided)

    pipe.runner.advance = watched
    return columns


def record(pipe: Pipeline) -> tuple[Timeline, set[int]]:
    """Make the pictures. Returns the timeline, and which pictures were cancelled."""
    columns = watch(pipe)
    image = np.zeros((64, 64, 3), np.uint8)
    tickets = [
        pipe.submit(
            Request(image=image, prompt="a tree", num_inference_steps=STEPS[i % len(STEPS)], strength=1, seed=i)
        )
        for i in range(COUNT)
    ]
    for picture, unwanted in CANCELLED.items():
        tickets[picture].result()
        for i in unwanted:
            tickets[i].cancel()
    for ticket in tickets:
        ticket.exception()
    return np.stack(columns, axis=1), {i for i in range(COUNT) if tickets[i].cancelled()}


def draw(timeline: Timeline, cancelled: set[int]) -> UInt8[np.ndarray, "height width 3"]:
    """A colour for each picture, white where a row makes no call."""
    pixels = np.full((len(timeline) * ROW, timeline.shape[1] * CALL, 3), 255, np.uint8)
    for picture in np.unique(timeline[timeline >= 0]).tolist():
        places = [
            (slice(row * ROW + 2, (row + 1) * ROW - 2), call * CALL) for row, call in np.argwhere(timeline == picture)
        ]
        for height, left in places:
            pixels[height, left : left + CALL] = np.multiply(_colour(picture), 255)
        height, left = max(places, key=lambda place: place[1])
        if picture in cancelled:
            pixels[height, left : left + CALL] = 0
        else:
            pixels[height, left + CALL - 1] = 255
    return pixels


def _colour(picture: int) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(picture * 0.29 % 1, 0.55, 0.75 + 0.2 * (picture % 2))


def main(target: str) -> None:
    """Print the timeline, a letter for each picture, and draw it into a file."""
    pipe = Pipeline.from_pretrained("emoji", devices=Devices(per_device=WIDTH))
    timeline, cancelled = record(pipe)
    for row in timeline:
        print("".join(" " if picture < 0 else NAMES[picture] for picture in row))
    print("cancelled:", *(NAMES[picture] for picture in sorted(cancelled)))
    images.save(draw(timeline, cancelled), target)


if __name__ == "__main__":
    main(sys.argv[1])
