"""Types of values. Choices with a few fixed spellings are types for checkers, and tuples for everyone else."""

from typing import Literal, TypeVar, get_args, no_type_check

Dtype = Literal["float32", "bfloat16", "float16"]
Noise = Literal["jax", "torch", "nv"]
ResizeMode = Literal["crop", "fit", "pad", "stretch"]
Spacing = Literal["leading", "trailing", "linspace"]
Format = Literal["png", "jpeg", "webp"]
Pair = tuple[float, float]
Size = tuple[int, int]  # height, width, or top, left

DTYPES: tuple[Dtype, ...] = get_args(Dtype)  # of weights and of arithmetic
NOISES: tuple[Noise, ...] = get_args(Noise)  # whose random numbers a seed stands for, see `engine.noise`
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)  # of inference timesteps over the trained ones
FORMATS: tuple[Format, ...] = get_args(Format)  # of written files

_Class = TypeVar("_Class", bound=type)


def unchecked(cls: _Class) -> _Class:
    """The class as it is. Its fields' types are for type checkers alone: rows check its values, in sentences."""
    return no_type_check(cls)
