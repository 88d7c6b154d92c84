"""Correlated noise in texts, configurations and networks, and why perturbations must have its covariance."""

import numpy as np
import pytest
import torch
from support.exact_training import train_to_the_least
from support.fields import covariance
from torch import nn

from n2s_dist.losses.draws import perturbations
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.models.self_ensemble import FLIPS, SelfEnsemble
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.blurred import radius
from n2s_dist.noise.correlated import Correlated, blurred
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.field import Field, Kernels
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import (
    format_noise,
    format_training_noise,
    noise_title,
    parse_noise,
    parse_training_noise,
)
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.errors import UserError

CPU = torch.device("cpu")

# --- texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("gaussian:25+blur:0.3x1.2", Field((0.3, 1.2))),
        ("poisson:0.02+blur:0x0.8", Field((0.0, 0.8))),
        ("gaussian:25+rows:0.3", Field(rows=0.3)),
        ("gamma:50+columns:0.25", Field(columns=0.25)),
        ("curve:0=0.01_1=0.05+rows:0.3", Field(rows=0.3)),
        ("gaussian:25+channels:0.5", Field(channels=(0.5, 0.5, 0.5))),
        ("poisson-gaussian:0.01:5:3+channels:0.6:-0.2:0.3", Field(channels=(0.6, -0.2, 0.3))),
        ("gaussian:25+blur:0.7+rows:0.3+columns:0.1+channels:-0.2", Field((0.7,), 0.3, 0.1, (-0.2, -0.2, -0.2))),
    ],
)
def test_texts_go_there_and_back(text, field):
    noise = parse_noise(text)
    assert noise == Correlated(parse_noise(text.partition("+")[0]), field)
    assert format_noise(noise) == text and parse_training_noise(text).is_stored_only


def test_terms_come_in_any_order_and_nothing_is_left_out():
    mixed = parse_noise("gaussian:25+channels:0.5:0.5:0.5+rows:0.3+blur:0.7x0.7")
    assert format_noise(mixed) == "gaussian:25+blur:0.7+rows:0.3+channels:0.5"
    for text in ("gaussian:25+rows:0", "gaussian:25+blur:0x0", "gaussian:25+channels:0+columns:0"):
        assert parse_noise(text) == parse_noise("gaussian:25")


def test_ranges_of_levels_and_of_both_widths():
    text = "gaussian:5-55+blur:0-0.6x0-1.2+rows:0.2,poisson:0.01-0.1+blur:0.3x0.9+rows:0.2"
    found = parse_training_noise(text)
    assert format_training_noise(found) == text and found.is_directional and found.is_correlated
    keys = np.arange(2000, dtype=np.uint64)
    kernels = found.kernels(keys, 0)
    assert kernels.pattern == Field(rows=0.2) and kernels.reach == radius(1.2)
    first = found.draw(keys, 0)[0] == 0
    assert kernels.widths[first].max() <= 0.6 and 1.0 < kernels.down[first].max() <= 1.2
    assert set(zip(kernels.widths[~first], kernels.down[~first], strict=True)) == {(0.3, 0.9)}
    assert abs(np.corrcoef(kernels.widths[first], kernels.down[first])[0, 1]) < 0.1


def test_a_range_holds_what_is_in_it():
    found = parse_training_noise("gaussian:5-55+blur:0-1x0-1")
    held = [Field((0.3, 0.9)), Field((0.5,)), Field()]
    assert all(found.holds(Correlated(Gaussian(0.1), field)) for field in held) and found.holds(Gaussian(0.1))
    others = [Field((0.3, 1.1)), Field(rows=0.1), Field((0.3, 0.9), columns=0.1)]
    assert not any(found.holds(Correlated(Gaussian(0.1), field)) for field in others)
    striped = parse_training_noise("gaussian:5-55+rows:0.3")
    assert striped.holds(parse_noise("gaussian:20+rows:0.3")) and not striped.holds(Gaussian(0.1))
    assert not striped.holds(parse_noise("gaussian:20+rows:0.2"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "gaussian:25+rows:0-0.3",
            r"range of rows, which no network is told: give one value, such as \+rows:0.3",
        ),
        ("gaussian:25+channels:0.1-0.5", "has a range of channels"),
        ("gaussian:25+rows:1.5", r"not understood: .*\+rows:SHARE"),
        ("gaussian:25+rows:-0.1", "not understood"),
        ("gaussian:25+rows:nan", "not understood"),
        ("gaussian:25+rows:0.7+columns:0.4", "can't be: rows and columns have shares"),
        ("gaussian:25+channels:-0.6", "can't be: no three channels have such correlations"),
        ("gaussian:25+channels:0.5:0.5", r"\+channels:CORRELATION"),
        ("gaussian:25+blur:0.3x0.4x0.5", r"\+blur:ACROSSxDOWN"),
        ("gaussian:25+blur:0.3x9", "in pixels up to 8"),
        ("gaussian:25+blur:1-0.3x1", "ends are not in order"),
        ("gaussian:25+rows:0.1+rows:0.2", "not understood"),
        ("gaussian:25+stripes:0.1", "not understood"),
        ("gaussian:25+rows:", "not understood"),
    ],
)
def test_texts_that_can_not_be_are_refused_in_one_line(text, said):
    with pytest.raises(UserError, match=said) as raised:
        parse_training_noise(text)
    assert "\n" not in str(raised.value)


def test_reports_say_it_in_words():
    assert noise_title("gaussian:25+blur:0.7") == "Gaussian, σ = 25, blurred by 0.7 px"
    whole = noise_title("gaussian:25+blur:0.3x1.2+rows:0.3+columns:0.05+channels:0.5")
    assert whole == "Gaussian, σ = 25, blurred by 0.3x1.2 px, 30 % in rows, 5 % in columns, channels correlated"


# --- configurations and networks ----------------------------------------------------------------------------


def network(*options: str) -> ScoreModel:
    config = read_config([*options, "--network.widths=[4,8]"])
    return build_score_model(config, 3)


def test_networks_of_one_kind_serve_that_one_alone():
    model = network("--noise=gaussian:25+blur:0.3x1.2+rows:0.3")
    assert model.serves(parse_noise("gaussian:20+blur:0.3x1.2+rows:0.3"))
    for other in ("", "+rows:0.3", "+blur:1.2x0.3+rows:0.3", "+blur:0.6+rows:0.3", "+blur:0.3x1.2+columns:0.3"):
        assert not model.serves(parse_noise(f"gaussian:25{other}"))


def test_networks_that_are_told_one_width_take_no_other_fields():
    told = network("--noise=gaussian:5-55,gaussian:5-55+blur:0-1.5", "--network.condition=map")
    assert told.serves(parse_noise("gaussian:25+blur:0.7")) and told.serves(parse_noise("gaussian:25"))
    for other in ("+blur:0.6x0.7", "+blur:0.7+rows:0.1", "+columns:0.1", "+channels:0.1"):
        assert not told.serves(parse_noise(f"gaussian:25{other}"))
    two = network("--noise=gaussian:5-55+blur:0-1.5x0-1.5+rows:0.2", "--network.condition=map")
    for own in ("+blur:0.6x0.9+rows:0.2", "+blur:0.6+rows:0.2", "+rows:0.2"):
        assert two.serves(parse_noise(f"gaussian:25{own}"))
    assert not two.serves(parse_noise("gaussian:25+blur:0.6x0.9"))


def test_a_map_tells_one_width_of_two():
    model = network("--noise=gaussian:5-55+blur:0-1.5x0-1.5", "--network.condition=map")
    keys = np.arange(6, dtype=np.uint64)
    batch = NoiseBatch.of_images(model.noise, keys, 0, CPU)
    w = torch.zeros(6, 3, 4, 4)
    planes = model.conditioning.planes(w, model.conditioning.encode(batch, CPU), torch.zeros(6, 1, 1, 1))
    expected = [model.noise.of_image(key, 0).width for key in range(6)]
    np.testing.assert_allclose(planes[:, -1, 0, 0], expected, rtol=1e-5)


def test_what_no_network_is_told_has_to_be_the_same_everywhere():
    with pytest.raises(UserError, match=r"no network is told of stripes .*give all its families the same \+rows"):
        read_config(["--noise=gaussian:5-55,gaussian:5-55+rows:0.3", "--network.condition=map"])
    with pytest.raises(UserError, match=r"families knows no correlation: give map for gaussian:5-55\+rows:0.3"):
        read_config(["--noise=gaussian:5-55+rows:0.3"])
    with pytest.raises(UserError, match=r"method noise2void .*gaussian:25\+rows:0.3 is correlated"):
        read_config(["--noise=gaussian:25+rows:0.3", "--method=noise2void"])


@pytest.mark.parametrize("text", ["gaussian:25+channels:0.5", "curve:0=0.01:0.02:0.03_1=0.05:0.06:0.07"])
def test_gray_shards_of_color_noise_are_refused(text):
    with pytest.raises(UserError, match="is noise of color images: name another for gray ones"):
        BuildOptions(noise=text, gray=True)
    assert BuildOptions(noise=text).noise == text


def test_an_ensemble_does_not_turn_what_has_a_direction():
    assert SelfEnsemble(network("--noise=gaussian:25+rows:0.3")).views == FLIPS[:4]
    assert SelfEnsemble(network("--noise=gaussian:25+blur:0.7")).views == FLIPS
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert all(view.there(image).shape == image.shape for view in FLIPS[:4])


# --- perturbations of the noise's covariance teach the posterior mean ---------------------------------------


class Dense(nn.Module):
    """Any linear function of an image, with the constant planes unseen."""

    multiple, receptive_radius = 1, None

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels, count = shape[0], int(np.prod(shape))
        self.weight = nn.Parameter(torch.zeros(count, count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images = x[:, : self.channels]
        return (images.flatten(1) @ self.weight.T).view_as(images)


def smooth_images(shape: tuple[int, int, int]) -> np.ndarray:
    """A covariance of images: neighbors alike by 0.8, channels by 0.6; of twice the noise's variance."""
    channels, height, width = shape
    rows, columns = (0.8 ** np.abs(np.subtract.outer(np.arange(side), np.arange(side))) for side in (height, width))
    return 2 * np.kron(0.6 + 0.4 * np.eye(channels), np.kron(rows, columns))


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (Field(columns=0.5), (1, 5, 5)),
        (Field((0.2, 1.0)), (1, 5, 5)),
        (Field((0.6,), rows=0.3, channels=(-0.4, -0.4, -0.4)), (3, 3, 3)),
    ],
    ids=["columns", "two widths", "all"],
)
def test_a_linear_network_learns_the_wiener_filter(field, shape):
    """At sigma_a = 1 the noise is sqrt(2) times as strong, so what is learned is the filter for images so much fainter.

    The noise and the perturbations are the program's own; the least error is of the closed form
    tr(S - S (S + C)^-1 S). White perturbations learn another filter. 6,000 images of 25 values learn it to within
    two or three hundredths; white perturbations are off by a third or more, which fewer show.
    """
    size, sigma = int(np.prod(shape)), 0.1
    noise, prior, rng = Correlated(Gaussian(sigma), field), smooth_images(shape), np.random.default_rng(0)
    root = np.linalg.cholesky(prior)

    def images(count: int, scale: float) -> tuple[np.ndarray, torch.Tensor]:
        """Clean, and noisy as batches."""
        clean = (scale * sigma * rng.standard_normal((count, size)) @ root.T).reshape(count, *shape)
        noisy = noise.corrupt(np.moveaxis(clean, 1, -1), rng)
        return clean, torch.from_numpy(np.moveaxis(noisy, -1, 1).copy()).float()

    def error_with(kernels: Kernels | None, count: int) -> float:
        """In units of the noise's variance, of a network that was trained so."""
        model = ScoreModel(Dense(shape), NoiseDistribution.of(noise), "stable")
        _, y = images(count, 1.0)
        w, condition = model.given(y, noise)
        u, sigma_a = perturbations(0, np.arange(count), y.shape, CPU, kernels), torch.ones(count, 1, 1, 1)
        train_to_the_least(model, w, u, sigma_a, condition, max_iter=20, history_size=20)
        clean, y = images(count, 0.5**0.5)
        with torch.no_grad():
            return float(np.square(model.denoise(y, noise).numpy() - clean).mean() / sigma**2)

    faint = prior / 2
    least = float(np.trace(faint - faint @ np.linalg.solve(faint + covariance(field, shape), faint)) / size)
    own = NoiseDistribution.of(noise).kernels(np.zeros(6000, np.uint64), 0)
    assert error_with(own, 6000) == pytest.approx(least, rel=0.04)
    assert error_with(None, 2000) > 1.2 * least


def test_blurred_is_a_field_of_one_width():
    assert blurred(Poisson(0.02), 0.7) == parse_noise("poisson:0.02+blur:0.7")


@pytest.mark.parametrize(
    "text", ["gaussian:25+blur:0.7", "poisson-gaussian:0.01:5+rows:0.2", "curve:0=0.05_1=0.1+blur:0.7"]
)
def test_noise_of_half_the_strength_keeps_its_field(text):
    whole = parse_noise(text)
    half = whole.scaled(0.5)
    assert half.field == whole.field
    for x in (0.2, 0.7):
        assert float(half.std(x)) == pytest.approx(0.5 * float(whole.std(x)))
