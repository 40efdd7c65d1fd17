"""How pictures are written: one frozen object, checked when it is built."""

import os
from dataclasses import dataclass
from pathlib import Path

from ssd1b_jax import files, images, settings
from ssd1b_jax.errors import ImageError, RecordError, SaveError
from ssd1b_jax.records.reading import read, sidecar_path
from ssd1b_jax.settings import default
from ssd1b_jax.settings.types import Format, unchecked

SUFFIXES = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}


@unchecked
@dataclass(frozen=True, kw_only=True)
class Output:
    """The options of a picture's file; docs/settings.md has a row for each. Raises RequestError or ImageError."""

    format: Format | None = default("format")
    quality: int = default("quality")
    upscale: int = default("upscale")
    metadata: bool = default("metadata")
    sidecar: bool = default("sidecar")
    embed_input: bool = default("embed_input")
    overwrite: bool = default("overwrite")

    def __post_init__(self):
        for row in settings.of("output"):
            object.__setattr__(self, row.name, row.check(getattr(self, row.name)))
        if self.embed_input and not self.metadata:
            raise ImageError("the input is embedded along with the metadata: leave out one of the two wishes")
        if self.embed_input and self.format not in (None, "png"):
            raise ImageError(f"the input can be embedded in a PNG only, got format {self.format}")

    @property
    def suffix(self) -> str:
        """The end of a name that nobody chose: a PNG's unless `format` is another."""
        return SUFFIXES[self.format or "png"][0]

    def check(self, path: str | Path, width: int = 1, height: int = 1) -> None:
        """Raise what saving a picture of this size under this name would raise, before there is a picture to lose."""
        path = Path(path)
        self.check_name(path, width, height)
        files.check_place(path)
        if self.sidecar and self.overwrite and is_foreign(sidecar := sidecar_path(path), path.name):
            raise SaveError(
                f"{sidecar}: cannot be saved: a file is there that is no record of {path.name}: move it away, or "
                "choose another name for the picture"
            )

    def check_name(self, path: str | Path, width: int, height: int) -> None:
        """The part of `check` that looks at no disk."""
        path = Path(path)
        if self.format and path.suffix.lower() not in SUFFIXES[self.format]:
            ends = " or ".join(SUFFIXES[self.format])
            raise ImageError(f"the name of a {self.format} file must end in {ends}, got {path.name!r}")
        images.check_encodable(path, width * self.upscale, height * self.upscale)
        if self.embed_input and path.suffix.lower() != ".png":
            raise ImageError(f"the input can be embedded in a PNG only, got {path.name!r}")

    def place(self, path: str | Path) -> Path:
        """The name to write: the one given, or without `overwrite` the first free one of a.png, a-2.png, a-3.png …

        A name that was free is taken at once, by an empty file: no other process gets the same. Raises SaveError.
        """
        path = Path(path)
        count = 1
        name = path
        while not self.overwrite and not self._take(name):
            count += 1
            name = path.with_stem(f"{path.stem}-{count}")
        return name

    def _take(self, path: Path) -> bool:
        """Whether a name was free, for the sidecar too where there may be one."""
        if sidecar_path(path).exists():
            return False
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        except OSError as error:
            raise SaveError(f"{path}: cannot be saved: {(error.strerror or str(error)).lower()}") from error
        return True


def is_foreign(sidecar: Path, name: str) -> bool:
    """Whether the place of the sidecar of a picture of this name has a file that is not its to replace.

    That is no record, or that of another picture which is still there.
    """
    if not sidecar.exists():
        return False
    try:
        other = read(sidecar)["written"]["name"]
    except RecordError:
        return True
    return other != name and sidecar.with_name(Path(other).name).exists()
