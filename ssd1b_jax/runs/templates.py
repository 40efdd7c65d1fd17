"""Prompts with choices, {a|b}, and wildcards, __name__: what each picture's prompt is, chosen by its seed.

The notation, and the files of wildcards, are those of the dynamicprompts package.
"""

import dataclasses
import hashlib
import logging
import re
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from ssd1b_jax.errors import RequestError
from ssd1b_jax.request import PROMPTS, Request

_WILDCARD = re.compile(r"__[\w*/-]+?__")


class Templates:
    """The prompts of a run as templates; `folder` has the files of wildcards, None for choices alone.

    Raises RequestError where the folder or the package is missing.
    """

    def __init__(self, folder: Path | None = None):
        if find_spec("dynamicprompts") is None:
            raise RequestError("wildcards need dynamicprompts: run pip install 'ssd1b_jax[wildcards]'")
        if folder is not None and not folder.is_dir():
            raise RequestError(f"wildcards must be a folder of files, got {str(folder)!r}")
        self.folder = folder

    @cached_property
    def sha256(self) -> str:
        """Of the names and the contents of all files of wildcards."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")) if self.folder else ():
            if path.is_file():
                digest.update(f"{path.relative_to(self.folder).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def expand(self, request: Request) -> Request:
        """A resolved request with its prompts as its seed chooses. Raises RequestError."""
        texts = {name: text for name in PROMPTS if (text := getattr(request, name))}
        return dataclasses.replace(request, **{name: self._expand(name, texts[name], request.seed) for name in texts})

    def _expand(self, name: str, template: str, seed: int) -> str:
        if not (_WILDCARD.search(template) or {"{", "}"} & {*template}):
            return template
        if "#" in template:
            raise RequestError(f"{name} has a #, which begins a comment in a template: write another character")

        from dynamicprompts.generators import RandomPromptGenerator
        from pyparsing import ParseBaseException

        try:
            [text] = RandomPromptGenerator(self._wildcards, seed=seed).generate(template, 1)
        except RecursionError:
            raise RequestError(
                f"{name} is a template that is nested too deep, or a wildcard that holds itself"
            ) from None
        except (ParseBaseException, ValueError, KeyError) as error:
            raise RequestError(f"{name} is no template that dynamicprompts can read, {template!r}: {error}") from None
        if missing := _WILDCARD.search(text):
            place = "there is no folder of wildcards" if self.folder is None else f"no file in {self.folder} is of it"
            raise RequestError(f"{name} has a wildcard, {missing[0]}, but {place}")
        return re.sub(r"\s+", " ", text).strip()

    @cached_property
    def _wildcards(self):
        from dynamicprompts.wildcards import WildcardManager

        logging.getLogger("dynamicprompts").setLevel(logging.ERROR)  # it warns of what is an error here
        return WildcardManager(self.folder)
