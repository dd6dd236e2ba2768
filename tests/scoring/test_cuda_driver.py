"""Which of a library's code a GPU runs."""

import pytest

from scoring.cuda_driver import architecture_for

BUILT = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("gpu", "architecture"),
    [
        ((7, 5), "sm_75"),
        ((8, 6), "sm_86"),
        ((8, 9), "sm_86"),
        ((9, 0), "sm_90"),
        ((12, 1), "sm_120"),
        ((13, 0), "compute_120"),
        ((10, 0), None),
        ((7, 0), None),
        ((0, 0), None),
    ],
)
def test_a_gpu_runs_code_of_its_own_generation_or_what_the_driver_compiles(gpu, architecture):
    """The newest that it can; none at all is None, and no kernel is used."""
    assert architecture_for(gpu, BUILT) == architecture


def test_code_for_one_chip_runs_on_that_alone():
    """As `sm_100a` does; code of a family is not counted on."""
    assert architecture_for((10, 0), ("sm_100a",)) == "sm_100a"
    assert architecture_for((10, 3), ("sm_100a",)) is None
