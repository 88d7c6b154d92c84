"""Baselines' losses: on Gaussian fields, where the best linear denoiser of each kind is known.

Clean x is white noise blurred on a torus, so E[x_p x_q] = r(p - q) is known exactly, and y = x + sigma n has
c(p - q) = r(p - q) + sigma^2 [p = q]. A linear filter h with 3 x 3 taps at offsets i sees v_i = y_{p+i}; the error
E (h . v - t)^2 of predicting t is h A h - 2 h b + E t^2 with A = E v v^T, b = E v t, least for A h = b.
"""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from n2s_dist.losses.base import draw, loss_of, method_loss, table_key
from n2s_dist.losses.loss import Batch
from n2s_dist.losses.noise2void import blind_spots
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import format_noise
from n2s_dist.training.command_line import read_config
from n2s_dist.training.telemetry import flops_per_sample
from n2s_dist.utils.errors import UserError

CPU = torch.device("cpu")
BASELINES = ["supervised", "noise2noise", "noise2void", "sure", "r2r"]
SIDE, SIGMA, ALPHA = 32, 0.5, 0.5
TAPS = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
CENTRE = TAPS.index((0, 0))

_blur = np.zeros((SIDE, SIDE))
_blur[np.ix_([-1, 0, 1], [-1, 0, 1])] = np.outer([1, 2, 1], [1, 2, 1]) / 8
SPECTRUM = np.fft.fft2(_blur)
CLEAN = np.fft.ifft2(np.abs(SPECTRUM) ** 2).real  # r, on the torus


# --- what is known ------------------------------------------------------------------------------------------


def noisy_covariance(variance: float) -> np.ndarray:
    return CLEAN + variance * (np.arange(SIDE**2).reshape(SIDE, SIDE) == 0)


def filter_moments(variance: float) -> tuple[np.ndarray, np.ndarray]:
    """A [9, 9] and b [9] of a filter of x plus noise of some variance that predicts x."""
    taps = np.array(TAPS)
    apart = taps[:, None] - taps
    return noisy_covariance(variance)[apart[..., 0], apart[..., 1]], CLEAN[taps[:, 0], taps[:, 1]]


def blind_moments(source: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The same for y with some pixels replaced as `source` says, which predicts y there: for these very masks."""
    covariance, grid = noisy_covariance(SIGMA**2), np.arange(SIDE**2).reshape(SIDE, SIDE)
    moments, target = np.zeros((9, 9)), np.zeros(9)
    for sample in source[:, 0].numpy():
        masked = sample != grid
        # Which pixel lies under each tap of each masked pixel's filter: [9, M], twice
        rows, columns = np.divmod([np.roll(sample, (-d, -a), (0, 1))[masked] for d, a in TAPS], SIDE)
        p_row, p_column = np.nonzero(masked)
        moments += covariance[rows[:, None] - rows, columns[:, None] - columns].mean(2)
        target += covariance[rows - p_row, columns - p_column].mean(1)
    return moments / len(source), target / len(source)


def error(h: np.ndarray, moments: tuple[np.ndarray, np.ndarray], target_variance: float) -> float:
    return float(h @ moments[0] @ h - 2 * h @ moments[1] + target_variance)


# --- what the losses say --------------------------------------------------------------------------------------


class Filter(nn.Module):
    """z minus its 3 x 3 filter on the torus: then ScoreModel's denoised image is the filtered y."""

    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        z = x[:, :1]
        wrapped = nn.functional.pad(z, (1, 1, 1, 1), mode="circular")
        return z - nn.functional.conv2d(wrapped, self.taps.view(1, 1, 3, 3))


def make_batch(method: str, samples: int) -> Batch:
    rng = np.random.default_rng(7)
    white = rng.standard_normal((samples, SIDE, SIDE))
    x = np.fft.ifft2(np.fft.fft2(white) * SPECTRUM).real[:, None]
    y, second = (x + SIGMA * rng.standard_normal(x.shape) for _ in range(2))
    positions, noisy = np.arange(samples), torch.from_numpy(y).float()
    if method in ("supervised", "noise2noise"):
        aux = torch.from_numpy(x if method == "supervised" else second).float()
    else:
        aux = draw(method, 0, positions, noisy.shape, CPU)
    return Batch(positions, noisy, Gaussian(SIGMA), aux, torch.zeros(samples, 1, 1, 1))


class Toy:
    """A method's loss as a function of the filter."""

    def __init__(self, method: str) -> None:
        self.method, self.batch = method, make_batch(method, 600 if method == "noise2void" else 300)
        self.model = ScoreModel(Filter(), NoiseDistribution.of(Gaussian(SIGMA)), "stable")

    def losses(self, h: np.ndarray) -> Tensor:
        self.model.network.taps.data = torch.from_numpy(h).float()
        return method_loss(self.method, self.model, self.model, self.batch)

    def minimiser(self, free: list[int]) -> np.ndarray:
        """The loss is quadratic in the taps, so its gradient is affine; those taps that are not free stay 0."""

        def gradient(h: np.ndarray) -> np.ndarray:
            loss = self.losses(h).double().mean()
            return torch.autograd.grad(loss, self.model.network.taps)[0].double().numpy()[free]

        zero = gradient(np.zeros(9))
        curvature = np.stack([gradient(unit) - zero for unit in np.eye(9)[free]], axis=1)
        h = np.zeros(9)
        h[free] = np.linalg.solve(curvature, -zero)
        return h

    def known(self) -> tuple[tuple[np.ndarray, np.ndarray], float, float]:
        """A and b, E t^2 and what the method's loss adds, in units of sigma^2."""
        if self.method == "noise2void":
            return blind_moments(self.batch.aux), CLEAN[0, 0] + SIGMA**2, 0.0
        variance = SIGMA**2 * (1 + ALPHA**2) if self.method == "r2r" else SIGMA**2
        added = {"supervised": 0.0, "noise2noise": 1.0, "sure": 0.0, "r2r": 1 + 1 / ALPHA**2}[self.method]
        return filter_moments(variance), CLEAN[0, 0], added


made = functools.cache(Toy)


@pytest.fixture(scope="module", params=BASELINES)
def toy(request) -> Toy:
    return made(request.param)


def test_each_loss_has_the_expectation_that_its_paper_says(toy):
    """At four filters, within 4 standard errors: the module's table, with the error in closed form."""
    moments, target_variance, added = toy.known()
    best, identity = np.linalg.solve(*moments), np.eye(9)[CENTRE]
    for h in (np.zeros(9), identity, best, np.random.default_rng(3).normal(0, 0.3, 9)):
        with torch.no_grad():
            losses = toy.losses(h).double()
        expected = error(h, moments, target_variance) / SIGMA**2 + added
        assert losses.shape == toy.batch.positions.shape
        assert abs(losses.mean() - expected) <= 4 * losses.std() / math.sqrt(len(losses))


def test_each_loss_is_least_for_the_best_linear_denoiser(toy):
    """Wiener's filter of y; for R2R of y + a sigma w, for Noise2Void of pixels that may lie elsewhere.

    Taps are known to 0.01 (Noise2Void, which learns from one pixel in 64: 0.03), and the excess error of the filter
    found is below 1 % of the best one's.
    """
    moments, target_variance, _ = toy.known()
    best, found = np.linalg.solve(*moments), toy.minimiser([*range(9)])
    np.testing.assert_allclose(found, best, atol=0.03 if toy.method == "noise2void" else 0.01)
    assert error(found, moments, target_variance) < 1.01 * error(best, moments, target_variance)
    assert np.abs(best).max() > 0.1  # and the tolerance means something


def test_noise2void_finds_the_best_blind_spot_predictor():
    """Of filters that do not look at the pixel itself. One in 64 of its neighbours is masked as well, hence 0.03."""
    others = [tap for tap in range(9) if tap != CENTRE]
    full, cross = filter_moments(SIGMA**2)
    best = np.linalg.solve(full[np.ix_(others, others)], cross[others])
    np.testing.assert_allclose(made("noise2void").minimiser(others)[others], best, atol=0.03)


def test_sure_knows_the_error_without_the_clean_image():
    """Of a filter much worse than the best one: the same mean as the supervised loss, whose batch is the same."""
    h = np.random.default_rng(5).normal(0, 0.3, 9)
    with torch.no_grad():
        blind, told = made("sure").losses(h).double(), made("supervised").losses(h).double()
    assert abs((blind - told).mean()) < 4 * (blind - told).std() / math.sqrt(len(blind))
    assert told.mean() > 2


@pytest.mark.parametrize("noise", [Gaussian(0.1), Poisson(0.05), Gamma(50.0)], ids=format_noise)
@pytest.mark.parametrize("method", ["noise2noise", "noise2void"])
def test_a_noisy_target_ranks_denoisers_as_a_clean_one_does(noise, method):
    """For every family: of two filters, the difference in loss is that with the clean target, to 4 standard errors."""
    rng, samples = np.random.default_rng(1), 300
    x = np.clip(0.5 + 0.1 * np.fft.ifft2(np.fft.fft2(rng.standard_normal((samples, SIDE, SIDE))) * SPECTRUM).real, 0, 1)
    x = x[:, None]
    y, second, clean = (torch.from_numpy(a).float() for a in (noise.corrupt(x, rng), noise.corrupt(x, rng), x))
    model, positions = ScoreModel(Filter(), NoiseDistribution.of(noise), "stable"), np.arange(samples)
    spots = blind_spots(0, positions, y.shape, CPU)
    seen = y.flatten(2).gather(2, spots.flatten(2)).view_as(y)
    masked = (spots != torch.arange(SIDE**2).view(SIDE, SIDE)).double()
    noisy_losses, clean_losses = [], []
    for h in (np.eye(9)[CENTRE], np.full(9, 1 / 9)):
        model.network.taps.data = torch.from_numpy(h).float()
        with torch.no_grad():
            aux = second if method == "noise2noise" else spots
            batch = Batch(positions, y, noise, aux, torch.zeros(samples, 1, 1, 1))
            noisy_losses.append(method_loss(method, model, model, batch).double())
            errors = ((model.denoise(y if method == "noise2noise" else seen, noise) - clean) ** 2).double()
            weights = torch.ones_like(errors) if method == "noise2noise" else masked
            sums = (errors * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)
            clean_losses.append(sums / noise.std(0.5) ** 2)
    noisy_gain, clean_gain = noisy_losses[0] - noisy_losses[1], clean_losses[0] - clean_losses[1]
    apart = noisy_gain - clean_gain
    assert abs(apart.mean()) < 4 * apart.std() / math.sqrt(samples)
    assert abs(clean_gain.mean()) > 8 * apart.std() / math.sqrt(samples)  # so that a wrong sign would show


@pytest.mark.parametrize("method", BASELINES)
def test_losses_are_one_value_a_sample(method):
    model = build_score_model(read_config(["--network.widths=[4,8]", "--network.blocks=1"]), 1)
    batch = make_batch(method, 3)
    with torch.no_grad():
        together = method_loss(method, model, model, batch)
        for i in range(3):
            one = Batch(*(part if part is None or isinstance(part, Gaussian) else part[i : i + 1] for part in batch))
            torch.testing.assert_close(method_loss(method, model, model, one), together[i : i + 1])


# --- draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["noise2void", "sure", "r2r"])
def test_draws_are_functions_of_seed_and_position(method):
    positions = np.array([5, 0, 10**12, 7, 8, 9])
    shape = torch.Size((6, 3, 9, 7))
    whole = draw(method, 3, positions, shape, CPU)
    parts = [draw(method, 3, part, torch.Size((len(part), 3, 9, 7)), CPU) for part in np.split(positions, [1, 4])]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, draw(method, 4, positions, shape, CPU))
    assert len({sample.numpy().tobytes() for sample in whole}) == 6


def test_blind_spots_are_one_value_in_64_and_take_any_neighbours():
    samples, side = 60, 40
    source = blind_spots(0, np.arange(samples), torch.Size((samples, 3, side, side)), CPU).numpy()
    grid = np.arange(side**2).reshape(side, side)
    inner = slice(2, -2)
    down, across = (a[..., inner, inner] for a in np.divmod(source, side))
    down, across = (a - b[inner, inner] for a, b in zip((down, across), np.divmod(grid, side), strict=True))
    assert abs(down).max() == abs(across).max() == 2
    masked = (down != 0) | (across != 0)
    assert masked.mean() == pytest.approx(1 / 64, abs=4 * (1 / 64 / masked.size) ** 0.5)
    seen = np.unique(np.stack([down[masked], across[masked]]), axis=1, return_counts=True)[1]
    assert len(seen) == 24 and stats.chisquare(seen).pvalue > 1e-4
    channels = (source != grid).reshape(samples, 3, -1)
    assert (channels[:, 0] & channels[:, 1]).mean() < 3 / 64**2  # each has its own
    assert source.min() >= 0 and source.max() < side**2


def test_a_network_without_room_for_blind_spots_still_has_a_loss():
    """A single pixel has no neighbour: nothing is masked, and nothing is learned from it."""
    batch = Batch(np.arange(2), torch.rand(2, 1, 1, 1), Gaussian(0.1), torch.zeros(2, 1, 1, 1).long(), torch.zeros(2))
    model = ScoreModel(Filter(), NoiseDistribution.of(Gaussian(0.1)), "stable")
    assert method_loss("noise2void", model, model, batch).tolist() == [0, 0]


# --- what each takes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_take_one_noise_level_in_stable_coordinates(method):
    with pytest.raises(UserError, match=f"method {method} takes one noise level"):
        read_config([f"--method={method}", "--noise=gaussian:5-55"])
    with pytest.raises(UserError, match=rf"ardae\.coordinates image is for method ardae: .*{method}"):
        read_config([f"--method={method}", "--ardae.coordinates=image"])


def test_only_two_methods_see_more_than_noisy_pixels():
    asked = {method: loss_of(method).extra_view for method in ["ardae", *BASELINES]}
    nothing = dict.fromkeys(["ardae", "noise2void", "sure", "r2r"])
    assert asked == nothing | {"supervised": "clean", "noise2noise": "noisy"}


def test_tables_name_methods_as_the_paper_file_does():
    assert table_key("ardae") == "n2s"
    assert [table_key(method) for method in BASELINES] == BASELINES


def test_flops_are_those_of_the_methods_loss():
    """SURE runs the network twice for each crop."""
    model = build_score_model(read_config(["--network.widths=[12,24]"]), 3)
    once = flops_per_sample(model, 3, 32)
    factors = {method: flops_per_sample(model, 3, 32, method) / once for method in BASELINES}
    assert factors == dict.fromkeys(BASELINES, 1) | {"sure": 2}
