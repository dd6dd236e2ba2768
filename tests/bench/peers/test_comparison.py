"""The comparison's arithmetic, and its check of scores."""

import json
from dataclasses import replace

import numpy as np
import pytest

from loadtest.messages import Messages
from tests.bench.peers.check import TOLERANCE, largest_distance
from tests.bench.peers.comparison import FIGURES, best_peer, ratios, spread
from tests.bench.peers.errors import DifferentScoresError
from tests.bench.peers.protocol import RANK, V2, V2_BINARY, Protocol
from tests.bench.peers.report import Results, tables
from tests.bench.peers.servers import OURS, SERVERS, Setup, setups
from tests.bench.peers.turn import Latency, Throughput, Turn

CANDIDATES = np.array([3, 2**62, 7])
SCORES = np.array([0.125, 0.5, 0.875], dtype=np.float32)


def make_turn(per_s: float = 10, latency_ms: float = 20, cpu_s: float = 100, memory: int = 10**9) -> Turn:
    """Return a turn whose latencies are all alike."""
    latency = Latency(per_s / 2, 200, latency_ms, latency_ms, 0)
    return Turn(Throughput(per_s, cpu_s, 0), latency, latency, memory)


def test_ratios_are_of_turns_of_the_same_round():
    """A machine that is twice as slow in one round changes no ratio of it."""
    ours, theirs = [make_turn(100, 2), make_turn(50, 4)], [make_turn(10, 30), make_turn(5, 60)]
    per_s, p50 = (ratios(ours, theirs, figure) for figure in FIGURES[:2])
    assert (per_s.least, per_s.middle, per_s.most) == (10, 10, 10)
    assert (p50.least, p50.middle, p50.most) == (15, 15, 15)


def test_every_ratio_above_one_says_that_the_first_is_better():
    """More requests a second are better, and less of everything else is."""
    better, worse = [make_turn(100, 2, 10, 10**8)], [make_turn(10, 30, 90, 10**9)]
    assert all(ratios(better, worse, figure).middle > 1 for figure in FIGURES)
    assert all(ratios(worse, better, figure).middle < 1 for figure in FIGURES)


def test_a_spread_is_shown_where_there_is_one():
    """One measurement has no spread, several have the least and the most beside the median."""
    assert spread([2.04]).shown() == "2.0"
    assert spread([3.0, 1.0, 8.0]).shown() == "3.0 (1.0 to 8.0)"


def test_the_best_peer_is_the_one_that_does_most_at_the_median():
    """One lucky round makes none the best, and none is best where all were left out."""
    turns = {"a": [make_turn(9), make_turn(10), make_turn(11)], "b": [make_turn(5), make_turn(6), make_turn(99)]}
    assert best_peer(turns, ["a", "b", "absent"]) == "a"
    assert best_peer(turns, ["absent"]) is None


@pytest.mark.parametrize(
    "wrong",
    [SCORES + np.float32(2 * TOLERANCE), SCORES[:2], np.where(SCORES > 0.5, np.nan, SCORES), SCORES[::-1]],
    ids=["off", "too few", "not a number", "another order"],
)
def test_other_scores_are_refused(wrong):
    """Nothing is compared with a server that scores something else."""
    with pytest.raises(DifferentScoresError):
        largest_distance([SCORES, SCORES], [SCORES.astype(float), wrong.astype(float)])


def test_scores_within_the_tolerance_pass_and_tell_how_far_off_they_are():
    """Another order of summation is no other model."""
    given = SCORES.astype(float) + np.array([0, TOLERANCE / 4, -TOLERANCE / 2])
    assert largest_distance([SCORES], [given]) == pytest.approx(TOLERANCE / 2)


def test_scores_that_are_all_alike_prove_nothing():
    """A model that gives everything the same score could not be told from a server that ignores its question."""
    alike = np.full(3, 0.5, dtype=np.float32)
    with pytest.raises(DifferentScoresError, match="alike"):
        largest_distance([alike], [alike.astype(float)])


@pytest.mark.parametrize("protocol", [RANK, V2, V2_BINARY], ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("user", [5, 2**63 - 1])
def test_a_request_has_the_length_that_it_states_and_names_the_user(protocol: Protocol, user: int):
    """The generator writes the user into bytes that were made before; the whole is a request all the same."""
    messages: Messages = protocol.messages("host", [CANDIDATES])
    head, _, body = messages.message(0, user).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(headers["Content-Length"]) == len(body)
    described = int(headers.get("Inference-Header-Content-Length", len(body)))
    asked = json.loads(body[:described])
    if protocol is RANK:
        assert asked == {"user_id": user, "candidates": CANDIDATES.tolist()}
        return
    users, candidates = asked["inputs"]
    assert (users["name"], users["data"]) == ("USER_ID", [user])
    sent = np.frombuffer(body[described:], "<i8").tolist() if described < len(body) else candidates["data"]
    assert (candidates["name"], candidates["shape"], sent) == ("CANDIDATES", [1, 3], CANDIDATES.tolist())


def test_scores_are_read_from_every_protocol():
    """Each answer gives the same numbers in the candidates' order."""
    output = {"name": "SCORES", "shape": [1, 3], "datatype": "FP32"}
    rank = json.dumps({"model": "qin", "scores": SCORES.tolist()}).encode()
    v2 = json.dumps({"outputs": [output | {"data": SCORES.tolist()}]}).encode()
    binary = json.dumps({"outputs": [output]}).encode() + SCORES.astype("<f4").tobytes()
    for protocol, body in ((RANK, rank), (V2, v2), (V2_BINARY, binary)):
        np.testing.assert_array_equal(protocol.scores(body, 3), SCORES)


def test_every_way_to_share_out_the_cores_uses_all_of_them():
    """One core has one way only."""
    assert setups(2) == [Setup(2, 1), Setup(1, 2)]
    assert setups(1) == [Setup(1, 1)]


def test_the_report_names_the_ratio_to_the_best_peer_and_who_was_left_out():
    """The best peer is the best of those that took part, and the best of the published model is named by itself."""
    folded, published, absent = SERVERS[2].name, SERVERS[3].name, SERVERS[4].name
    turns = {OURS.name: [make_turn(100)], folded: [make_turn(50)], published: [make_turn(8)]}
    chosen = dict.fromkeys(turns, Setup(2, 1))
    results = Results(
        100,
        2.0,
        turns,
        chosen,
        {name: {Setup(2, 1): 1.0} for name in turns},
        dict.fromkeys(turns, 0.0),
        {absent: "no\nx"},
    )
    lines = [part for part in tables(results) if isinstance(part, str)]
    assert lines[0].startswith("12.5 times")
    assert published in lines[0]
    assert lines[1].startswith("2.0 times")
    assert folded in lines[1]
    assert lines[2] == "left out: no"


def test_the_report_says_whose_requests_failed():
    """Figures of a server that did not answer everything are not what they seem."""
    broken = make_turn()
    broken = replace(broken, half=replace(broken.half, failed=3))
    names = (OURS.name, SERVERS[3].name)
    same = dict.fromkeys(names, Setup(1, 1))
    results = Results(
        10,
        1.0,
        {names[0]: [make_turn()], names[1]: [broken]},
        same,
        {name: {} for name in names},
        dict.fromkeys(names, 0.0),
        {},
    )
    lines = [part for part in tables(results) if isinstance(part, str)]
    assert f"{names[1]}: 3 requests failed, so its figures are not what they seem" in lines
