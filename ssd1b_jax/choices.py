"""What people write for settings, where both code and command line need it: without JAX, so `--help` needn't wait."""

DTYPES = ("float32", "bfloat16", "float16")  # of weights and of arithmetic
NOISES = ("jax", "torch", "nv")  # whose random numbers a seed stands for, see `noise`

# Settings with another name than their field in Request.
SHORT = {
    "num_inference_steps": "steps",
    "crops_coords_top_left": "crop",
    "negative_crops_coords_top_left": "negative_crop",
    "loras": "lora",
}
