"""The published figures: each where the paper prints it, and none where it can't be used."""

import pytest

from n2s_dist.evaluation.published import method_name, paper_db, read_paper, remark
from n2s_dist.noise.specification import format_noise, parse_noise

BENCHMARKS = ("bsd68", "set12", "cbsd68", "kodak24")
IMAGENET_BENCHMARKS = ("kodak_full", "bsd300", "set14")
# Table 2 as it is printed: known, unknown, supervised; in the order of BENCHMARKS.
TABLE_2 = """
gaussian:25   29.12 28.95 29.20   30.13 30.08 30.36   30.85 30.78 31.10   31.89 31.78 32.20
gaussian:50   26.21 25.81 26.30   27.16 26.65 27.20   27.75 27.32 27.95   -     -     -
poisson:0.01  30.81 30.63 30.98   31.58 31.42 31.79   32.61 32.23 33.01   33.41 32.96 33.91
poisson:0.05  27.12 26.77 27.25   27.86 27.76 28.04   28.68 28.23 29.27   29.71 28.98 30.40
gamma:100     32.67 32.54 32.93   33.01 32.89 31.72   33.82 33.50 35.53   34.22 33.82 36.41
gamma:50      30.53 30.42 31.16   30.87 30.83 31.72   31.05 30.93 33.53   31.34 31.32 34.57
"""


@pytest.mark.parametrize("line", TABLE_2.split("\n")[1:-1], ids=lambda line: line.split()[0])
def test_every_cell_of_table_2(line):
    noise, *figures = line.split()
    found = [
        paper_db(noise, level, benchmark, method)
        for benchmark in BENCHMARKS
        for level, method in (("known", "n2s"), ("unknown", "n2s"), ("known", "supervised"))
    ]
    assert found == [None if word == "-" else float(word) for word in figures]


@pytest.mark.parametrize(
    ("method", "figures"),
    [
        ("bm3d", (28.59, 29.96, 30.56, 31.68)),
        ("noise2void", (26.77, 27.56, 29.22, 30.02)),
        ("noise2self", (28.28, 29.16, 30.05, 30.53)),
        ("sure", (28.78, 29.13, 30.23, 30.75)),
        ("noise2noise", (29.18, 30.33, 31.10, 32.20)),
        ("reproduction", (None, 22.96, 23.04, 23.01)),
        ("ffdnet", (29.19, 30.43, 31.21, 32.13)),
        ("dncnn", (None, 30.44, 31.24, 32.14)),
        ("drunet", (None, 30.94, 31.69, 32.89)),
        ("restormer", (None, 31.08, 31.79, 32.93)),
    ],
)
def test_other_methods_at_sigma_25_alone(method, figures):
    assert tuple(paper_db("gaussian:25", "known", benchmark, method) for benchmark in BENCHMARKS) == figures
    assert paper_db("gaussian:50", "known", "cbsd68", method) is None
    assert paper_db("gaussian:25", "unknown", "cbsd68", method) is None


@pytest.mark.parametrize(
    ("method", "figures"),
    [
        ("noise2noise_imagenet", (32.41, 31.04, 31.37)),
        ("laine19", (32.40, 30.99, 31.36)),
        ("blind2unblind", (32.27, 30.87, 31.27)),
        ("neighbor2neighbor", (32.08, 30.79, 31.09)),
        ("recorrupted2recorrupted", (32.25, 30.91, 31.32)),
        ("supervised_imagenet", (32.43, 31.05, 31.40)),
    ],
)
def test_methods_that_learned_from_images_of_imagenet(method, figures):
    assert tuple(paper_db("gaussian:25", "known", benchmark, method) for benchmark in IMAGENET_BENCHMARKS) == figures
    assert paper_db("gaussian:25", "known", "cbsd68", method) is None


def test_what_is_not_published_is_none():
    for key in (("gaussian:30", "known", "cbsd68"), ("gaussian:25", "known", "kodak_full")):
        assert paper_db(*key) is None and remark(key[0], key[2]) is None
    assert paper_db("gaussian:25", "known", "cbsd68", "mine") is None and method_name("mine") == "mine"


def test_a_cell_without_a_figure_says_why():
    methods = read_paper()["methods"].values()
    empty = {
        (noise, benchmark)
        for method in methods
        for level in ("known", "unknown")
        for noise, row in method.get(level, {}).items()
        for benchmark, figure in row.items()
        if figure is None
    }
    assert empty == {("gaussian:50", "kodak24")}
    assert "sigma = 25 row" in (remark("gaussian:50", "kodak24") or "")


def test_the_files_names_are_those_the_project_writes():
    for method in read_paper()["methods"].values():
        assert method["source"] in read_paper()["sources"] and method["name"]
        for noise, row in (*method["known"].items(), *method.get("unknown", {}).items()):
            assert format_noise(parse_noise(noise)) == noise and set(row) <= {*BENCHMARKS, *IMAGENET_BENCHMARKS}
