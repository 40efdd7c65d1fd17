"""One-step samplers: a step uses no earlier step. One call a step, or two for second order."""

import math

from ssd1b_jax.samplers.symbols import LATENTS, NOISE, R1, R2, Call, Calls, Level, Run

LCM_SIGMA_DATA, LCM_TIMESTEP_SCALING = 0.5, 10.0


def euler(run: Run) -> Calls:
    """DDIM (Song et al., 2010.02502, Eq. 12 with sigma 0): keep the predicted eps and lower its share.

    Where alpha is 1 this is Euler's method on dx/dsigma = eps (Karras et al., 2206.00364).
    """
    for now, to in run:
        yield Call(now, to, to.latents(now.denoised, now.eps))


def euler_a(run: Run) -> Calls:
    """Euler's method to below the next level, then fresh noise up to it: k-diffusion's ancestral step, eta 1.

    For exploding latents, like `heun` and `dpm2`.
    """
    for now, to in run:
        down, up = ancestral(now, to)
        yield Call(now, to, now.denoised + down * now.eps + up * NOISE, draws=True)


def ancestral(now: Level, to: Level) -> tuple[float, float]:
    """The sigma to go down to without noise, and that of the noise which then leads to the level `to`."""
    down = to.sigma**2 / now.sigma
    return down, math.sqrt(to.sigma**2 - down**2)


def heun(run: Run) -> Calls:
    """Heun's method (Karras et al., 2206.00364, Algorithm 1): an Euler step, redone with the mean of its end slopes."""
    for now, to in run:
        tried = to.latents(now.denoised, now.eps)
        if to.sigma == 0:
            yield Call(now, to, tried)
        else:
            yield Call(now, to, tried, registers=(LATENTS, now.eps), trial=True)
            start, slope = R1, R2
            yield Call(to, to, start + (to.sigma - now.sigma) * (slope + to.eps) / 2)


def dpm2(run: Run, noisy: bool = False) -> Calls:
    """DPM-Solver-2 (Lu et al., 2206.00927, Algorithm 1): a step by the slope at its middle in log sigma.

    `noisy` makes every step an ancestral one: `dpm2_a`.
    """
    for now, to in run:
        down, up = ancestral(now, to) if noisy else (to.sigma, 0.0)
        if to.sigma == 0:
            yield Call(now, to, now.denoised)
        else:
            middle = run.at_ratio(math.sqrt(now.sigma * down))
            yield Call(now, middle, middle.latents(now.denoised, now.eps), registers=(LATENTS,), trial=True)
            start = R1
            yield Call(middle, to, start + (down - now.sigma) * middle.eps + up * NOISE, draws=noisy)


def ddpm(run: Run) -> Calls:
    """A draw from q(next latents | latents, clean latents) (Ho et al., 2006.11239, Eq. 6 and 7).

    For latents that keep their variance. diffusers draws at every timestep but 0; the last draw has no weight.
    """
    for now, to in run:
        alpha = (now.alpha / to.alpha) ** 2  # Eq. 4's, of this step
        mean = to.alpha * (1 - alpha) * now.denoised + math.sqrt(alpha) * to.sigma**2 * LATENTS
        mean = mean / now.sigma**2
        spread = math.sqrt(1 - alpha) * to.sigma / now.sigma
        yield Call(now, to, mean + spread * NOISE, draws=now.timestep > 0)


def lcm(run: Run) -> Calls:
    """Straight to the clean latents, then fresh noise (Luo et al., 2310.04378, Algorithm 3).

    The weights of latents and prediction are those of consistency models (Song et al., 2303.01469, Appendix C).
    """
    for now, to in run:
        time = LCM_TIMESTEP_SCALING * now.timestep
        size = math.hypot(time, LCM_SIGMA_DATA)
        denoised = (LCM_SIGMA_DATA / size) ** 2 * LATENTS + time / size * now.denoised
        yield Call(now, to, to.latents(denoised, NOISE), draws=to.sigma > 0)
