"""Samplers that look back: what earlier calls predicted makes one call a step of second to fourth order.

Two equations are solved here, one for the eps that a model predicts and one for the clean latents:

    d(latents / alpha) = eps d(sigma / alpha)        d(latents / sigma) = clean d(alpha / sigma)

Earlier predictions are joined by a polynomial, which is integrated over the step.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ssd1b_jax.samplers.symbols import LATENTS, NOISE, OUTPUT, R1, R2, R3, Call, Calls, Level, Run, Symbol

# Of Adams and Bashforth for equal steps, the latest slope first.
ADAMS = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
GAUSS = np.polynomial.legendre.leggauss(12)  # points and weights
FEW_STEPS = 15  # below which diffusers' DEIS makes its last step of first order


def lms(run: Run) -> Calls:
    """Adams' and Bashforth's method of fourth order in sigma (Hairer, Norsett & Wanner, Solving ODEs I, III.5).

    For exploding latents. Orders rise from 1, counting from the start of the full run: steps that a
    strength skips count as taken with slope 0, as they do in diffusers, which throws the first steps
    of image to image off (the more steps, the less). With exact steps none are skipped.
    """
    sigmas = [now.sigma for now, _ in run.steps]
    for i, (now, to) in enumerate(run, run.first):
        slopes = np.stack([now.eps, R1, R2, R3])
        nodes = sorted(set(sigmas[max(0, i - 3) : i + 1]))  # levels fall: the latest is the least
        weights = integrate(nodes, now.sigma, to.sigma)
        yield Call(now, to, LATENTS + weights @ slopes[: len(nodes)], registers=tuple(slopes[:-1]))


def deis(run: Run) -> Calls:
    """eps as a line in log(sigma / alpha), through two calls: DEIS of order 2 (Zhang & Chen, 2204.13902).

    On Karras levels, which reach the least, its last step has no length, as in diffusers.
    """
    before = None
    for i, (now, to) in enumerate(run, run.first):
        slopes = np.stack([now.eps, R1])
        nodes = [now.ratio]
        if before and before.ratio > now.ratio and (i + 1 < len(run) or len(run) >= FEW_STEPS):
            nodes.append(before.ratio)
        weights = integrate(nodes, now.ratio, to.ratio, log=True)
        yield Call(now, to, to.alpha * (LATENTS / now.alpha + weights @ slopes[: len(nodes)]), registers=(now.eps,))
        before = now


def pndm(run: Run) -> Calls:
    """DDIM with the outputs of four calls: pseudo linear multistep (Liu et al., 2202.09778, Eq. 9 and 12).

    The first step takes two calls, like Heun's, in place of Runge and Kutta's four (skip_prk_steps).

    In diffusers' list of timesteps the second stands twice, and a strength below 1 cuts into it: the
    run starts one step early (with one step to skip, on time but measured from a step too high),
    and after its first step tells the model timesteps one step below those of its latents. That is
    kept here, for parity; with exact steps nothing is cut.
    """
    for i, (now, to) in enumerate(run):
        if i == 0:
            start, reached = now, to
            yield Call(now, to, to.latents(now.clean, now.eps), registers=(OUTPUT, LATENTS), trial=True)
        elif i == 1:
            if reached != now:  # diffusers measures from one stride above here
                start = run.at_timestep(now.timestep + (start.timestep - reached.timestep))
            first_output, latents = R1, R2
            eps = start.eps_of(latents, (first_output + OUTPUT) / 2)
            yield Call(now, now, now.latents(start.clean_of(latents, eps), eps), registers=(first_output,))
        else:
            weights = ADAMS[min(i, 4)]
            outputs = np.stack([OUTPUT, R1, R2, R3])
            eps = now.eps_of(LATENTS, weights @ outputs[: len(weights)])
            yield Call(now, to, to.latents(now.clean_of(LATENTS, eps), eps), registers=tuple(outputs[:-1]))


def dpmpp_2m(run: Run, noisy: bool = False) -> Calls:
    """Clean latents of the step's middle, from two calls: DPM-Solver++(2M) (Lu et al., 2211.01095, Algorithm 2).

    First order where there is no step to look back on, and into the level without noise. `noisy`
    is SDE-DPM-Solver++(2M) of the same paper: twice as far towards the clean latents, and fresh noise.
    """
    before = None
    for now, to in run:
        clean = now.clean
        if before and to.sigma > 0:
            clean = midway(now, to, (now, now.clean), (before, R1))
        latents = approach(now, to, LATENTS, clean, rate=2 if noisy else 1)
        if noisy:
            latents = latents + to.sigma * np.sqrt(1 - (to.ratio / now.ratio) ** 2) * NOISE
        yield Call(now, to, latents, registers=(now.clean,), draws=noisy)
        before = now


def dpmpp_2s(run: Run) -> Calls:
    """Steps in pairs, the second from the first's start: DPM-Solver++(2S) (Lu et al., 2211.01095, Algorithm 1).

    Pairs count from the start of the full run; a half left over, at either end, is of first order.
    """
    start = None
    for i, (now, to) in enumerate(run, run.first):
        if start and i % 2 and to.sigma > 0:
            clean = midway(start, to, (start, R2), (now, now.clean))
            yield Call(now, to, approach(start, to, R1, clean))
        else:
            yield Call(now, to, approach(now, to, LATENTS, now.clean), registers=(LATENTS, now.clean))
            start = now


def unipc(run: Run) -> Calls:
    """`dpmpp_2m`, each step made again once its end is predicted: UniPC-2 (Zhao et al., 2302.04867).

    UniP-2 with B2(h), which is DPM-Solver++(2M), and UniC-2: clean latents as a parabola in log SNR.
    """
    before = older = None
    for now, to in run:
        start, last, older_clean = R1, R2, R3
        latents, clean = LATENTS, now.clean
        if older and older.ratio > before.ratio > now.ratio:
            nodes = [1 / level.ratio for level in (now, before, older)]
            moved = integrate(nodes, nodes[1], nodes[0], log=True) @ [now.clean, last, older_clean]
            latents = now.sigma * (start / before.sigma + moved)
        elif before:
            latents = approach(before, now, start, (now.clean + last) / 2)
        if before and to.sigma > 0:
            clean = midway(now, to, (now, now.clean), (before, last))
        yield Call(now, to, approach(now, to, latents, clean), registers=(latents, now.clean, last))
        before, older = now, before


def approach(now: Level, to: Level, latents: Symbol, clean: Symbol, rate: int = 1) -> Symbol:
    """The latents at the level `to` if clean latents are `clean` all the way; exp(-rate h) of the rest remains."""
    rest = (to.ratio / now.ratio) ** rate
    return to.alpha * (rest * latents / now.alpha + (1 - rest) * clean)


def midway(start: Level, end: Level, a: tuple[Level, Symbol], b: tuple[Level, Symbol]) -> Symbol:
    """Clean latents in the middle of a step in log SNR, on the line through those of two calls."""
    (level, clean), (other_level, other_clean) = a, b
    if level.ratio == other_level.ratio:
        return clean
    share = ((start.log_snr + end.log_snr) / 2 - level.log_snr) / (other_level.log_snr - level.log_snr)
    return clean + share * (other_clean - clean)


def integrate(nodes: Sequence[float], start: float, end: float, log: bool = False) -> Float[np.ndarray, " nodes"]:
    """What values at the nodes weigh in the integral, from start to end, of the polynomial through them.

    The polynomial is in x, or in log x with `log`; Gauss and Legendre's points find its integral to rounding.
    """
    if log:
        nodes, start, end = np.log(nodes), np.log(start), np.log(end)
    points, weights = GAUSS
    x = (start + end) / 2 + (end - start) / 2 * points
    weights = (end - start) / 2 * weights * (np.exp(x) if log else 1)
    lagrange = [[(x - b) / (a - b) for b in nodes if b != a] for a in nodes]
    return np.array([np.sum(weights * np.prod(factors, axis=0)) for factors in lagrange])
