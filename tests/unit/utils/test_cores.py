"""Cores that a process may use: its affinity, and what time a container's control groups allow."""

import os
from pathlib import Path

import pytest

from n2s_dist.utils import cores


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """Cores that a machine of 64 allows under these files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))

    def allowed(group: str, **files: str) -> int:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(group)
        for name, content in files.items():
            path = tmp_path / "sys/fs/cgroup" / Path(name.replace("__", "/").replace("cpu_", "cpu."))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return cores.usable_cores(tmp_path)

    return allowed


@pytest.mark.parametrize(
    ("content", "expected"),
    [("200000 100000\n", 2), ("max 100000\n", 64), ("50000 100000\n", 1), ("350000 100000\n", 3), ("nonsense", 64)],
)
def test_a_containers_quota_is_seen(quota, content, expected):
    assert quota("0::/\n", cpu_max=content) == expected


def test_the_smallest_quota_of_all_groups_above_counts(quota):
    files = {"slurm__job__cpu_max": "max 100000", "slurm__cpu_max": "400000 100000", "other__cpu_max": "100000 100000"}
    assert quota("0::/slurm/job\n", **files) == 4


def test_a_quota_of_the_first_version_is_seen(quota):
    files = {"cpu,cpuacct__job__cpu_cfs_quota_us": "300000", "cpu,cpuacct__job__cpu_cfs_period_us": "100000"}
    assert quota("12:pids:/job\n4:cpu,cpuacct:/job\n0::/x\n", **files) == 3


def test_without_quotas_it_is_the_affinity(quota, tmp_path):
    assert quota("4:cpu:/job\n", cpu__job__cpu_cfs_quota_us="-1", cpu__job__cpu_cfs_period_us="100000") == 64
    assert cores.usable_cores(tmp_path / "nowhere") == 64
