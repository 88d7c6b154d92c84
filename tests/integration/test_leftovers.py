"""A run among variables that another job left over in the environment: they are named and have no effect."""

import pytest
from support.forked_ranks import Start

from n2s_dist.models import checkpoint
from n2s_dist.utils.locks import alone_in


def left(**variables: str) -> dict[int, Start]:
    return {0: Start(variables=variables)}


@pytest.mark.parametrize(
    "leftover",
    [
        {"LOCAL_RANK": "1"},
        {"WORLD_SIZE": "2", "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        {"ACCELERATE_DYNAMO_BACKEND": "eager"},
    ],
)
def test_a_run_with_leftovers_says_so_once_and_is_the_run_without_them(fleet, tiny, trained, tmp_path, leftover):
    ranks = fleet(1, [*tiny, "--run_dir", tmp_path], apart=left(**leftover))
    assert ranks.wait() == [0], ranks.text("err")
    (note,) = [line for line in ranks.text("err").splitlines() if line.startswith("note: ")]
    assert all(f"{name}={value}" in note for name, value in leftover.items())
    last = checkpoint.locate(tmp_path)
    assert (last / "model.safetensors").read_bytes() == (checkpoint.locate(trained) / "model.safetensors").read_bytes()


def test_a_leftover_rank_does_not_let_two_runs_into_one_folder(fleet, tiny, tmp_path):
    arguments = [*tiny, "--train.total_samples=800000", "--run_dir", tmp_path]
    first = fleet(1, arguments, apart=left(RANK="1"))
    first.wait_for(8)
    second = fleet(1, arguments, apart=left(RANK="1"))
    assert second.wait() == [2]
    (line,) = second.errors()
    assert f"works in {tmp_path}" in line
    first.kill()


def test_a_leftover_rank_silences_no_message(fleet, tiny, tmp_path):
    ranks = fleet(1, [*tiny, "--data.crop_size=100", "--run_dir", tmp_path], apart=left(LOCAL_RANK="1", RANK="1"))
    assert ranks.wait() == [2] and "crop_size is 100" in ranks.errors()[0]


def test_ranks_that_are_launched_say_what_has_no_effect_once(fleet, tiny, tmp_path):
    variables = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    apart = {rank: Start(variables=variables) for rank in range(2)}
    ranks = fleet(2, [*tiny, "--data.crop_size=100", "--run_dir", tmp_path], apart=apart)
    assert ranks.wait() == [2, 2] and ranks.text("err").count("note: ") == 1


def test_a_leftover_rank_does_not_let_two_evaluations_into_one_folder(fleet, trained, photographs, tmp_path):
    arguments = ["--checkpoint", trained, f"--benchmark=own={photographs}", "--no-wandb", "--out", tmp_path]
    with alone_in(tmp_path, name=".evaluating"):
        ranks = fleet(1, arguments, program="evaluate", apart=left(RANK="1"))
        assert ranks.wait() == [2] and f"works in {tmp_path}" in ranks.errors()[0]
