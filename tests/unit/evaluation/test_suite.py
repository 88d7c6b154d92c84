"""Which network fills which cell of a suite, why some cells stay empty, and what command lines are refused."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from support.denoisers import UNIVERSAL, Spy, cell, network, save_network

from n2s_dist import evaluate
from n2s_dist.evaluation.benchmarks import KNOWN, Benchmark
from n2s_dist.evaluation.methods import digest, of_network
from n2s_dist.evaluation.published import paper_db
from n2s_dist.evaluation.suite import SUITES, choose, product_cells, suite_cells
from n2s_dist.models import checkpoint
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

GAUSSIANS = "gaussian:5-55"


def sources() -> dict[str, Benchmark | str]:
    """All but set12."""
    found = {name: Benchmark(name, "float", (), KNOWN[name].channels) for name in SUITES["table2"].benchmarks}
    return found | {"set12": "no --benchmark set12=DIR"}


def table2(denoisers, levels=("known", "unknown")):
    return suite_cells("table2", sources(), denoisers, levels, "float")


def test_table_2_has_every_cell_once_and_those_without_a_network_or_a_folder_say_why(tmp_path):
    color = network(tmp_path)
    cells = table2([color])
    assert len({(c.noise, c.level, c.benchmark) for c in cells}) == len(cells) == 6 * 2 * 4
    for each in cells:
        assert (each.denoiser is None) == bool(each.missing) and each.method == "n2s"
        if each.benchmark in ("cbsd68", "kodak24"):
            assert each.denoiser is color
        else:
            wanted = "no --benchmark set12=DIR" if each.benchmark == "set12" else "no checkpoint for gray images"
            assert each.missing == wanted
        assert each.identity()["paper_db"] == paper_db(each.noise, each.level, each.benchmark)


def test_photographs_go_to_the_network_of_the_most_families_which_reads_their_noise_for_others(tmp_path):
    found = {name: Benchmark(name, "uint8_input", (), KNOWN[name].channels) for name in SUITES["real"].benchmarks}
    universal, narrow, gray = network(tmp_path), network(tmp_path, GAUSSIANS), network(tmp_path, UNIVERSAL, 1)
    bare = replace(universal, method="bare", loaded=None, checkpoint=None)
    single = network(tmp_path, "gaussian:25")
    cells = suite_cells("real", dict(found), [narrow, universal, gray, bare, single], ("unknown",), "float")
    assert [(each.noise, each.method, each.benchmark) for each in cells] == [
        ("unknown", method, name) for name in ("cc15", "fmd") for method in ("n2s", "bare")
    ]
    color, reading, micro, reading_gray = (each.denoiser for each in cells)
    assert color is universal and micro is gray
    assert (reading.noise_reader, reading_gray.noise_reader) == (universal.loaded, gray.loaded)
    assert len({reading.digest, reading_gray.digest, bare.digest}) == 3
    alone = suite_cells("real", dict(found), [single], ("unknown",), "float")
    assert [each.missing for each in alone] == [
        f"no checkpoint for {kind} images of a range of levels" for kind in ("color", "gray")
    ]


def test_a_network_of_one_level_comes_first_where_the_level_is_known_and_not_at_all_where_it_is_not(tmp_path):
    universal, special, gray = network(tmp_path), network(tmp_path, "gamma:50"), network(tmp_path, UNIVERSAL, 1)
    for each in table2([universal, special, gray]):
        if not each.missing:
            color = special if (each.noise, each.level) == ("gamma:50", "known") else universal
            assert each.denoiser is (gray if each.benchmark == "bsd68" else color)
    with_special_alone = {(c.noise, c.level): c.missing for c in table2([special]) if c.benchmark == "cbsd68"}
    assert with_special_alone["gamma:50", "known"] is None
    assert "range of gamma levels" in with_special_alone["gamma:50", "unknown"]
    assert "color images with gaussian:25" in with_special_alone["gaussian:25", "known"]


def test_a_network_of_one_family_takes_no_other_and_no_level_beyond_its_range(tmp_path):
    gaussians = network(tmp_path, GAUSSIANS)
    assert choose([gaussians], parse_noise("gaussian:50"), "unknown", 3) is gaussians
    for noise in ("gaussian:60", "poisson:0.01"):
        assert isinstance(choose([gaussians], parse_noise(noise), "known", 3), str)


def test_of_networks_with_several_levels_that_of_the_fewest_families_comes_first(tmp_path):
    universal, gaussians = network(tmp_path), network(tmp_path, GAUSSIANS)
    for level in ("known", "unknown"):
        for denoisers in ([universal, gaussians], [gaussians, universal]):
            assert choose(denoisers, parse_noise("gaussian:25"), level, 3) is gaussians
            assert choose(denoisers, parse_noise("gamma:50"), level, 3) is universal


def test_a_network_with_a_focus_is_for_known_levels_there(tmp_path):
    gaussians, focused = network(tmp_path, GAUSSIANS), network(tmp_path, GAUSSIANS, focus="gaussian:22-28")
    for denoisers in ([gaussians, focused], [focused, gaussians]):
        assert choose(denoisers, parse_noise("gaussian:25"), "known", 3) is focused
        assert choose(denoisers, parse_noise("gaussian:25"), "unknown", 3) is gaussians
        assert choose(denoisers, parse_noise("gaussian:50"), "known", 3) is gaussians
    assert "a range of gaussian levels" in choose([focused], parse_noise("gaussian:25"), "unknown", 3)
    assert "images with gaussian:50" in choose([focused], parse_noise("gaussian:50"), "known", 3)


def test_a_method_that_must_be_told_has_cells_of_known_level_alone(tmp_path):
    bm3d = Spy().as_method("bm3d")
    cells = table2([network(tmp_path), bm3d])
    mine = [each for each in cells if each.method == "bm3d"]
    assert len(mine) == 6 * 4 and {each.level for each in mine} == {"known"}
    assert all(each.denoiser is bm3d for each in mine if each.benchmark != "set12")
    (published,) = [c for c in mine if (c.noise, c.benchmark) == ("gaussian:25", "cbsd68")]
    assert published.identity()["paper_db"] == 30.56


def test_a_baseline_goes_by_its_own_name_where_it_fits_and_has_no_empty_cells(tmp_path):
    run_dir = save_network(tmp_path / "run", "gaussian:25", method="supervised")
    supervised = of_network(checkpoint.load(checkpoint.locate(run_dir)))
    mine = [each for each in table2([network(tmp_path), supervised]) if each.method == "supervised"]
    assert [(c.noise, c.level, c.benchmark, c.denoiser) for c in mine] == [
        ("gaussian:25", "known", name, supervised) for name in ("cbsd68", "kodak24")
    ]
    assert [each.identity()["paper_db"] for each in mine] == [31.10, 32.20]


def test_fingerprints_tell_apart_what_figures_depend_on(tmp_path, photographs):
    source = Benchmark.open("a", photographs, None, "float")
    first, second = network(tmp_path), network(tmp_path, GAUSSIANS)
    where = {"torch": "2"}
    kinds = [
        cell(source, first).fingerprint(0, "x", where),
        cell(source, second).fingerprint(0, "x", where),
        cell(source, first, "gaussian:30").fingerprint(0, "x", where),
        cell(source, first, level="unknown").fingerprint(0, "x", where),
        cell(source, first).fingerprint(1, "x", where),
        cell(source, first).fingerprint(0, "y", where),
        cell(source, first).fingerprint(0, "x", {"torch": "3"}),
    ]
    assert len(set(kinds)) == len(kinds) and cell(source, first).fingerprint(0, "x", where) == kinds[0]


def test_a_networks_digest_is_of_its_weights(tmp_path):
    runs = [save_network(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    a, b, c = (digest(checkpoint.load(checkpoint.locate(run))) for run in runs)
    assert a == b != c


def test_without_a_suite_every_network_meets_every_noise(tmp_path, photographs):
    source = Benchmark.open("a", photographs, None, "float")
    special, universal, bm3d = network(tmp_path, "gamma:50"), network(tmp_path), Spy().as_method("bm3d")
    cells = product_cells([source], [special, universal, bm3d], ["gamma:50", "gamma:100"], ("known",))
    assert [(c.denoiser, c.noise) for c in cells] == [
        (denoiser, noise) for noise in ("gamma:50", "gamma:100") for denoiser in (special, universal, bm3d)
    ]
    default = product_cells([source], [special, bm3d], None, ("known",))
    assert [(c.denoiser, c.noise) for c in default] == [(special, "gamma:50"), (bm3d, "gamma:50")]
    unknown = product_cells([source], [universal, bm3d], ["gamma:50"], ("known", "unknown"))
    assert [(c.method, c.level) for c in unknown] == [("n2s", "known"), ("bm3d", "known"), ("n2s", "unknown")]


def test_without_a_suite_every_network_meets_benchmarks_of_its_kind(tmp_path):
    color, gray, bm3d = network(tmp_path), network(tmp_path, UNIVERSAL, 1), Spy().as_method("bm3d")
    cbsd68, bsd68 = (Benchmark(name, "float", (), KNOWN[name].channels) for name in ("cbsd68", "bsd68"))
    cells = product_cells([cbsd68, bsd68], [color, gray, bm3d], ["gamma:50"], ("known",))
    assert [(c.benchmark, c.denoiser) for c in cells] == [
        ("cbsd68", color), ("cbsd68", bm3d), ("bsd68", gray), ("bsd68", bm3d)
    ]  # fmt: skip
    assert len(product_cells([cbsd68, bsd68], [bm3d], ["gamma:50"], ("known",))) == 2
    with pytest.raises(UserError, match="bsd68 holds gray images: give a --checkpoint for such too"):
        product_cells([cbsd68, bsd68], [color, bm3d], ["gamma:50"], ("known",))
    with pytest.raises(UserError, match="is for gray images: give a --benchmark of such too"):
        product_cells([cbsd68], [color, gray], ["gamma:50"], ("known",))


@pytest.mark.parametrize(
    ("noise", "level", "trained", "words"),
    [
        (None, "known", UNIVERSAL, "--noise is missing"),
        ("gamma", "known", UNIVERSAL, "--noise gamma names no level"),
        ("gamma", "unknown", UNIVERSAL, "--noise gamma names no level"),
        ("unknown", "unknown", UNIVERSAL, "--noise unknown names no level"),
        ("poisson:0.01", "known", "gaussian:25", "--noise is poisson:0.01, but .* was trained on gaussian:25"),
        ("poisson:0.01", "known", GAUSSIANS, "--noise is poisson:0.01, but .* was trained on gaussian:5-55"),
        ("gaussian:25", "unknown", "gaussian:25", "--level unknown needs a network of a whole range of levels"),
    ],
)
def test_what_can_not_be_evaluated_is_refused(tmp_path, photographs, noise, level, trained, words):
    source = Benchmark.open("a", photographs, None, "float")
    with pytest.raises(UserError, match=words):
        product_cells([source], [network(tmp_path, trained)], noise and [noise], (level,))


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def run(cli, tmp_path):
    def evaluated(*arguments: object):
        return cli(evaluate.main, f"--out={tmp_path / 'out'}", "--no-wandb", *arguments)

    return evaluated


def test_the_suite_computes_what_it_can_and_its_files_say_the_rest(run, tmp_path, monkeypatch):
    """Twelve gray images are enough for a Set12; nothing else is there. Two of the table's noises are enough."""
    monkeypatch.setitem(SUITES, "table2", SUITES["table2"]._replace(noises=("gaussian:25", "gamma:50")))
    (tmp_path / "data/set12").mkdir(parents=True)
    for number in range(12):
        Image.new("L", (40, 32 + number), 100).save(tmp_path / f"data/set12/{number:02d}.png")
    run_dir, data = save_network(tmp_path / "run", channels=1), tmp_path / "data"
    arguments = ["--suite=table2", f"--checkpoint={run_dir}", f"--data={data}"]
    done = run(*arguments)
    assert done.code == 0, done.err
    cells = json.loads((tmp_path / "out/results.json").read_text())["cells"]
    computed = [each for each in cells if "missing" not in each]
    assert len(cells) == 16 and all(each["num_images"] == 12 for each in computed)
    assert [(each["noise"], each["level"], each["benchmark"]) for each in computed] == [
        (noise, level, "set12") for noise in SUITES["table2"].noises for level in ("known", "unknown")
    ]
    missing = next(each for each in cells if "missing" in each)
    assert missing == {
        "noise": "gaussian:25", "level": "known", "method": "n2s", "benchmark": "bsd68", "protocol": "float",
        "paper_db": 29.12, "missing": f"no folder of images: {tmp_path / 'data/bsd68'} does not exist",
    }  # fmt: skip
    assert max(map(len, done.out.replace(str(tmp_path), "").splitlines())) <= 80
    assert (
        "bsd68 does not exist" in " ".join(done.out.split())
        and "bsd68 does not exist" in (tmp_path / "out/table.md").read_text()
    )
    assert len((tmp_path / "out/table.csv").read_text().splitlines()) == 17

    before = (tmp_path / "out/results.json").read_bytes()
    again = run(*arguments)
    assert again.out.count("taken from") == len(computed) and "0 images in 0 pieces" in again.out
    assert (tmp_path / "out/results.json").read_bytes() == before


def test_wrong_uses_of_a_suite_are_refused(run, photographs, tmp_path):
    network_dir = f"--checkpoint={save_network(tmp_path / 'run')}"
    suite = [network_dir, "--suite=table2"]
    assert "--benchmark mine is not part of --suite table2" in run(*suite, f"--benchmark=mine={photographs}").error()
    assert "--noisy is not part of" in run(*suite, f"--noisy=set12={photographs}").error()
    assert "--noise is given, but --suite" in run(*suite, "--noise=gaussian:25").error()
    assert "nowhere is not a folder" in run(*suite, "--data=nowhere").error()
    assert "--data is missing: name the folder of --suite table2's benchmarks: bsd68, " in run(*suite).error()
    assert f"{tmp_path} holds none of --suite table2's benchmarks" in run(*suite, f"--data={tmp_path}").error()
    assert "is not set12, which has 12 gray images" in run(*suite, f"--benchmark=set12={photographs}").error()
    assert "--data goes with --suite" in run(network_dir, f"--data={tmp_path}").error()
    assert "--benchmark is missing" in run(network_dir).error()
    assert "--checkpoint is missing" in run(f"--benchmark=a={photographs}").error()


def test_noisy_files_with_and_without_clean_ones(run, photographs, tmp_path):
    network_dir = f"--checkpoint={save_network(tmp_path / 'run', 'gaussian:25')}"
    arguments = [network_dir, f"--noisy=a={photographs}", f"--benchmark=a={photographs}", f"--noisy=real={photographs}"]
    done = run(*arguments)
    assert done.code == 0, done.err
    pairs, real = json.loads((tmp_path / "out/results.json").read_text())["cells"]
    assert pairs["psnr_noisy_db"] > 150 and 5 < pairs["psnr_db"] < 50  # equal files, but for float32's last bit
    assert real["psnr_db"] is None and real["protocol"] == pairs["protocol"] == "uint8_input"
    assert (tmp_path / "out/pictures/gaussian_25-known/real/coffee-denoised.png").exists()
    (line,) = [line for line in done.out.splitlines() if line.startswith("real ")]
    assert line.split() == ["real", "known", "n2s", "5", *["-"] * 6]
