"""PyTorch weights to a model folder: `python -m convert SOURCE TARGET`. Needs neither torch nor diffusers."""
