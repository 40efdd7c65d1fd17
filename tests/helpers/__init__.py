"""What several test files share: small models and checkpoints, the PyTorch reference, requests, and comparisons."""
