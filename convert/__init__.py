"""PyTorch weights to a model folder, and back: `python -m convert SOURCE TARGET`. Needs neither torch nor diffusers."""
