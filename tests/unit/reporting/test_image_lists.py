"""What a list says of each image whose network was chosen for it."""

from n2s_dist.reporting.image_lists import format_image_lists, networks_chosen, short_noise

CURVE = "curve:0=0.02_1=0.06+blur:0.5"


def row(name: str, noisy: float | None, denoised: float | None, noise: str, network: str = "gaussian-color") -> dict:
    return {"name": name, "psnr_noisy_db": noisy, "psnr_db": denoised, "estimated": noise, "network": network}


def cell(*images: dict) -> dict:
    return {"benchmark": "mine", "method": "automatic", "images": list(images)}


def test_a_line_an_image_says_what_it_gained_and_what_was_told_to_which_network():
    rows = row("a.png", 20.0, 30.126, "gaussian:25"), row("b.png", 33.0, 32.5, CURVE, "instrument-color")
    lines = format_image_lists({"cells": [cell(*rows)]}).splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["a.png", "20.00", "30.13", "25.0", "-", "gaussian-color"],
        ["b.png", "33.00", "32.50", f"{255 * 0.04:.1f}", "0.5", "instrument-color"],
    ]
    assert lines[-1] == "1 of 2 images came out below the noisy one"


def test_long_names_unknown_families_and_images_without_truth_leave_lines_of_80_letters():
    rows = row("x" * 90 + ".png", None, None, "pink:3", "runs/" + "y" * 90), row("b.png", None, None, "gaussian:25")
    lines = format_image_lists({"cells": [cell(*rows)]}).splitlines()
    assert max(map(len, lines)) <= 80 and lines[2].split()[1:5] == ["-"] * 4 and lines[2].endswith("yyy")
    assert "below" not in lines[-1]


def test_cells_of_one_network_have_no_list():
    of_one = cell({"name": "a.png", "psnr_noisy_db": 20.0, "psnr_db": 30.0, "estimated": "gaussian:25"})
    assert format_image_lists({"cells": [of_one, {"benchmark": "other", "missing": "why"}]}) == ""
    assert networks_chosen(of_one) == [] and networks_chosen(cell(row("a", 1, 2, "gaussian:25"))) == ["gaussian-color"]


def test_a_curve_is_said_in_a_few_words_and_other_noise_as_it_is():
    assert short_noise(CURVE) == "Curve, blurred by 0.5 px, 10.2 at middle gray"
    assert [short_noise(text) for text in ("gamma:50", "pink:3", None)] == ["gamma:50", "pink:3", None]
