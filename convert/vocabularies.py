"""Tokenizer folders, checked before they are copied: they must parse and fit the text encoders."""

import json
from pathlib import Path

from ssd1b_jax.checkpoints.model_folder import TOKENIZERS, tokenizer_files
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import FileError, WeightsError
from ssd1b_jax.files import foreign, read_json
from ssd1b_jax.prompts.tokenizer import END, PromptTokenizer

LIMIT = 16 << 20  # bytes of one file; CLIP's largest has 4 million


def check(folder: Path, config: ModelConfig) -> None:
    """Raise WeightsError, with the file's name, for tokenizers that the model can't work with; ModelError for none."""
    for name, part in zip(TOKENIZERS, ("text_encoder", "text_encoder_2"), strict=True):
        try:
            _check_one(folder / name, getattr(config, part))
        except FileError as error:
            raise WeightsError(str(error)) from None


def _check_one(folder: Path, encoder) -> None:
    for path in tokenizer_files(folder):
        _check_file(path)
    try:
        tokenizer = PromptTokenizer.from_folder(folder, length=encoder.max_position_embeddings)
        ids = tokenizer("a photo of 2 cats!").ids
        words = tokenizer.vocabulary()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library raises plain Exceptions, and panics
        raise FileError(f"{folder} holds no tokenizer that can be used: {str(error)[:200]}") from None
    highest = max(words.values())
    if highest >= encoder.vocab_size or max(ids) >= encoder.vocab_size:
        raise FileError(
            f"{folder} has ids up to {highest}, the text encoder's vocabulary ends before {encoder.vocab_size}"
        )
    end = encoder.eos_token_id if encoder.eos_token_id != 2 else highest  # 2: the encoder looks for the highest
    if words[END] != end:
        raise FileError(f"{folder} gives {END} the id {words[END]}, the text encoder looks for {end}")


def _check_file(path: Path) -> None:
    if path.suffix == ".json":
        data = read_json(path, LIMIT)
        if not isinstance(data, dict):
            raise FileError(f"{path} must hold a JSON object")
        if path.name == "vocab.json":
            _check_words(path, data)
        return
    with open(path, "rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise FileError(f"{path} is larger than {LIMIT} bytes: not what belongs there")
    if kind := foreign(data[:512]):
        raise FileError(f"{path} is {kind}")
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no text: {error}") from None
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#version") and len(line.split()) != 2:
            raise FileError(f"{path}: line {number} must hold two pieces of a word, got {json.dumps(line[:80])}")


def _check_words(path: Path, words: dict) -> None:
    bad = next((word for word, number in words.items() if type(number) is not int or not 0 <= number < 1 << 20), None)
    if bad is not None:
        raise FileError(f"{path}: {json.dumps(bad[:80])} must have an id from 0 up")
    if len({*words.values()}) < len(words):
        raise FileError(f"{path} gives one id to two words")
