"""The label in a picture's file: a program made it, the program's name, and the kind of input.

IPTC's photo metadata 2025.1, as XMP: the digital source type, and the properties of pictures by generative AI.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
FROM_PICTURE, FROM_TEXT = "compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia"
MAX_PROMPT = 2000  # characters; the record has all of it
_CONTROLS = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML has none of them


def label(record: Mapping[str, Any]) -> dict[str, str]:
    """The label of a picture with this record, by the names of IPTC."""
    request, model = record["request"], record["model"]
    made_from = FROM_PICTURE if request["image"] else FROM_TEXT
    prompt = request["prompt"]
    properties = {
        "DigitalSourceType": SOURCE_TYPE + made_from,
        "AISystemUsed": f"ssd1b_jax, model {Path(model['name']).name}",
        "AISystemVersionUsed": record["versions"]["ssd1b_jax"],
        "AIPromptInformation": prompt if len(prompt) <= MAX_PROMPT else f"{prompt[:MAX_PROMPT]}…",
    }
    return {name: _CONTROLS.sub(" ", value) for name, value in properties.items() if value}
