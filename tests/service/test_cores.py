import math
import os

import pytest

from service import cores
from service.cores import cpu_quota, num_physical_cores
from tests.service.conftest import Store
from tests.service.running import serving_process


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "nonsense\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_containers_share_of_the_processors_is_read(tmp_path, files, quota):
    """Of control groups of either version; without a limit, or one that can be read, there is none."""
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path) == quota


def test_a_limited_container_counts_no_more_cores_than_it_may_use(tmp_path, monkeypatch):
    """A part of a core counts as one, and there is always one."""
    allowed = num_physical_cores()
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    for quota, most in ((50_000, 1), (100_000, 1), (150_000, 2), (100_000_000, 10**6)):
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
        assert 1 <= num_physical_cores() <= min(most, max(allowed, most))
    if len(os.sched_getaffinity(0)) > 1:
        (tmp_path / "cpu.max").write_text("max 100000\n")
        unlimited = num_physical_cores()
        (tmp_path / "cpu.max").write_text("50000 100000\n")
        assert num_physical_cores() == 1 <= unlimited


def test_the_service_says_how_many_threads_it_takes(store: Store, stocked_url, tmp_path):
    """The line that says that it is ready tells the number, chosen by the cores if none is set."""
    for given, said in ((3, 3), (0, num_physical_cores())):
        settings = {"store": store.folder, "redis_url": stocked_url, "num_threads": given}
        with serving_process(tmp_path / "log", **settings) as process:
            assert f"; {said} threads a ranking; " in process.stdout.readline()
            process.terminate()
            assert process.wait(30) == 0
