"""PyTorch weights to a model folder, and back: `ssd1b convert SOURCE TARGET`. Needs neither torch nor diffusers."""
