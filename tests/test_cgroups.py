"""A container's limits, as Linux writes them."""

import os

import pytest

from rabtriever import cgroups, threads


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes the files of control groups and this process's place among them."""

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path.joinpath("fs", *name.split("__")[:-1], name.split("__")[-1].replace("_dot_", "."))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(cgroups, "MOUNT", tmp_path / "fs")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    cgroups.cpu_quota.cache_clear()
    yield write
    cgroups.cpu_quota.cache_clear()


def test_version_2_in_a_container(groups):
    groups("0::/\n", cpu_dot_max="150000 100000\n", memory_dot_max="1073741824\n")
    assert cgroups.cpu_quota() == 1.5 and cgroups.memory_limit() == 1 << 30


def test_the_tightest_of_the_groups_above_counts(groups):
    files = {"a__cpu_dot_max": "100000 100000", "a__b__cpu_dot_max": "max 100000", "a__memory_dot_max": "5000"}
    groups("0::/a/b\n", **files, a__b__memory_dot_max="7000")
    assert cgroups.cpu_quota() == 1 and cgroups.memory_limit() == 5000


def test_version_1(groups):
    own = "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n1:name=systemd:/docker/x\n"
    files = {"cpu__cpu_dot_cfs_quota_us": "50000", "cpu__cpu_dot_cfs_period_us": "100000"}
    groups(own, **files, memory__memory_dot_limit_in_bytes="9223372036854771712")
    assert cgroups.cpu_quota() == 0.5 and cgroups.memory_limit() is None


@pytest.mark.parametrize("files", [{}, {"cpu_dot_max": "max 100000", "memory_dot_max": "max"}])
def test_without_limits(groups, files):
    groups("0::/\n", **files)
    assert cgroups.cpu_quota() is None and cgroups.memory_limit() is None


def test_elsewhere_there_are_no_groups(groups):
    assert cgroups.cpu_quota() is None and cgroups.memory_limit() is None


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("150000", 2), ("100000000", None)])
def test_cores_are_no_more_than_the_quota_fills(groups, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    groups("0::/\n", cpu_dot_max=f"{quota} 100000")
    assert threads.available_cores() == (cores or 8)
