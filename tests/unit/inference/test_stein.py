"""What a score says of an assumed noise, on Gaussian random fields, whose score is a filter known in closed form."""

import pytest
from support.field_scores import SMOOTH, TEXTURE, FieldScore, noise_power, noisy_field

from n2s_dist.inference import stein
from n2s_dist.noise.correlated import blurred
from n2s_dist.noise.gaussian import Gaussian

NOISE = blurred(Gaussian(0.1), 0.6)


@pytest.mark.parametrize("told", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("noise", [Gaussian(0.1), NOISE, blurred(Gaussian(0.05), 1.2)], ids=["white", "0.6", "1.2"])
def test_the_ratio_has_its_closed_form_and_is_1_at_the_truth(noise, told):
    assumed = noise.scaled(told)
    found, _ = stein.ratio(FieldScore(), noisy_field(noise, 1).pixels, assumed)
    power = noise_power(assumed)
    gain = power / (TEXTURE + power)
    expected = (gain * power).mean() / (gain**2 * (TEXTURE + noise_power(noise))).mean()
    assert found == pytest.approx(expected, rel=0.03)
    if told == 1:
        assert expected == pytest.approx(1)


@pytest.mark.parametrize("wrong", [0.8, 1.3])
def test_a_noise_is_rescaled_to_its_true_strength(wrong):
    found = stein.rescaled(FieldScore(SMOOTH), noisy_field(NOISE, 2, SMOOTH), NOISE.scaled(wrong))
    assert found.width == NOISE.width and found.std(0.5) == pytest.approx(0.1, rel=0.04)
