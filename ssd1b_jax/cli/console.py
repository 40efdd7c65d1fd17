"""What a command says while pictures are made: progress, notes, a line for each picture."""

import sys
from collections.abc import Iterator


def describe(result) -> str:
    """One line on how a picture was made."""
    request = result.request
    height, width, _ = result.pixels.shape
    varied = f", variation seed {request.variation_seed} at {request.variation_strength:g}"
    return (
        f"{width} x {height}, {result.steps_run} of {request.num_inference_steps} steps ({request.scheduler}), "
        f"strength {request.strength:g}, guidance {request.guidance_scale:g}, seed {request.seed}"
        f"{varied if request.variation_strength else ''}, {result.seconds:.1f} s"
    )


def add_quiet(parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


class ProgressBar:
    """A bar over model calls, on standard error where that is a terminal."""

    def __init__(self, quiet: bool):
        from tqdm import tqdm

        self.bar = tqdm(unit="step", leave=False, disable=True if quiet else None)
        self.noted = set()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def advance(self, progress) -> None:
        self.bar.total = progress.calls
        self.bar.update(progress.calls_done - self.bar.n)

    def watch(self, pipe, requests) -> Iterator[tuple[int, object]]:
        """`pipe.stream`; each note is said once."""
        for index, result in pipe.stream(requests, on_progress=self.advance):
            self.note(result.notes)
            yield index, result

    def note(self, notes) -> None:
        for note in notes:
            if note not in self.noted:
                self.write(f"note: {note}", sys.stderr)
                self.noted.add(note)

    def write(self, line: str, stream=None) -> None:
        """Print a line without tearing the bar."""
        self.bar.clear()
        print(line, file=stream or sys.stdout)
