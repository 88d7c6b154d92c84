"""Which pictures are shown: the worst, of the right cell, at the spot that matters, and nothing from elsewhere."""

import numpy as np
import pytest
from PIL import Image
from support import sample_results

from n2s_dist.reporting import examples
from n2s_dist.utils.errors import UserError


def rows(*psnr):
    return [{"name": f"{i}.png", "psnr_db": db} for i, db in enumerate(psnr)]


def names(chosen):
    return [row["name"][:-4] for row in chosen]


def test_the_worst_half_and_others_up_to_the_best():
    psnr = np.random.default_rng(0).permutation(np.arange(20.0, 40.0))
    chosen = examples.select(rows(*psnr), 7)
    assert [row["psnr_db"] for row in chosen] == [20, 21, 22, 23, 29, 34, 39]
    assert names(examples.select(rows(None, 30.0, None, 29.0), 9)) == ["3", "1", "0", "2"]


@pytest.mark.parametrize("cells", [0, 1, 2, 3, 8, 20, 48, 100, 1000])
def test_a_page_holds_a_bounded_number_of_pixels(cells):
    """Of at least two images of each cell of Table 2, known and unknown."""
    count, side = examples.share_of_page(cells)
    assert (2 if cells <= 48 else 1) <= count <= 8 and (192 if cells <= 100 else 64) <= side <= 512
    assert count * side**2 * cells <= 5_000_000


def write(folder, **pictures):
    paths = {}
    for kind, picture in pictures.items():
        paths[kind] = folder / f"a-{kind}.png"
        Image.fromarray(picture).save(paths[kind])
    return paths


CELL = {"noise": "gaussian:25", "level": "known", "benchmark": "a", "method": "n2s"}


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (20, 200)])
def test_the_cut_holds_the_greatest_error_at_full_resolution(tmp_path, height, width):
    clean = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    denoised = clean.copy()
    denoised[height - 9 : height - 5, width - 12 : width - 7] ^= 64
    paths = write(tmp_path, clean=clean, noisy=clean, denoised=denoised)
    shown = examples.show(CELL, {"name": "a.png"}, paths, 30)
    high, wide = shown.pictures["denoised"].shape[:2]
    assert high * wide <= 30 * 30 and not shown.is_whole and shown.size == (height, width)
    for kind, picture in {"clean": clean, "denoised": denoised}.items():
        cut = picture[shown.top : shown.top + high, shown.left : shown.left + wide]
        np.testing.assert_array_equal(shown.pictures[kind], cut)
    assert (shown.pictures["clean"] != shown.pictures["denoised"]).sum() == 4 * 5 * 3


def test_without_truth_the_cut_holds_the_detail_and_small_images_are_whole(tmp_path):
    picture = np.full((80, 80), 99, np.uint8)
    picture[50:70:2, 10:30] = 200
    paths = write(tmp_path, noisy=picture, denoised=picture)
    shown = examples.show(CELL, {"name": "a.png"}, paths, 30)
    assert (shown.pictures["noisy"] == 200).sum() == (picture == 200).sum()
    assert examples.show(CELL, {"name": "a.png"}, paths, 80).is_whole


def test_pictures_are_of_noise2score_and_of_known_files_alone(tmp_path):
    results = sample_results.write(tmp_path)
    outside = Image.new("L", (8, 8))
    for kind in ("noisy", "denoised"):
        outside.save(tmp_path / "pictures" / f"outside-{kind}.png")  # where ../../outside.png would be found
    shown = examples.choose(tmp_path, results["cells"])
    assert {each.cell["method"] for each in shown} == {"n2s"}
    assert sample_results.HOSTILE in {each.row["name"] for each in shown}
    assert sample_results.OUTSIDE not in {each.row["name"] for each in shown}
    first = [each for each in shown if each.cell is results["cells"][0]]
    assert [each.row["psnr_db"] for each in first] == sorted(
        row["psnr_db"] for row in results["cells"][0]["images"][:3]
    )
    assert first[0].kinds == ["clean", "noisy", "denoised", "std"]
    real = [each for each in shown if each.cell["benchmark"] == "real"]
    assert [each.kinds for each in real] == [["noisy", "denoised"]]
    strip = examples.strip(first[0])
    assert strip.shape == (96, 4 * 120, 3) and (strip[:, :120] == first[0].pictures["clean"]).all()


def test_pictures_that_can_not_be_used_are_named(tmp_path):
    picture = np.zeros((8, 8), np.uint8)
    paths = write(tmp_path, noisy=picture, denoised=picture[:4])
    with pytest.raises(UserError, match=r"a-denoised\.png and its companions differ in size"):
        examples.show(CELL, {"name": "a.png"}, paths, 30)
    paths["noisy"].write_bytes(paths["noisy"].read_bytes()[:40])
    with pytest.raises(UserError, match=r"a-noisy\.png is not a readable picture"):
        examples.show(CELL, {"name": "a.png"}, paths, 30)
