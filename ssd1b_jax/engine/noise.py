"""Seeds to noise: every random number that a picture depends on.

One picture has one source. It gives the noise of the VAE posterior, then the starting noise, then
that of each sampler row that draws any, all standard normal, float32, (height, width, channels).

| kind    | draws what                                  | made                                    |
|---------|---------------------------------------------|-----------------------------------------|
| `jax`   | threefry, one fold of the key per use       | on the host, rows inside the jit loop   |
| `torch` | `torch.Generator("cpu").manual_seed(seed)`  | on the host                             |
| `nv`    | CUDA's Philox as A1111's RNG "NV" has it    | on the host                             |

The host kinds use integers and the IEEE operations + - * / sqrt alone, so a seed gives the same
bytes on every machine. They are sequences: ask in the order above, only for what is used.
"""

import math
import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int, UInt32, UInt64

from ssd1b_jax.engine import devices
from ssd1b_jax.errors import RequestError
from ssd1b_jax.settings import NOISES

Shape = tuple[int, int, int]
Noise = Float32[Array | np.ndarray, "height width channels"]

POSTERIOR, START, FIRST_ROW = 0, 1, 2  # what noise is for; row i of the sampler is FIRST_ROW + i


class NoiseSource:
    """One picture's noise; `shape` is (height, width, channels) of its latents."""

    def posterior(self, shape: Shape) -> Noise:
        return self._draw(POSTERIOR, shape)

    def start(self, shape: Shape) -> Noise:
        return self._draw(START, shape)

    def row(self, row: int, shape: Shape) -> Noise:
        return self._draw(FIRST_ROW + row, shape)

    def _draw(self, use: int, shape: Shape) -> Noise:
        raise NotImplementedError


def source(kind: str, seed: SupportsIndex) -> NoiseSource:
    """The noise of one picture. Raises RequestError for an unknown kind or a seed out of range."""
    if kind not in NOISES:
        raise RequestError(f"noise must be one of {', '.join(NOISES)}, got {kind!r}")
    return {"jax": JaxNoise, "torch": TorchNoise, "nv": NvNoise}[kind](seed)


def check_seed(seed: SupportsIndex) -> int:
    """The seed as a plain int. Raises RequestError outside [0, 2**64), TypeError for no integer."""
    seed = operator.index(seed)
    if not 0 <= seed < 2**64:
        raise RequestError(f"seed must be in [0, 2**64), got {seed}")
    return seed


def slerp(first: Noise, second: Noise, fraction: float) -> Noise:
    """Noise turned from `first` towards `second`, on the great circle through them, as A1111's variation seeds do.

    There, and so here, every column of every channel is turned on its own; where the two hardly
    differ they are mixed linearly.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    cosine = (first / np.linalg.norm(first, axis=0) * (second / np.linalg.norm(second, axis=0))).sum(axis=0)
    if cosine.mean() > 0.9995:
        mixed = (1 - fraction) * first + fraction * second
    else:
        angle = np.arccos(cosine.clip(-1, 1))
        mixed = (np.sin((1 - fraction) * angle) * first + np.sin(fraction * angle) * second) / np.sin(angle)
    return mixed.astype(np.float32)


# jax: a pure function of the seed and of what the noise is for


def key_data(seed: SupportsIndex) -> UInt32[np.ndarray, "2"]:
    """Threefry key words, high word first. `jax.random.key` would drop the high one."""
    seed = check_seed(seed)
    return np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)


def row_noise(key: UInt32[Array | np.ndarray, "2"], row: int | Int[Array, ""], shape: Shape) -> Noise:
    """Noise of a sampler row, for use under jit: `key` (of `key_data`) and `row` may be traced."""
    return _fold_normal(key, FIRST_ROW + row, shape)


def _fold_normal(key: UInt32[Array | np.ndarray, "2"], use: int | Int[Array, ""], shape: Shape) -> Noise:
    key = jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    return jax.random.normal(jax.random.fold_in(key, use), shape, jnp.float32)


_jit_fold_normal = jax.jit(_fold_normal, static_argnames="shape")


class JaxNoise(NoiseSource):
    """Noise kind `jax`: all 64 bits of the seed count, and draws may be made in any order."""

    def __init__(self, seed: SupportsIndex):
        self.key = key_data(seed)

    def _draw(self, use: int, shape: Shape) -> Noise:
        # On the host's own processor, or the draw would wait for what an accelerator is busy with.
        return _jit_fold_normal(jax.device_put(self.key, devices.host()), use, shape)


# torch and nv: one generator, read from front to back


class _Sequence(NoiseSource):
    """A host generator: draws are (channels, height, width) as its users have them, handed out transposed."""

    def randn(self, count: int) -> Float32[np.ndarray, " count"]:
        """The generator's next `count` normal values."""
        raise NotImplementedError

    def _draw(self, use: int, shape: Shape) -> Noise:
        height, width, channels = shape
        values = self.randn(math.prod(shape)).reshape(channels, height, width)
        return np.ascontiguousarray(values.transpose(1, 2, 0))


class TorchNoise(_Sequence):
    """Noise kind `torch`: `torch.randn` on a CPU, bit for bit as x86-64 with AVX2 computes it.

    As in torch, only the low 32 bits of the seed count.
    """

    def __init__(self, seed: SupportsIndex):
        self._mt19937 = np.random.RandomState(check_seed(seed) & 0xFFFFFFFF)
        self._spare = np.empty(0)

    def randn(self, count: int) -> Float32[np.ndarray, " count"]:
        if count < 16:
            return self._randn_double(count)
        uniform = self._uniform24(count)
        values = _box_muller_16(uniform[: count // 16 * 16])
        if count % 16:  # torch has drawn uniforms for the rest too, but makes the last 16 values from new ones
            values = np.concatenate([values[: count - 16], _box_muller_16(self._uniform24(16))])
        return values

    def _bits(self, count: int) -> UInt32[np.ndarray, " count"]:
        return self._mt19937.randint(0, 2**32, count, np.uint32)

    def _uniform24(self, count: int) -> Float32[np.ndarray, " count"]:
        return (self._bits(count) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _randn_double(self, count: int) -> Float32[np.ndarray, " count"]:
        """Fewer than 16 values: pairs in double precision; an odd one is kept for the next call."""
        pairs = (count - len(self._spare) + 1) // 2
        words = self._bits(4 * pairs).astype(np.uint64).reshape(pairs, 2, 2)
        uniform = ((words[..., 0] << 32 | words[..., 1]) & (2**53 - 1)) * 2.0**-53
        radius = np.sqrt(-2 * _log(1 - uniform[:, 1]))
        sine, cosine = _sincos(2 * np.pi * uniform[:, 0])
        values = np.concatenate([self._spare, np.stack([radius * cosine, radius * sine], axis=1).ravel()])
        self._spare = values[count:]
        return values[:count].astype(np.float32)


class NvNoise(_Sequence):
    """Noise kind `nv`: Philox4x32-10 (Salmon et al., 2011), one counter offset per draw.

    Equal to A1111's CPU rendering of it to a float32 rounding, and to CUDA's to about 1e-6.
    """

    def __init__(self, seed: SupportsIndex):
        self._seed = check_seed(seed)
        self._offset = 0

    def randn(self, count: int) -> Float32[np.ndarray, " count"]:
        counter = np.zeros((4, count), np.uint32)
        counter[0], counter[2] = self._offset, np.arange(count)
        self._offset += 1
        first, second, _, _ = _philox(counter, self._seed)
        radius = np.sqrt(-2 * _log((first + 0.5) * 2.0**-32))
        sine, _ = _sincos((second + 0.5) * _CURAND_2PI)
        return (radius * sine).astype(np.float32)


_CURAND_2PI = float(np.float32(2 * np.pi * 2.0**-32))  # a float32 constant there too


def _philox(counter: UInt32[np.ndarray, "4 n"], key: int) -> UInt32[np.ndarray, "4 n"]:
    """Ten rounds of Philox4x32 under a 64-bit key."""
    a, b, c, d = counter
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = _high(right) ^ b ^ np.uint32(low), right.astype(np.uint32)
        c, d = _high(left) ^ d ^ np.uint32(high), left.astype(np.uint32)
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d])


def _high(product: UInt64[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    return (product >> np.uint64(32)).astype(np.uint32)


# Logarithm, sine and cosine from elementary operations: a library's differ in their last bits.
# In double precision by their series, to about 1e-16.

Doubles = Float64[np.ndarray, "..."]
_LOG_SERIES = [1 / (2 * k + 1) for k in reversed(range(10))]
_SIN_SERIES = [(-1) ** k / math.factorial(2 * k + 1) for k in reversed(range(8))]
_COS_SERIES = [(-1) ** k / math.factorial(2 * k) for k in reversed(range(9))]


def _log(x: Doubles) -> Doubles:
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    s = (mantissa - 1) / (mantissa + 1)  # log(mantissa) = 2 artanh(s)
    return exponent * math.log(2) + 2 * s * np.polyval(_LOG_SERIES, s * s)


def _sincos(x: Doubles) -> tuple[Doubles, Doubles]:
    """Sine and cosine of x in [0, 2 pi]."""
    quarter = np.rint(x * (2 / np.pi))
    r = x - quarter * (np.pi / 2)
    sine, cosine = r * np.polyval(_SIN_SERIES, r * r), np.polyval(_COS_SERIES, r * r)
    return _rotate(sine, cosine, quarter.astype(np.int32))


def _rotate(sine: np.ndarray, cosine: np.ndarray, quarter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of an angle, from those of what is left of it after quarter turns."""
    odd = quarter & 1 == 1
    sine, cosine = np.where(odd, cosine, sine), np.where(odd, sine, cosine)
    return np.where(quarter & 2, -sine, sine), np.where((quarter + 1) & 2, -cosine, cosine)


# In single precision as torch's AVX2 kernel has them: Moshier's Cephes `logf` and `sincosf`,
# with each multiply and add that its compiler fused.

_F = np.float32
_LOGF = [
    _F(c)
    for c in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
]  # fmt: skip
_SINF = [_F(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]
_COSF = [_F(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]
_QUARTER_PI = [_F(c) for c in (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)]  # summing to it
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
Values = Float32[np.ndarray, "..."]


def _fma(x: Values, y: Values | np.float32, z: Values | np.float32) -> Values:
    """x * y + z, rounded once.

    The product is exact in float64; the sum is rounded there first, which has been seen to change
    no bit for any of the 2**24 uniforms that these functions are given.
    """
    return (x.astype(np.float64) * y + z).astype(np.float32)


def _horner(coefficients: list[np.float32], x: Values) -> Values:
    value = np.broadcast_to(coefficients[0], x.shape)
    for coefficient in coefficients[1:]:
        value = _fma(value, x, coefficient)
    return value


def _box_muller_16(uniform: Values) -> Values:
    """Blocks of 16 uniforms, 8 radii and 8 angles, to 8 cosines and 8 sines (Box and Muller, 1958)."""
    blocks = uniform.reshape(-1, 2, 8)
    radius = np.sqrt(_F(-2) * _logf(_F(1) - blocks[:, 0]))
    sine, cosine = _sincosf(_F(2 * np.pi) * blocks[:, 1])
    return np.stack([radius * cosine, radius * sine], axis=1).ravel() + _F(0)  # adding the mean clears -0


def _logf(x: Values) -> Values:
    mantissa, exponent = np.frexp(x)
    low = mantissa < _F(math.sqrt(0.5))
    x = np.where(low, mantissa + mantissa, mantissa) - _F(1)
    exponent = (exponent - low).astype(np.float32)
    square = x * x
    value = _fma(_horner(_LOGF, x) * x, square, exponent * _LN2_LOW)
    value = x + (value - square * _F(0.5))
    return _fma(exponent, _LN2_HIGH, value)


def _sincosf(x: Values) -> tuple[Values, Values]:
    octant = ((x * _F(4 / np.pi)).astype(np.int32) + 1) & ~1  # the nearest even one
    for part in _QUARTER_PI:
        x = _fma(octant.astype(np.float32), -part, x)
    square = x * x
    sine = _fma(_horner(_SINF, square) * square, x, x)
    cosine = _fma(_horner(_COSF, square) * square, square, square * _F(-0.5)) + _F(1)
    return _rotate(sine, cosine, octant >> 1)
