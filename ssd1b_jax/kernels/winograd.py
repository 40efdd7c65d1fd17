"""3x3 convolutions in fewer multiplications (Winograd 1980; Lavin & Gray, 1509.09308), as plain matrix products."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssd1b_jax.kernels.tiling import tile_count

PIXELS = 2**26  # transformed numbers at a time, at most: a quarter of a gigabyte in float32

Matrix = tuple[tuple[float | int, ...], ...]


@dataclass(frozen=True)
class Winograd:
    """A 3x3 convolution with zero padding, from small overlapping tiles of the image.

    In one dimension, the outputs for a tile d and a filter g are `outputs @ ((inputs @ d) * (weights @ g))`
    (Lavin & Gray, equation 6). Two dimensions apply this along both. Each output is one pixel of the
    result, and tiles begin `step` pixels apart. Each elementwise product in two dimensions is a product of
    the pixels' channels with a matrix.
    """

    step: int
    inputs: Matrix
    weights: Matrix
    outputs: Matrix

    def pack(self, kernel: Float[Array, "3 3 channels out"]) -> list[Float[Array, "channels out"]]:
        """The matrices that `__call__` multiplies by. They are separate: XLA:CPU copies a slice before use."""
        return _packed(self, kernel)

    def unpack(self, matrices: Sequence[Float[Array, "channels out"]]) -> Float[Array, "3 3 channels out"]:
        """The kernel that was packed, to rounding. Only for algorithms whose weights are no more than a kernel's."""
        inverse = np.linalg.inv(np.array(self.weights, np.float64))
        transform = np.kron(inverse, inverse).astype(matrices[0].dtype)
        kernel = jnp.tensordot(transform, jnp.stack(matrices), 1)
        return kernel.reshape(3, 3, *matrices[0].shape)

    def __call__(
        self, x: Float[Array, "batch height width channels"], matrices: Sequence[Float[Array, "channels out"]]
    ) -> Float[Array, "batch out_height out_width out"]:
        batch, height, width, _ = x.shape
        step, grown = self.step, len(self.outputs) // self.step
        rows, columns = -(-height // step), -(-width // step)
        x = jnp.pad(x, ((0, 0), (1, 1 + rows * step - height), (1, 1 + columns * step - width), (0, 0)))
        count = tile_count(rows, len(matrices) * batch * rows * columns * max(matrices[0].shape), PIXELS)
        if count == 1:
            whole = self._tiles(x, matrices)
        else:
            band = rows // count * step
            bands = jax.lax.map(
                lambda top: self._tiles(jax.lax.dynamic_slice_in_dim(x, top, band + 2, axis=1), matrices),
                band * jnp.arange(count),
            )
            whole = jnp.moveaxis(bands, 0, 1).reshape(batch, grown * rows * step, grown * columns * step, -1)
        return whole[:, : grown * height, : grown * width]

    def _tiles(
        self, x: Float[Array, "batch height width channels"], matrices: Sequence[Float[Array, "channels out"]]
    ) -> Float[Array, "batch out_height out_width out"]:
        """The convolution of an image of whole tiles with a border of one pixel, which the result leaves out."""
        batch, height, width, channels = x.shape
        span, step, side = len(self.inputs[0]), self.step, len(self.inputs)
        rows, columns = (height - 2) // step, (width - 2) // step
        strips = [x[:, i : i + step * (rows - 1) + 1 : step] for i in range(span)]
        tiles = []
        for strip in (_combine(row, strips) for row in self.inputs):
            pixels = [strip[:, :, j : j + step * (columns - 1) + 1 : step] for j in range(span)]
            tiles += [_combine(row, pixels).reshape(-1, channels) for row in self.inputs]
        products = [tile @ matrix for tile, matrix in zip(tiles, matrices, strict=True)]
        products = [product.reshape(batch, rows, columns, -1) for product in products]
        lines = [[_combine(row, products[j::side]) for j in range(side)] for row in self.outputs]
        spread = [jnp.stack([_combine(row, line) for row in self.outputs], axis=3) for line in lines]
        out_side = len(self.outputs)
        return jnp.stack(spread, axis=2).reshape(batch, out_side * rows, out_side * columns, -1)


def _by_points(*points: Fraction | int) -> Winograd:
    """F(m, 3) for m = len(points) - 1: polynomials multiplied by their values at these points and at infinity.

    That is Toom and Cook's algorithm, transposed (Blahut, Fast Algorithms for Signal Processing, 5.2).
    """
    step = len(points) - 1
    inputs, weights = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        inputs.append((*_polynomial(others), 0))
        weights.append([Fraction(point) ** power / scale for power in range(3)])
    inputs.append(_polynomial(points))
    weights.append((0, 0, 1))
    outputs = [[*(Fraction(point) ** power for point in points), power == step - 1] for power in range(step)]
    return Winograd(step, *(tuple(tuple(map(float, row)) for row in rows) for rows in (inputs, weights, outputs)))


def _polynomial(roots: Sequence[Fraction | int]) -> tuple[Fraction | int, ...]:
    """Coefficients of the polynomial with these roots, the constant first, the last 1."""
    coefficients = [1]
    for root in roots:
        lower, same = [0, *coefficients], [*coefficients, 0]
        coefficients = [a - root * b for a, b in zip(lower, same, strict=True)]
    return tuple(coefficients)


# F(2x2, 3x3): sixteen products for four pixels, that have 36 by definition. Its error is 1.5 times XLA's direct one's.
SMALL = _by_points(0, 1, -1)
# F(4x4, 3x3): 36 for 144, in weights four times the kernel's size. With these points its largest error is about six
# times that of XLA's direct convolution, and 1.5 times PyTorch's; with 0, 1, -1, 2 and -2, as it is often seen, four
# times that.
LARGE = _by_points(0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))
# SMALL for an image whose every pixel is doubled both ways. A tile is then (a, b, b, c), one of its products always
# zero, and another of 2b and half a sum: nine products for four pixels, in weights no larger than the kernel.
DOUBLED = Winograd(
    step=1,
    inputs=((1, -1, 0), (0, 1, 0), (0, 1, -1)),
    weights=((1, 0, 0), (1, 1, 1), (0, 0, 1)),
    outputs=((1, 1, 0), (0, 1, -1)),
)


@partial(jax.jit, static_argnums=0)
def _packed(algorithm: Winograd, kernel):
    transform = np.kron(algorithm.weights, algorithm.weights).astype(kernel.dtype)
    return list(jnp.tensordot(transform, kernel.reshape(9, *kernel.shape[2:]), 1))


def _combine(factors: Sequence[float | int], terms: Sequence[Array]) -> Array:
    """The sum of factors times terms, with no more multiplications than that needs."""
    total = None
    for factor, term in sorted(zip(factors, terms, strict=True), key=lambda pair: -pair[0]):
        if factor and total is None:
            total = term if factor == 1 else factor * term
        elif factor:
            scaled = term if abs(factor) == 1 else abs(factor) * term
            total = total + scaled if factor > 0 else total - scaled
    return total
