"""Content credentials: a picture's file signed by whoever runs the server, as C2PA has it.

The manifest says that a model made the picture, from which input, and by which program. Thumbnails are left out: the
input is named by its hash alone.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssd1b_jax import __version__, images
from ssd1b_jax.errors import ImageError, RequestError, first_line
from ssd1b_jax.records.label import FROM_PICTURE, SOURCE_TYPE
from ssd1b_jax.request import Request

ALGORITHMS = (b"es256", b"es384", b"es512", b"ps256", b"ed25519")
PROGRAM = {"name": "ssd1b_jax", "version": __version__}
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
NO_NETWORK = {"verify_after_sign": False, "remote_manifest_fetch": False}  # whatever address a caller's picture has
SETTINGS = {"builder": {"thumbnail": {"enabled": False}}, "verify": NO_NETWORK}


@dataclass(frozen=True)
class Credentials:
    """A certificate chain and its key, both in PEM, and the algorithm that the key signs with."""

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: bytes

    def sign(self, data: bytes, media_type: str, request: Request) -> bytes:
        """The file with a manifest of how it was made. Raises ImageError."""
        import c2pa

        # Without an address for time stamps: nothing is asked of the network.
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(self.algorithm, self.chain, self.key, None))
        manifest = {"claim_generator_info": [PROGRAM], "format": media_type, "assertions": []}
        try:
            with c2pa.Context(c2pa.Settings.from_dict(SETTINGS)) as context, c2pa.Builder(manifest, context) as builder:
                _describe(builder, request)
                signed = io.BytesIO()
                builder.sign(signer, media_type, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise ImageError(f"the picture can't be signed: {error}") from error
        return signed.getvalue()


def _describe(builder: Any, request: Request) -> None:
    """Say what was done: made from nothing but words, or from a picture that is the parent."""
    import c2pa

    agent = {"softwareAgent": PROGRAM}
    if request.image is None:
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
        return
    builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
    media_type, data = _parent(request.image)
    builder.add_ingredient({"title": "input", "relationship": "parentOf"}, media_type, io.BytesIO(data))
    source = f"{SOURCE_TYPE}{FROM_PICTURE}"
    builder.add_action(json.dumps({"action": "c2pa.edited", "digitalSourceType": source, **agent}))


def _parent(image: Any) -> tuple[str, bytes]:
    """An input as a file of a kind that C2PA knows: as it was sent where it can be."""
    if isinstance(image, bytes):
        for start, media_type in SIGNATURES.items():
            if image.startswith(start):
                return media_type, image
    return "image/png", images.encode(images.load(image).pixels, ".png")


def read(certificate: str | Path, key: str | Path) -> Credentials:
    """The credentials of two PEM files, tried on a picture of one pixel. Raises RequestError."""
    try:
        import c2pa
    except ImportError:
        raise RequestError("sign needs c2pa-python: run pip install 'ssd1b_jax[c2pa]'") from None
    chain, secret = (_file(path) for path in (certificate, key))
    pixel = images.encode(np.zeros((1, 1, 3), np.uint8), ".png")
    reasons = []
    for algorithm in ALGORITHMS:
        credentials = Credentials(chain, secret, algorithm)
        try:
            credentials.sign(pixel, "image/png", Request(prompt="", image=None))
            return credentials
        except (ImageError, c2pa.C2paError) as error:
            reasons.append(first_line(error))
    raise RequestError(f"sign: {certificate} and {key} can't sign pictures: {reasons[0]}")


def _file(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"sign: {path} can't be read: {(error.strerror or str(error)).lower()}") from None
