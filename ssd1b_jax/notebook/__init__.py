"""What the notebooks use: pictures in a labelled row, how far loading is, the page, and files from elsewhere."""

from ssd1b_jax.notebook.page import Page, page
from ssd1b_jax.notebook.places import drive, upload
from ssd1b_jax.notebook.showing import Compilations, compilations, progress, row

__all__ = ["Compilations", "Page", "compilations", "drive", "page", "progress", "row", "upload"]
