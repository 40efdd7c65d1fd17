"""The HTTP face: one queue behind every client that people already have. Its front imports no JAX."""
