"""Noise models and Tweedie's formula, held to conjugate priors whose posteriors are known in closed form.

With gamma-distributed intensities the exact posterior mean under Poisson noise is known, which shows how
far both approximate formulas are from it: see the tests of Poisson noise for the measured figures.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import digamma, polygamma

from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import LOWEST_ZETA, Poisson
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.noise.transforms import inverse_anscombe
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import frozen_rng

EXACT = {"rtol": 1e-12, "atol": 1e-13}
MIXED = [PoissonGaussian(0.01, 0.04), PoissonGaussian(0.05, 0.02), PoissonGaussian(0.005, 0.2)]
FAMILIES = [
    Gaussian(0.1),
    Gaussian(0.4),
    Poisson(0.0025),
    Poisson(0.01),
    Poisson(0.05),
    Gamma(10.0),
    Gamma(100.0),
    *MIXED,
]


# --- Tweedie's formula ------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma, mean, spread", [(0.1, 0.5, 0.2), (0.2, 0.3, 0.05), (0.02, 0.7, 1.0)])
def test_gaussian_posterior_mean_under_a_normal_prior(sigma, mean, spread):
    """x ~ N(mean, spread^2): p(y) is normal too, and the posterior mean a weighted average."""
    noise, y = Gaussian(sigma), torch.linspace(-1, 2, 301, dtype=torch.float64)
    score = -(y - mean) / (spread**2 + sigma**2)
    truth = (spread**2 * y + sigma**2 * mean) / (spread**2 + sigma**2)
    torch.testing.assert_close(noise.natural_posterior_mean(y, score), truth, **EXACT)
    # Change of variables z = y / sigma: d/dz log p(z) = sigma d/dy log p(y).
    torch.testing.assert_close(noise.posterior_mean(y, sigma * score), truth, **EXACT)


@pytest.mark.parametrize("k, a, b", [(100.0, 3.0, 1.0), (50.0, 20.0, 8.0), (10.0, 5.0, 2.0)])
def test_gamma_posterior_mean_under_an_inverse_gamma_prior(k, a, b):
    """x ~ InvGamma(a, b) makes 1/x | y ~ Gamma(a + k, rate b + k y), so 1 / E[1/x | y] = (b + k y) / (a + k)."""
    noise, y = Gamma(k), torch.linspace(0.1, 3, 291, dtype=torch.float64)
    score = (k - 1) / y - k * (a + k) / (b + k * y)
    truth = (b + k * y) / (a + k)
    torch.testing.assert_close(noise.natural_posterior_mean(y, score), truth, **EXACT)
    # Change of variables z = sqrt(k) log y, dy/dz = y / sqrt(k): sqrt(k) s_z = y s + 1.
    torch.testing.assert_close(noise.posterior_mean(y, (y * score + 1) / math.sqrt(k)), truth, **EXACT)


def test_the_inverse_gamma_score_is_that_of_the_marginal():
    """The closed form that the test above rests on, against the marginal integrated numerically."""
    k, a, b = 10.0, 5.0, 2.0
    y, x = np.linspace(0.3, 2, 18), np.linspace(1e-3, 20, 20_001)

    def log_marginal(y: float) -> float:
        return np.log(np.trapezoid(stats.gamma.pdf(y, k, scale=x / k) * stats.invgamma.pdf(x, a, scale=b), x))

    numeric = [(log_marginal(value + 1e-4) - log_marginal(value - 1e-4)) / 2e-4 for value in y]
    np.testing.assert_allclose((k - 1) / y - k * (a + k) / (b + k * y), numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", [Gamma(50.0), Gamma(100.0)])
def test_a_wrong_gamma_score_can_only_brighten_tenfold(noise):
    """An untrained network gives any score: the estimate stays finite and positive."""
    y, score = torch.full((4,), 0.5), torch.tensor([-1e9, 0.0, 1e3, 1e9])
    for estimate in (noise.natural_posterior_mean(y, score), noise.posterior_mean(y, score)):
        assert ((estimate >= 0) & (estimate <= 10 * y * (1 + 1e-6))).all()


GAMMA_PRIORS = [(4.0, 0.4), (4.0, 0.1), (8.0, 0.8), (20.0, 0.4)]  # shape and rate, in counts: 10, 40, 10, 50 on average


def gamma_poisson(shape: float, rate: float) -> tuple[np.ndarray, ...]:
    """Counts n, their negative-binomial probabilities, E[count | n], and the score in n.

    The score is that of log p(n) continued from whole n to real n by the gamma function.
    """
    n = np.arange(int(6 * shape / rate))
    truth = (shape + n) / (rate + 1)
    return n, stats.nbinom.pmf(n, shape, rate / (rate + 1)), truth, digamma(shape + n) - digamma(n + 1) - np.log1p(rate)


@pytest.mark.parametrize("zeta", [0.01, 0.05])
@pytest.mark.parametrize("shape, rate", GAMMA_PRIORS)
def test_the_papers_poisson_formula_under_a_gamma_prior(zeta, shape, rate):
    """It gives what is exact half a count lower, E[x | n - 1/2]: 0.28 to 0.46 counts too dark, on average.

    The root mean square error is at most 1.9 % of the posterior variance in these cases.
    """
    n, share, truth, score = gamma_poisson(shape, rate)
    estimate = Poisson(zeta).natural_posterior_mean(torch.from_numpy(zeta * n), torch.from_numpy(score)).numpy() / zeta
    np.testing.assert_allclose(estimate[n >= 5], (truth - 0.5 / (rate + 1))[n >= 5], rtol=0.005)
    assert (share * (estimate - truth) ** 2).sum() < 0.02 * (share * truth / (rate + 1)).sum()


@pytest.mark.parametrize("zeta", [0.01, 0.05])
@pytest.mark.parametrize("shape, rate", GAMMA_PRIORS)
def test_the_stable_poisson_formula_under_a_gamma_prior(zeta, shape, rate):
    """0.19 to 0.21 counts off (root mean square), at most 0.8 % of the posterior variance: closer than the paper's."""
    n, share, truth, score = gamma_poisson(shape, rate)
    # z = 2 sqrt(n + 3/8), dn/dz = sqrt(n + 3/8): s_z = (s_n + 1 / (2 (n + 3/8))) sqrt(n + 3/8).
    score_z = (score + 0.5 / (n + 3 / 8)) * np.sqrt(n + 3 / 8)
    y = torch.from_numpy(zeta * n)
    estimate = Poisson(zeta).posterior_mean(y, torch.from_numpy(score_z)).numpy() / zeta
    papers = Poisson(zeta).natural_posterior_mean(y, torch.from_numpy(score)).numpy() / zeta
    error = (share * (estimate - truth) ** 2).sum()
    assert error < 0.22**2 and error < 0.008 * (share * truth / (rate + 1)).sum()
    assert error < (share * (papers - truth) ** 2).sum()


def test_inverse_anscombe_inverts_the_mean_of_transformed_counts():
    """Largest error 0.0182 counts (at 16.4), on 0 to 400 counts; the algebraic inverse is off by 0.25."""
    counts = np.concatenate([np.linspace(0, 60, 1201), np.linspace(60, 400, 171)])
    outcomes = np.arange(900)
    mean = stats.poisson.pmf(outcomes, counts[:, None]) @ (2 * np.sqrt(outcomes + 3 / 8))
    error = np.abs(inverse_anscombe(torch.from_numpy(mean)).numpy() - counts)
    assert error[0] < 1e-12 and error.max() < 0.0183


def test_inverse_anscombe_gives_no_negative_counts():
    d = torch.linspace(-5, 2 * math.sqrt(3 / 8), 100, dtype=torch.float64)
    assert (inverse_anscombe(d).abs() < 1e-12).all()


# --- mixed Poisson and Gaussian noise ---------------------------------------------------------------


def mixed_quadrature(noise: PoissonGaussian, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noisy values [X, N] and their weights for clean values x [X]: counts summed, the Gaussian part integrated."""
    counts = np.arange(int(x.max() / noise.zeta + 12 * (x.max() / noise.zeta) ** 0.5 + 30))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    values = noise.zeta * counts[:, None] + noise.sigma * nodes
    share = stats.poisson.pmf(counts, x[:, None] / noise.zeta)[:, :, None] * weights / weights.sum()
    return np.broadcast_to(values, share.shape).reshape(len(x), -1).copy(), share.reshape(len(x), -1)


@pytest.mark.parametrize("noise", MIXED, ids=format_noise)
def test_mixed_noise_has_unit_deviation_in_stable_coordinates(noise):
    """Within 2 % where photons and the sensor amount to 4 counts of variance; by sums and quadrature, no draws."""
    x = np.linspace(0, 1, 51)
    values, share = mixed_quadrature(noise, x)
    z = noise.stabilize(torch.from_numpy(values)).numpy()
    deviation = np.sqrt((share * z**2).sum(1) - (share * z).sum(1) ** 2)
    bright = x / noise.zeta + (noise.sigma / noise.zeta) ** 2 >= 4
    np.testing.assert_allclose(deviation[bright], 1, atol=0.02, rtol=0)
    assert bright.sum() > 40 and deviation.max() < 1.02


@pytest.mark.parametrize("noise", MIXED, ids=format_noise)
def test_the_mixed_inverse_is_unbiased(noise):
    """d = E[z | x] comes back as x within 0.04 counts, 0.018 where bright; the algebraic inverse is off by 0.26."""
    x = np.linspace(0, 1, 51)
    values, share = mixed_quadrature(noise, x)
    mean = (share * noise.stabilize(torch.from_numpy(values)).numpy()).sum(1)
    y = torch.from_numpy(x)
    back = noise.posterior_mean(y, torch.from_numpy(mean) - noise.stabilize(y)).numpy()
    assert np.abs(back - x).max() / noise.zeta < 0.04
    bright = x / noise.zeta + (noise.sigma / noise.zeta) ** 2 >= 4
    assert np.abs(back - x)[bright].max() / noise.zeta < 0.0183


@pytest.mark.parametrize("noise", MIXED, ids=format_noise)
def test_a_black_level_moves_the_scale_and_changes_nothing_else(noise):
    black = 16 / 255
    raised = PoissonGaussian(noise.zeta, noise.sigma, black)
    y, score = torch.linspace(-0.1, 1, 89, dtype=torch.float64), torch.linspace(-1, 1, 89, dtype=torch.float64)
    torch.testing.assert_close(raised.stabilize(y + black), noise.stabilize(y))
    torch.testing.assert_close(raised.posterior_mean(y + black, score), noise.posterior_mean(y, score) + black)
    torch.testing.assert_close(raised.std_at(y), noise.std_at(y))
    for x in (0.0, 0.3):
        assert raised.std(x + black) == pytest.approx(noise.std(x)) and raised.std(0.0) == pytest.approx(noise.sigma)
    clean, seeds = np.linspace(0, 0.9, 500), (np.random.default_rng(0) for _ in range(2))
    found, expected = raised.corrupt(clean + black, next(seeds)), noise.corrupt(clean, next(seeds))
    np.testing.assert_allclose(found, expected + black, atol=1e-12)
    tile = np.random.default_rng(0).integers(0, 230, (24, 24, 3), dtype=np.uint8)
    drawn, plain = corrupt_tile(raised, tile + 16, 1, 0, 0, 0), corrupt_tile(noise, tile, 1, 0, 0, 0)
    np.testing.assert_allclose(drawn, plain + black, atol=1e-6)
    assert (raised.alike, raised.scaled(2.0).black) == (Poisson(noise.zeta), black)


def test_mixed_noise_tends_to_either_kind():
    y = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(
        PoissonGaussian(0.02, 1e-6).stabilize(y), Poisson(0.02).stabilize(y), rtol=1e-6, atol=1e-6
    )
    mostly_gaussian = PoissonGaussian(1e-6, 0.1).stabilize(y)
    torch.testing.assert_close(mostly_gaussian - mostly_gaussian[0], y / 0.1, rtol=1e-4, atol=1e-6)


# --- corruption -------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", FAMILIES, ids=format_noise)
def test_corrupt_has_the_familys_mean_and_variance(noise):
    clean, draws = np.array([0.02, 0.3, 0.7, 1.0])[:, None], 200_000
    variance = {
        "gaussian": lambda x: noise.sigma**2,
        "poisson": lambda x: noise.zeta * x,
        "gamma": lambda x: x**2 / noise.k,
        "poisson-gaussian": lambda x: noise.zeta * x + noise.sigma**2,
    }
    noisy = noise.corrupt(np.tile(clean, draws), np.random.default_rng(0))
    assert noisy.dtype == np.float64
    for x, y in zip(clean[:, 0], noisy, strict=True):
        expected = variance[noise.family](x)
        assert abs(y.mean() - x) < 5 * math.sqrt(expected / draws)
        fourth = ((y - x) ** 4).mean()
        assert abs(y.var() - expected) < 5 * math.sqrt((fourth - expected**2) / draws)
        assert noise.std(x) == pytest.approx(math.sqrt(expected))


def test_corrupt_gives_whole_counts_and_keeps_black_black():
    rng = np.random.default_rng(0)
    counts = Poisson(0.05).corrupt(np.full(1000, 0.3), rng) / 0.05
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-12)
    for noise in (Poisson(0.05), Gamma(50.0)):
        assert not noise.corrupt(np.zeros(10), rng).any()


def test_frozen_noise_is_a_function_of_its_key():
    draws = {key: frozen_rng(*key).standard_normal(4).tolist() for key in [(0, 1), (1, 0), (0, 2), (0, 2**63)]}
    assert len({tuple(values) for values in draws.values()}) == 4
    assert frozen_rng(0, 1).standard_normal(4).tolist() == draws[(0, 1)]


# --- stable coordinates -----------------------------------------------------------------------------


@pytest.mark.parametrize("intensity", [0.2, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("noise", FAMILIES, ids=format_noise)
def test_stable_coordinates_have_unit_noise(noise, intensity):
    """Within 3 %, from 4 counts up for Poisson: exactly for Gaussian, sqrt(k trigamma(k)) for Gamma."""
    noisy = torch.from_numpy(noise.corrupt(np.full(200_000, intensity), np.random.default_rng(0)))
    spread = float(noise.stabilize(noisy).std())
    assert abs(spread - 1) < 0.03
    if noise.family in ("gaussian", "gamma"):
        exact = 1.0 if noise.family == "gaussian" else math.sqrt(noise.k * polygamma(1, noise.k))
        assert abs(spread - exact) < 0.01


@pytest.mark.parametrize("noise", FAMILIES, ids=format_noise)
def test_stable_coordinates_are_finite_for_any_noisy_value(noise):
    y = torch.tensor([-0.5, 0.0, 1e-9, 0.5, 3.0])
    assert noise.stabilize(y).isfinite().all() and noise.posterior_mean(y, torch.zeros(5)).isfinite().all()


def test_natural_coordinates():
    y = torch.tensor([0.0, 0.1, 0.5])
    torch.testing.assert_close(Gaussian(0.1).natural(y), y)
    torch.testing.assert_close(Poisson(0.05).natural(y), torch.tensor([0.0, 2.0, 10.0]))
    torch.testing.assert_close(Gamma(50.0).natural(y), y)


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeta", [LOWEST_ZETA, 3e-5])
def test_the_weakest_noise_that_can_be_named_is_borne_by_float32(zeta):
    """There z is right to a hundredth of the noise's standard deviation, which is 1, and so is the way back."""
    y = torch.linspace(0.001, 1, 1001, dtype=torch.float64)
    for noise in (Poisson(zeta), PoissonGaussian(zeta, 1e-5)):
        found, exact = noise.stabilize(y.float()), noise.stabilize(y)
        assert (found - exact).abs().max() < 0.01
        back = noise.posterior_mean(y.float(), torch.zeros(1001))
        assert ((back - noise.posterior_mean(y, torch.zeros(1001))).abs() / (zeta * y).sqrt()).max() < 0.02
    bad = Poisson(LOWEST_ZETA / 100)
    assert (bad.stabilize(y.float()) - bad.stabilize(y)).abs().max() > 0.01


@pytest.mark.parametrize(
    "text, noise",
    [
        ("gaussian:25", Gaussian(25 / 255)),
        ("gaussian:0.5", Gaussian(0.5 / 255)),
        ("gaussian:255", Gaussian(1.0)),
        ("poisson:0.01", Poisson(0.01)),
        ("poisson:0.0025", Poisson(0.0025)),
        ("poisson:3e-05", Poisson(3e-05)),
        ("poisson:1e-09", Poisson(1e-09)),
        ("poisson:1", Poisson(1.0)),
        ("gamma:100", Gamma(100.0)),
        ("gamma:10000", Gamma(10_000.0)),
        ("poisson-gaussian:0.01:5", PoissonGaussian(0.01, 5 / 255)),
        ("poisson-gaussian:0.01:5:16", PoissonGaussian(0.01, 5 / 255, 16 / 255)),
    ],
)
def test_names_round_trip(text, noise):
    assert parse_noise(text) == noise
    assert format_noise(noise) == text


@pytest.mark.parametrize(
    "text",
    ["", "gaussian", "gaussian:", "gaussian:0", "gaussian:-5", "gaussian:256", "gaussian:nan", "gaussian:25,50",
     "poisson:9e-10", "poisson:1.5", "poisson:inf", "gamma:5", "gamma:1e9", "gaussian:25:3", "poisson_gaussian:0.01",
     "poisson_gaussian:0.01:0", "poisson_gaussian:2:5", "poisson_gaussian:0.01:5:1:1",
     "speckle:3", "Gaussian:25", ":25"],
)  # fmt: skip
def test_other_names_are_refused(text):
    with pytest.raises(UserError, match=f"noise '{text}' is not understood"):
        parse_noise(text)
