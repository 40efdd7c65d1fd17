"""Multistep samplers: earlier predictions raise one call a step to second, third or fourth order.

They solve one of two equations, for the predicted eps or for the predicted clean latents (`denoised`):

    d(latents / alpha) = eps d(sigma / alpha)        d(latents / sigma) = denoised d(alpha / sigma)

A polynomial joins the last predictions, and its integral over the step is the update.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ssd1b_jax.samplers.symbols import LATENTS, NOISE, OUTPUT, R1, R2, R3, Call, Calls, Level, Run, Symbol

# Adams-Bashforth weights for equal steps, by order, the latest slope first.
ADAMS = {
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}
GAUSS = np.polynomial.legendre.leggauss(12)  # points and weights
FEW_STEPS = 15  # in fewer steps, diffusers' DEIS ends with a step of first order


def lms(run: Run) -> Calls:
    """Adams-Bashforth of fourth order in sigma (Hairer, Norsett & Wanner, Solving ODEs I, III.5).

    For exploding latents. The order rises from 1. Unless the grid restarts the run, the steps that a strength skips
    count as taken with slope 0, as in diffusers: that throws off the first steps of image to image, less so the
    more steps there are. With exact steps none are skipped.
    """
    sigmas = [now.sigma for now, _ in run.steps]
    for i, (now, to) in enumerate(run, run.first):
        slopes = np.stack([now.eps, R1, R2, R3])
        nodes = sorted(set(sigmas[max(0, i - 3) : i + 1]))  # levels fall, so the latest comes first
        weights = integrate(nodes, now.sigma, to.sigma)
        yield Call(now, to, LATENTS + weights @ slopes[: len(nodes)], registers=tuple(slopes[:-1]))


def deis(run: Run) -> Calls:
    """DEIS of order 2 (Zhang & Chen, 2204.13902): eps is a line in log(sigma / alpha) through two calls.

    Karras levels reach the lowest trained one, so there the last step has no length, as in diffusers.
    """
    before = None
    for i, (now, to) in enumerate(run, run.first):
        slopes = np.stack([now.eps, R1])
        nodes = [now.ratio]
        if before and before.ratio > now.ratio and (i + 1 < len(run) or len(run) >= FEW_STEPS):
            nodes.append(before.ratio)
        weights = integrate(nodes, now.ratio, to.ratio, log=True)
        latents = to.alpha * (LATENTS / now.alpha + weights @ slopes[: len(nodes)])
        yield Call(now, to, latents, registers=(now.eps,))
        before = now


def pndm(run: Run) -> Calls:
    """Pseudo linear multistep (Liu et al., 2202.09778, Eq. 9 and 12): DDIM with the outputs of four calls.

    The first step takes two calls, like Heun's, in place of Runge-Kutta's four (skip_prk_steps).

    diffusers lists the second timestep twice, and a strength below 1 cuts into that list. So, unless the grid restarts
    the run, it starts one step early; with one step to skip it starts on time, but measures from one step too high,
    and the model is told timesteps one step below those of its latents. With exact steps nothing is cut.
    """
    for i, (now, to) in enumerate(run):
        if i == 0:
            start, reached = now, to
            yield Call(now, to, to.latents(now.denoised, now.eps), registers=(OUTPUT, LATENTS), trial=True)
        elif i == 1:
            if reached != now:  # diffusers measures from one stride above here
                start = run.at_timestep(now.timestep + (start.timestep - reached.timestep))
            first_output, latents = R1, R2
            eps = start.eps_of(latents, (first_output + OUTPUT) / 2)
            yield Call(now, now, now.latents(start.denoised_of(latents, eps), eps), registers=(first_output,))
        else:
            weights = ADAMS[min(i, 4)]
            outputs = np.stack([OUTPUT, R1, R2, R3])
            eps = now.eps_of(LATENTS, weights @ outputs[: len(weights)])
            yield Call(now, to, to.latents(now.denoised_of(LATENTS, eps), eps), registers=tuple(outputs[:-1]))


def dpmpp_2m(run: Run, noisy: bool = False) -> Calls:
    """DPM-Solver++(2M) (Lu et al., 2211.01095, Algorithm 2): two calls give the step's middle.

    The first step, and the step to the level without noise, are of first order. `noisy` is the paper's
    SDE-DPM-Solver++(2M): it goes twice as far towards the clean latents and adds fresh noise.
    """
    before = None
    for now, to in run:
        denoised = now.denoised
        if before and to.sigma > 0:
            denoised = midway(now, to, (now, now.denoised), (before, R1))
        latents = approach(now, to, LATENTS, denoised, rate=2 if noisy else 1)
        if noisy:
            kept = (to.ratio / now.ratio) ** 2
            latents = latents + to.sigma * np.sqrt(1 - kept) * NOISE
        yield Call(now, to, latents, registers=(now.denoised,), draws=noisy)
        before = now


def dpmpp_2s(run: Run) -> Calls:
    """DPM-Solver++(2S) (Lu et al., 2211.01095, Algorithm 1): steps in pairs, both from the first's start.

    Pairs are counted from the start of the full run. Half a pair, at either end, is of first order.
    """
    start = None
    for i, (now, to) in enumerate(run, run.first):
        if start and i % 2 and to.sigma > 0:
            denoised = midway(start, to, (start, R2), (now, now.denoised))
            yield Call(now, to, approach(start, to, R1, denoised))
        else:
            yield Call(now, to, approach(now, to, LATENTS, now.denoised), registers=(LATENTS, now.denoised))
            start = now


def unipc(run: Run) -> Calls:
    """UniPC-2 (Zhao et al., 2302.04867): `dpmpp_2m`, and each step is corrected once its end is predicted.

    UniP-2 with B2(h) is DPM-Solver++(2M). UniC-2 takes the clean latents as a parabola in log SNR.
    """
    before = older = None
    for now, to in run:
        start, last, older_denoised = R1, R2, R3
        latents, denoised = LATENTS, now.denoised
        if older and older.ratio > before.ratio > now.ratio:
            nodes = [1 / level.ratio for level in (now, before, older)]
            moved = integrate(nodes, nodes[1], nodes[0], log=True) @ [now.denoised, last, older_denoised]
            latents = now.sigma * (start / before.sigma + moved)
        elif before:
            latents = approach(before, now, start, (now.denoised + last) / 2)
        if before and to.sigma > 0:
            denoised = midway(now, to, (now, now.denoised), (before, last))
        yield Call(now, to, approach(now, to, latents, denoised), registers=(latents, now.denoised, last))
        before, older = now, before


def approach(now: Level, to: Level, latents: Symbol, denoised: Symbol, rate: int = 1) -> Symbol:
    """The latents at the level `to`, if `denoised` holds all the way; exp(-rate h) of the rest remains."""
    rest = (to.ratio / now.ratio) ** rate
    return to.alpha * (rest * latents / now.alpha + (1 - rest) * denoised)


def midway(start: Level, end: Level, a: tuple[Level, Symbol], b: tuple[Level, Symbol]) -> Symbol:
    """Clean latents in the middle of a step in log SNR, on the line through those of two calls."""
    (level, denoised), (other_level, other_denoised) = a, b
    if level.ratio == other_level.ratio:
        return denoised
    share = ((start.log_snr + end.log_snr) / 2 - level.log_snr) / (other_level.log_snr - level.log_snr)
    return denoised + share * (other_denoised - denoised)


def integrate(nodes: Sequence[float], start: float, end: float, log: bool = False) -> Float[np.ndarray, " nodes"]:
    """The weights of values at the nodes in the integral, from start to end, of the polynomial through them.

    The polynomial is in x, or with `log` in log x. Gauss-Legendre points give its integral to rounding.
    """
    if log:
        nodes, start, end = np.log(nodes), np.log(start), np.log(end)
    points, weights = GAUSS
    x = (start + end) / 2 + (end - start) / 2 * points
    weights = (end - start) / 2 * weights * (np.exp(x) if log else 1)
    lagrange = [[(x - b) / (a - b) for b in nodes if b != a] for a in nodes]
    return np.array([np.sum(weights * np.prod(factors, axis=0)) for factors in lagrange])
