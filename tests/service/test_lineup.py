"""Who gets the version on trial."""

import itertools
from dataclasses import dataclass

import pytest

from service.lineup import Lineup, Trial, mixed


@dataclass(frozen=True)
class Version:
    """A version that has a name and nothing else."""

    name: str


SERVING, CANDIDATE = Version("a"), Version("b")
USERS = range(20_000)


def lineup(canary: float, version: str = "b", shadow: bool = False) -> Lineup[Version]:
    return Lineup(SERVING, Trial(version, canary, shadow, "id"), Version(version))


def chosen(canary: float, version: str = "b", users: range = USERS) -> set[int]:
    """The users whom the version on trial answers."""
    tried = lineup(canary, version)
    return {user for user in users if tried.choose(user) is tried.candidate}


@pytest.mark.parametrize("canary", [0.001, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("users", [USERS, range(2**62, 2**62 + 20_000), range(0, 20_000 * 4096, 4096)])
def test_the_share_is_kept_whatever_the_ids(canary: float, users: range) -> None:
    """Of so many users as many are chosen as chance allows, within five deviations."""
    deviation = (canary * (1 - canary) * len(users)) ** 0.5
    assert abs(len(chosen(canary, users=users)) - canary * len(users)) < 5 * deviation


def test_a_growing_share_keeps_the_users_it_had() -> None:
    """Nobody who had the version loses it when more get it."""
    shares = [chosen(canary) for canary in (0.01, 0.05, 0.2, 0.7)]
    for few, more in itertools.pairwise(shares):
        assert few < more


def test_each_version_is_tried_on_users_of_its_own() -> None:
    """Who had the last trial has this one no more often than others."""
    first, second = chosen(0.1), chosen(0.1, "c")
    expected = 0.01 * len(USERS)
    assert abs(len(first & second) - expected) < 5 * expected**0.5


def test_the_choice_is_the_same_in_every_process_and_release() -> None:
    """The hash is the one that is published: what it gives must never change, or users would change sides."""
    # The first two outputs of SplitMix64 from seed 0; whom of users 0 to 11 half of them are.
    assert [mixed(seed) for seed in (0, 0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [user for user in range(12) if user in chosen(0.5)] == [0, 3, 8, 9, 10]


def test_nobody_is_answered_by_a_version_in_the_shadow_or_that_is_not_loaded() -> None:
    """Without a share, or without the version, whoever asks gets the one that serves."""
    shadow = lineup(0.0, shadow=True)
    absent = Lineup(SERVING, Trial("b", 0.5, False, "id"), None)
    for tried in (shadow, absent, Lineup(SERVING)):
        assert {tried.choose(user) for user in range(1000)} == {SERVING}
    assert (shadow.is_shadowed, absent.is_shadowed, lineup(0.5).is_shadowed) == (True, False, False)


def test_versions_are_found_by_name() -> None:
    """Those that are loaded, each once."""
    tried = lineup(0.1)
    assert [tried.named(name) for name in ("a", "b", "c")] == [SERVING, CANDIDATE, None]
    assert tried.versions == (SERVING, CANDIDATE)
    assert Lineup(SERVING, Trial("a", 0.1, False, ""), SERVING).versions == (SERVING,)
