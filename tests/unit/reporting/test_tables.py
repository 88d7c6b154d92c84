"""Tables beside the published figures: right differences, at most 80 columns, every cell accounted for."""

import csv
import io

import pytest

from n2s_dist.evaluation.published import paper_db
from n2s_dist.reporting.tables import format_table, to_csv, to_markdown


def computed(benchmark: str = "cbsd68", method: str = "n2s", level: str = "known", **changes: object) -> dict:
    noise = str(changes.get("noise", "gaussian:25"))
    usual = {
        "noise": noise, "level": level, "method": method, "benchmark": benchmark, "protocol": "float",
        "paper_db": paper_db(noise, level, benchmark, method), "psnr_noisy_db": 20.171, "psnr_db": 30.731,
        "psnr_uint8_db": 30.719, "ssim": 0.87654, "num_images": 68, "checkpoint": "universal-color", "samples_seen": 8,
    }  # fmt: skip
    return usual | changes


def empty(benchmark: str, why: str, **changes: object) -> dict:
    cell = computed(benchmark, **changes)
    return {key: cell[key] for key in ("noise", "level", "method", "benchmark", "protocol", "paper_db")} | {
        "missing": why
    }


CELLS = [
    computed(),
    computed(method="bm3d", psnr_db=30.5, checkpoint=None, samples_seen=None),
    computed(level="unknown", psnr_db=30.7),
    empty("set12", "no checkpoint for gray images"),
    computed("kodak24", noise="gaussian:50", psnr_db=28.0),
    computed(noise="gaussian:50", psnr_db=27.8),
    computed("real", psnr_db=None, psnr_noisy_db=None, psnr_uint8_db=None, ssim=None, protocol="uint8_input"),
]
RESULTS = {"seed": 0, "protocol": "float: as it is", "cells": CELLS}


def test_the_terminals_lines_show_the_papers_figures_and_what_is_missing():
    """Kim & Ye's Table 2: 30.85 dB for CBSD68 at sigma 25, 30.56 for BM3D, 30.78 where the level is unknown."""
    lines = [line.split() for line in format_table(RESULTS).splitlines()]
    assert ["cbsd68", "known", "n2s", "68", "20.17", "30.73", "30.72", "0.8765", "30.85", "-0.12"] in lines
    assert ["cbsd68", "known", "bm3d", "68", "20.17", "30.50", "30.72", "0.8765", "30.56", "-0.06"] in lines
    assert ["cbsd68", "unknown", "n2s", "68", "20.17", "30.70", "30.72", "0.8765", "30.78", "-0.08"] in lines
    assert ["kodak24", "known", "n2s", "68", "20.17", "28.00", "30.72", "0.8765", "-", "-"] in lines
    assert "1 cell not computed: no checkpoint for gray images" in format_table(RESULTS)
    headings = [line for line in format_table(RESULTS).splitlines() if line.endswith(")")]
    assert headings == ["gaussian:25 (float)", "gaussian:50 (float)", "gaussian:25 (uint8_input)"]


def test_rows_of_several_networks_can_be_told_apart():
    cells = [computed(level=level, checkpoint=name) for level in ("known", "unknown") for name in ("runs/a", "runs/b")]
    lines = format_table({**RESULTS, "cells": [*cells, computed(method="bm3d", checkpoint=None)]}).splitlines()
    begin = [lines.index(name) for name in ("runs/a", "runs/b")]
    for start in begin:
        assert lines[start - 1] == "gaussian:25 (float)"
        assert [line.split()[1:3] for line in lines[start + 2 : start + 4]] == [["known", "n2s"], ["unknown", "n2s"]]
    assert lines[-1].split()[2] == "bm3d"


def test_the_widest_figures_still_fit():
    wide = computed("a-benchmark-with-a-long-name", "a-method-with-a-long-name", num_images=123_456, paper_db=10.0)
    wide |= {"psnr_db": -10.0, "psnr_uint8_db": 100.0, "psnr_noisy_db": -99.99, "ssim": -0.1234}
    missing = empty("set12", "a reason that goes on, " * 9)
    table = format_table({**RESULTS, "cells": [wide, {**wide, "noise": "poisson:0.00789012"}, missing]})
    assert max(map(len, table.splitlines())) <= 80


def rows(noise: str) -> dict[str, list[str]]:
    """Lines of one noise's table in Markdown, by what they are called."""
    section = to_markdown(RESULTS).split(f"## {noise}\n")[1].split("\n## ")[0]
    cells = [[word.strip() for word in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {title: figures for title, *figures in cells}


def test_markdown_has_every_published_figure_with_its_difference():
    assert rows("gaussian:25")[""] == ["cbsd68", "set12", "kodak24", "real"]
    lines = rows("gaussian:25")
    assert lines["noisy, float"] == ["20.17", "", "", ""]
    assert lines["**Noise2Score**, known level, float"][:2] == ["**30.73** (-0.12)", "[1]"]
    assert lines["**Noise2Score**, unknown level, float"][0] == "**30.70** (-0.08)"
    assert lines["**BM3D**, known level, float"][0] == "**30.50** (-0.06)"
    assert lines["Noise2Score, known level, published"] == ["30.85 (-0.12)", "30.13", "31.89", ""]
    assert lines["Noise2Score, unknown level, published"][0] == "30.78 (-0.08)"
    assert lines["supervised, same network, known level, published"][0] == "31.10 (-0.37)"
    assert lines["public reproduction, known level, published"] == ["23.04 (+7.69)", "22.96", "23.01", ""]
    for name in ("BM3D", "Noise2Void", "Noise2Self", "SURE", "Noise2Noise", "DRUNet, supervised"):
        assert lines[f"{name}, known level, published"][0]
    assert lines["**Noise2Score**, known level, uint8_input"][3] == "no clean images"
    text = to_markdown(RESULTS)
    assert "[1] not computed: no checkpoint for gray images" in text and "float: as it is" in text


def test_an_unusable_figure_of_the_paper_says_why():
    number = rows("gaussian:50")["Noise2Score, known level, published"][2]
    assert f"{number} unusable: the paper prints its sigma = 25 row again" in to_markdown(RESULTS)


def test_two_checkpoints_in_one_cell_are_told_apart():
    twice = {**RESULTS, "cells": [computed(), computed(checkpoint="runs/b", psnr_db=30.0)]}
    assert "**Noise2Score**, known level, float, runs/b | **30.00** (-0.85)" in to_markdown(twice)


def test_csv_has_a_line_a_cell_in_full_precision():
    lines = list(csv.DictReader(io.StringIO(to_csv(RESULTS))))
    assert len(lines) == len(CELLS)
    first, bm3d, _, missing, *_, real = lines
    assert float(first["psnr_db"]) == 30.731 and float(first["difference_db"]) == pytest.approx(30.731 - 30.85)
    assert float(first["published_drunet_db"]) == 31.69 and float(first["above_drunet_db"]) == pytest.approx(
        30.731 - 31.69
    )
    assert float(bm3d["difference_db"]) == pytest.approx(30.5 - 30.56)
    assert missing["missing"] == "no checkpoint for gray images" and missing["psnr_db"] == ""
    assert real["psnr_db"] == "" and real["published_n2s_db"] == ""
