"""Tables of cells: each figure in its place, each difference from the right published figure."""

import pytest
from support import sample_results

from n2s_dist.evaluation.published import paper_db, remark
from n2s_dist.reporting.comparison import (
    Figure,
    cell_title,
    compare,
    estimates,
    gap_summary,
    headlines,
    noise_title,
    way_titles,
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return sample_results.write(tmp_path_factory.mktemp("results"))["cells"]


def cell(noise="gaussian:25", level="known", benchmark="cbsd68", method="n2s", psnr_db=30.0, **more):
    return {
        "noise": noise, "level": level, "benchmark": benchmark, "method": method, "psnr_db": psnr_db,
        "psnr_noisy_db": 20.0, "protocol": "float", "checkpoint": "a", "num_images": 2, "posterior": None,
        "paper_db": paper_db(noise, level, benchmark), "images": [], **more,
    }  # fmt: skip


def rows(cells):
    benchmarks, groups = compare(cells)
    return benchmarks, {group.noise: {(row.name, row.detail): row.figures for row in group.rows} for group in groups}


def test_columns_and_groups_are_in_the_papers_order_whatever_the_cells_order(cells):
    benchmarks, groups = rows(cells[::-1])
    assert benchmarks == ["set12", "cbsd68"] and list(groups) == ["gaussian:25", "poisson:0.05"]
    more = [cell(benchmark="mine"), cell(noise="mixed:1"), cell(noise="gamma:50", benchmark="bsd68")]
    benchmarks, groups = rows(more)
    assert benchmarks == ["bsd68", "cbsd68", "mine"] and list(groups) == ["gaussian:25", "gamma:50", "mixed:1"]


def test_computed_figures_stand_beside_the_papers_of_the_same_level(cells):
    table = rows(cells)[1]["gaussian:25"]
    for level, paper in (("known", 30.85), ("unknown", 30.78)):
        own = next(c for c in cells if (c["level"], c["benchmark"], c["method"]) == (level, "cbsd68", "n2s"))
        figure = table["Noise2Score", f"{level} level"]["cbsd68"]
        assert figure == (own["psnr_db"], pytest.approx(own["psnr_db"] - paper), None)
        assert table["Noise2Score", f"paper, {level} level"]["cbsd68"].db == paper
    assert table["noisy", ""]["cbsd68"].db == cells[0]["psnr_noisy_db"]
    assert table["supervised, same network", "paper"]["cbsd68"].db == 31.10
    assert table["public reproduction", ""]["set12"].db == 22.96
    assert table["Restormer, supervised", "its own paper"]["cbsd68"].db == 31.79
    assert ("public reproduction", "") not in rows(cells)[1]["poisson:0.05"]


def test_cells_that_were_not_computed_say_why(cells):
    figure = rows(cells)[1]["poisson:0.05"]["Noise2Score", "known level"]["set12"]
    assert figure == Figure(None, None, f"not computed: {sample_results.MISSING}")


def test_unusable_figures_of_the_paper_say_why():
    figure = rows([cell("gaussian:50", benchmark="kodak24"), cell("gaussian:50")])[1]["gaussian:50"]
    reason = remark("gaussian:50", "kodak24")
    assert figure["Noise2Score", "paper, known level"]["kodak24"] == (None, None, reason) and reason
    assert figure["Noise2Score", "known level"]["kodak24"].difference_db is None


def test_photographs_without_truth_are_in_no_table(cells):
    assert any(each["benchmark"] == "real" for each in cells) and "real" not in rows(cells)[0]


def test_protocols_are_never_in_one_line_and_checkpoints_are_told_apart_only_where_needed():
    eight = cell(protocol="uint8_input", psnr_db=29.0)
    table = rows([cell(), eight, cell(benchmark="set12", checkpoint="b")])[1]["gaussian:25"]
    assert table["Noise2Score", "known level"].keys() == {"cbsd68", "set12"}
    assert table["Noise2Score", "known level, 8-bit input"]["cbsd68"].db == 29.0
    assert ("noisy", "8-bit input") in table
    table = rows([cell(), cell(checkpoint="b", psnr_db=31.0)])[1]["gaussian:25"]
    assert [table["Noise2Score", f"known level, {c}"]["cbsd68"].db for c in "ab"] == [30.0, 31.0]


def test_cells_that_only_their_checkpoints_tell_apart_are_called_by_them():
    cells = [cell(), cell(checkpoint="b"), cell(benchmark="set12"), cell(level="unknown")]
    ways = ["Noise2Score, known level, a", "Noise2Score, known level, b"]
    assert way_titles(cells) == [*ways, "Noise2Score, known level", "Noise2Score, unknown level"]
    assert cell_title(cells[1], ways[1]) == f"Gaussian, σ = 25 · CBSD68 · {ways[1]}"


def test_errors_of_estimated_levels_and_what_they_cost():
    guesses = ["gaussian:26", "gaussian:23", "poisson:0.05", None]
    unknown = cell(level="unknown", psnr_db=29.5, images=[{"estimated": guess} for guess in guesses])
    (estimate,) = estimates([cell(), unknown, cell(benchmark="set12", level="unknown")])
    assert estimate.error == pytest.approx((1 / 25 + 2 / 25) / 2)
    assert estimate.family_found == pytest.approx(2 / 3) and estimate.gained_db == -0.5
    (alone,) = estimates([unknown])
    assert alone.gained_db is None
    assert estimates([unknown | {"noise": "unknown"}]) == []  # no estimate is right or wrong


def test_headlines_tell_the_mean_difference_and_how_many_cells_are_above():
    shown = {
        each.label: each
        for each in headlines([
            cell(psnr_db=30.95), cell(benchmark="set12", psnr_db=29.93), cell(method="bm3d", psnr_db=10.0),
            cell(benchmark="mine", psnr_db=1.0), cell(benchmark="bsd68") | {"missing": "why", "psnr_db": None},
        ])
    }  # fmt: skip
    assert shown["cells computed"].value == "4 of 5"
    known = shown["against the paper, known level"]
    assert known.value == "−0.05 dB" and known.detail == "mean of 2 cells, 1 of them above"
    assert "against the paper, unknown level" not in shown


def test_the_glance_measures_everything_from_the_papers_known_level():
    marks = gap_summary(*compare([cell(psnr_db=31.0), cell(level="unknown", psnr_db=30.0), cell(benchmark="mine")]))
    assert marks.keys() == {"cbsd68"}
    assert {label: round(db, 2) for label, _, db in marks["cbsd68"]["gaussian:25"]} == {
        "Noise2Score, known level": 0.15,
        "Noise2Score, unknown level": -0.85,
        "Noise2Score, paper, unknown level": -0.07,
        "supervised, same network, paper": 0.25,
    }


def test_noises_have_titles():
    assert noise_title("gaussian:25") == "Gaussian, σ = 25" and noise_title("gamma") == "Gamma"
    assert noise_title("{0}:{x}") == "{0}:{x}"
