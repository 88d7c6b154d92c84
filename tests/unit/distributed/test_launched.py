"""What the environment says of a launch: six variables count together or not at all; leftovers are named."""

import pytest

from n2s_dist.distributed.launched import Launch, read_launch, settle
from n2s_dist.utils.errors import UserError

RANK_1 = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}  # fmt: skip
# What accelerate launch adds by itself.
LAUNCHER = {
    "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False", "ACCELERATE_USE_CPU": "False",
}  # fmt: skip


def test_what_a_launcher_sets_is_a_rank():
    launch, note = settle({**RANK_1, **LAUNCHER})
    assert launch == Launch(1, 1, 2, 2, "n1", 29500) and not launch.is_alone and not launch.is_main and note == ""


def test_one_rank_of_one_is_alone_and_accelerate_sees_no_ranks():
    environment = {**RANK_1, **LAUNCHER, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    launch, note = settle(environment)
    assert launch.is_alone and launch.is_main and note == ""
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & environment.keys()


@pytest.mark.parametrize(
    "leftover",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "1"},
        {"WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "n1"},
        {"PMI_SIZE": "2", "PMI_RANK": "1"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        {"MV2_COMM_WORLD_SIZE": "4"},
    ],
)
def test_leftovers_of_a_launch_are_named_and_removed(leftover):
    environment = {"PATH": "/bin", **leftover}
    launch, note = settle(environment)
    assert launch == Launch() and note.startswith("without effect in the environment: ")
    for name, value in leftover.items():
        assert (f"{name}={value}" in note) == (value not in ("0", "n1"))
    assert environment.keys() <= {"PATH", "MASTER_ADDR"}
    assert settle(environment) == (Launch(), "")


def test_values_of_one_rank_alone_are_no_news():
    """As srun sets them for a step of one task."""
    assert settle({"PMI_SIZE": "1", "PMI_RANK": "0", "WORLD_SIZE": "1", "RANK": "0"}) == (Launch(), "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
    ],
)
def test_what_accelerate_would_take_from_the_environment_is_named_and_removed(name, value):
    """Of a rank as well: the configuration decides."""
    for launched in ({}, RANK_1):
        environment = {**launched, name: value}
        _, note = settle(environment)
        assert f"{name}={value} (" in note and name not in environment


def test_one_device_for_all_ranks_is_named_and_removed():
    environment = {**RANK_1, "ACCELERATE_TORCH_DEVICE": "cuda:3"}
    assert "ACCELERATE_TORCH_DEVICE=cuda:3 (" in settle(environment)[1] and environment.keys() == RANK_1.keys()


@pytest.mark.parametrize("name", ["ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_TORCH_DEVICE"])
def test_a_kind_of_device_is_respected(name):
    environment = {name: "true"}
    assert settle(environment) == (Launch(), "") and environment == {name: "true"}


def test_many_leftovers_are_counted():
    note = settle({f"ACCELERATE_DEEPSPEED_{letter}": "1" for letter in "ABCDEFGH"})[1]
    assert "ACCELERATE_DEEPSPEED_F=1 and 2 more (" in note and "\n" not in note


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2 and LOCAL_WORLD_SIZE is 2"),
        ({"LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE is 4 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is ''"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK missing"),
        ({"LOCAL_RANK": None, "LOCAL_WORLD_SIZE": None}, "LOCAL_RANK and LOCAL_WORLD_SIZE missing"),
    ],
)
def test_a_launch_that_can_not_be_is_refused(changed, said):
    environment = {key: value for key, value in {**RANK_1, **changed}.items() if value is not None}
    with pytest.raises(UserError, match=said):
        read_launch(environment)
