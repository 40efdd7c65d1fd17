"""Comparing networks: how they are compiled for that, and how close two arrays are."""

import jax
import numpy as np

# Small networks run once: most of the time would be compilation.
QUICK_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
if jax.__version_info__ < (0, 11):  # later ones know no such flag, and end the process
    QUICK_TO_COMPILE["xla_cpu_use_fusion_emitters"] = False


def error(got, expected) -> float:
    """The largest difference, as a share of the largest expected value."""
    assert got.shape == expected.shape
    return np.abs(np.asarray(got) - expected).max() / np.abs(expected).max()


def assert_close(got, expected, tolerance: float) -> None:
    assert error(got, expected) <= tolerance
