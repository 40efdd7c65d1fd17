"""The output of a command: a progress bar, notes, and for each result a line or a JSON object."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any


def describe(result) -> str:
    """One line on how a picture was generated."""
    request = result.request
    height, width, _ = result.pixels.shape
    varied = f", variation seed {request.variation_seed} at {request.variation_strength:g}"
    return (
        f"{width} x {height}, {result.steps_run} of {request.num_inference_steps} steps ({request.scheduler}), "
        f"strength {request.strength:g}, guidance {request.guidance_scale:g}, seed {request.seed}"
        f"{varied if request.variation_strength else ''}, {result.seconds:.1f} s"
    )


def facts(result, saved=None) -> dict[str, Any]:
    """A picture's JSON object; `saved` is what `Result.save` returned."""
    request = result.request
    height, width, _ = result.pixels.shape
    return dict(
        output=str(saved.picture) if saved else None,
        sidecar=str(saved.sidecar) if saved and saved.sidecar else None,
        width=width,
        height=height,
        seed=request.seed,
        variation_seed=request.variation_seed if request.variation_strength else None,
        steps_run=result.steps_run,
        seconds=round(result.seconds, 3),
        notes=[*result.notes, *(saved.notes if saved else ())],
    )


def add_json(parser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line on standard output")


def add_output(parser) -> None:
    """The options of a command that generates pictures."""
    group = parser.add_mutually_exclusive_group()
    add_json(group)
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")


def print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


class Console:
    """Prints results as `arguments` ask, and a bar over model calls where standard error is a terminal."""

    def __init__(self, arguments: argparse.Namespace):
        from tqdm import tqdm

        self.quiet, self.json = arguments.quiet, arguments.json
        self.bar = tqdm(unit="step", leave=False, disable=True if self.quiet else None)
        self.noted = set()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def advance(self, progress) -> None:
        self.bar.total = progress.calls
        self.bar.update(progress.calls_done - self.bar.n)

    def watch(self, pipe, requests) -> Iterator[tuple[int, Any]]:
        """`pipe.stream` with its progress on the bar."""
        return pipe.stream(requests, on_progress=self.advance)

    def picture(self, result, saved, **more: Any) -> None:
        """Report one picture that was written, with its notes."""
        self.note([*result.notes, *saved.notes])
        self.report(f"{saved.picture}: {describe(result)}", facts(result, saved) | more)

    def report(self, line: str, values: dict[str, Any]) -> None:
        """Print a result: its line, or with --json its values."""
        if self.quiet:
            return
        self.bar.clear()
        if self.json:
            print_json(values)
        else:
            print(line, flush=True)

    def note(self, notes) -> None:
        """Print each note once; with --json they stand in the results."""
        for note in notes:
            if note in self.noted or self.quiet or self.json:
                continue
            self.bar.clear()
            print(f"note: {note}", file=sys.stderr)
            self.noted.add(note)
