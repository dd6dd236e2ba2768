"""What holds a version back: its AUC, and its scores on recent requests."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import MANIFEST, read_manifest
from contract.client import ClientError
from contract.codec import recent_key
from contract.manifest import Measured
from contract.wire import GateResult
from service import gate
from service.gate import stability_index, stated_auc
from service.recent import RecentRequest
from tests.service.catalogue import NUM_ITEMS, Expected
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.trials import change_manifest, model_of, rank_many

CANDIDATES = range(NUM_ITEMS)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is kept, so that a test need not wait, and all of them are scored."""
    monkeypatch.setattr("service.recent._EVERY_S", 0.0)
    monkeypatch.setattr("service.gate._MOST_SCORES", 100_000)


@pytest.fixture
def gated(own_store: Store, stocked_url: str, often: None) -> Iterator[Running]:
    """A service that guards promotions as it does by default, over a store of its own."""
    with running(make_settings(own_store.folder, stocked_url, gate_max_psi=0.25)) as service:
        yield service


def fill(service: Running, plain, num_requests: int = 5) -> None:
    """Rank, and wait until so many requests at least are kept."""
    wait_until(lambda: rank_many(service.http, 1, CANDIDATES) and plain.xlen(recent_key("qin")) >= num_requests)


def judged(service: Running, version: str, **options: object) -> GateResult:
    found = service.client.promote(version, **options).gate
    assert found is not None
    return found


def copied(bundle: Path, version: str) -> Path:
    """Publish the same model again under another name."""
    copy = shutil.copytree(bundle, bundle.with_name(version))
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace(bundle.name, version))
    change_manifest(copy, provenance={})
    return copy


def test_a_version_whose_scores_lie_elsewhere_is_held_back(gated: Running, own_store: Store, plain) -> None:
    """The answer is 409 with the figure that numpy gives for the same scores; who serves and the key stay."""
    fill(gated, plain)
    old, new = (Expected(bundle).scores(CANDIDATES) for bundle in (own_store.old, own_store.new))
    expected = stability_index(new, old)
    assert expected > 0.25
    for options in ({}, {"canary": 0.1}):
        with pytest.raises(ClientError, match=r"PSI (\d+\.\d+) \(gate_max_psi is 0.25\)") as caught:
            gated.client.promote(own_store.old.name, **options)
        assert caught.value.status == 409
        told = float(str(caught.value).split("PSI ")[1].split()[0])
        # Users differ and have no histories: every request gives the same scores.
        assert told == pytest.approx(expected, rel=0.1)
    model = model_of(gated)
    assert (model.serving, model.active, model.trial) == (own_store.new.name, own_store.new.name, None)


def test_force_promotes_it_all_the_same(gated: Running, own_store: Store, plain) -> None:
    """The answer tells what the gate found."""
    fill(gated, plain)
    found = judged(gated, own_store.old.name, force=True)
    assert (found.passed, found.forced, found.auc, found.serving_auc) == (False, True, 0.5, 0.5)
    assert found.psi is not None
    assert found.psi > 0.25
    assert found.num_scores == found.num_requests * NUM_ITEMS
    assert len(found.reasons) == 1
    assert model_of(gated).active == own_store.old.name


def test_a_version_that_scores_alike_passes(gated: Running, own_store: Store, plain) -> None:
    """The same model under another name has the same scores."""
    copy = copied(own_store.new, "20990101T000000000Z-00000000")
    fill(gated, plain)
    found = judged(gated, copy.name)
    assert (found.passed, found.reasons, found.passed_over) == (True, [], [])
    assert found.psi == pytest.approx(0, abs=1e-9)


def test_a_shadow_and_a_rollback_need_not_pass(gated: Running, own_store: Store, plain) -> None:
    """What answers nobody does no harm, and the way back is always open."""
    fill(gated, plain)
    answer = gated.client.promote(own_store.old.name, shadow=True)
    assert (answer.gate, answer.models[0].trial.version) == (None, own_store.old.name)
    with pytest.raises(ClientError, match="PSI"):
        gated.client.promote(own_store.old.name)
    assert model_of(gated).trial is not None
    gated.client.promote(own_store.old.name, force=True)
    assert gated.client.rollback().models[0].active == own_store.new.name


@pytest.mark.parametrize(("auc", "passes"), [(0.495, True), (0.494, False), (0.7, True)])
def test_a_lower_auc_holds_a_version_back(own_store: Store, stocked_url: str, auc: float, passes: bool) -> None:
    """It may be lower by no more than the setting; the answer tells both."""
    change_manifest(own_store.old, provenance={"auc": auc, "data_fingerprint": "same"})
    change_manifest(own_store.new, provenance={"data_fingerprint": "same"})
    with running(make_settings(own_store.folder, stocked_url, gate_max_auc_drop=0.005)) as service:
        if passes:
            assert (found := judged(service, own_store.old.name)).passed
            assert (found.auc, found.serving_auc) == (auc, 0.5)
            return
        with pytest.raises(ClientError, match=r"its AUC is 0.4940, 0.0060 below the serving version's 0.5000"):
            service.client.promote(own_store.old.name)
        assert judged(service, own_store.old.name, force=True).reasons


@pytest.mark.parametrize("fingerprint", ["another day", None])
def test_an_auc_of_other_data_may_be_lower(own_store: Store, stocked_url: str, fingerprint: str | None) -> None:
    """One day is harder to tell than another; far below is held back all the same."""
    change_manifest(own_store.new, provenance={"data_fingerprint": fingerprint})
    change_manifest(own_store.old, provenance={"auc": 0.46, "data_fingerprint": "a day" if fingerprint else None})
    with running(make_settings(own_store.folder, stocked_url)) as service:
        assert judged(service, own_store.old.name).passed
        service.client.rollback()
    change_manifest(own_store.old, provenance={"auc": 0.44})
    with (
        running(make_settings(own_store.folder, stocked_url)) as service,
        pytest.raises(ClientError, match=r"0.0600 below .*gate_max_auc_drop_other_data is 0.05"),
    ):
        service.client.promote(own_store.old.name)


def test_what_cannot_be_looked_at_is_passed_over_and_said(
    own_store: Store, stocked_url: str, often: None, plain
) -> None:
    """Without an AUC in both manifests, and with too few recent requests, a version passes; the answer tells why."""
    change_manifest(own_store.new, provenance={"auc": None})
    with running(make_settings(own_store.folder, stocked_url, gate_max_psi=0)) as service:
        service.client.rank(1, [1, 2, 3])
        wait_until(lambda: plain.xlen(recent_key("qin")) == 1)
        found = judged(service, own_store.old.name)
        assert (found.passed, found.psi, found.serving_auc, found.num_requests) == (True, None, None, 1)
        assert [reason.split(":")[0] for reason in found.passed_over] == ["auc", "scores"]


def test_recent_requests_are_those_of_every_replica(own_store: Store, stocked_url: str, often: None, plain) -> None:
    """A replica that nobody asked judges by what the others were asked."""
    settings = make_settings(own_store.folder, stocked_url, gate_max_psi=0.25)
    with running(settings) as idle, running(settings) as busy:
        fill(busy, plain)
        with pytest.raises(ClientError, match="PSI"):
            idle.client.promote(own_store.old.name)


def test_histories_and_levels_count_as_they_were_used(gated: Running, own_store: Store, plain) -> None:
    """What is kept is what the answer was made from, whatever is stored by now."""
    levels = [i % 10 for i in CANDIDATES]
    gated.client.put_history(5, [3, 9, 4])

    def num_kept() -> int:
        gated.client.rank(5, list(CANDIDATES), likes_level=levels, views_level=levels)
        return int(plain.xlen(recent_key("qin")))

    wait_until(lambda: num_kept() >= 5)
    gated.client.put_history(5, [1])
    found = judged(gated, own_store.old.name, force=True)
    old, new = (Expected(b).scores(CANDIDATES, [3, 9, 4], levels, levels) for b in (own_store.old, own_store.new))
    expected = stability_index(np.tile(new, found.num_requests), np.tile(old, found.num_requests))
    assert found.psi == pytest.approx(expected, rel=1e-3)
    other = stability_index(
        *(np.tile(Expected(b).scores(CANDIDATES, [1]), 5) for b in (own_store.new, own_store.old))
    )
    assert found.psi != pytest.approx(other, rel=1e-3)


def test_requests_are_answered_while_the_gate_looks(
    gated: Running, own_store: Store, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It scores in a thread of its own, of low priority."""
    looking, go_on, priorities, score_all = threading.Event(), threading.Event(), [], gate.score_all

    def slowly(*arguments: object) -> object:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        looking.set()
        go_on.wait(30)
        return score_all(*arguments)

    fill(gated, plain)
    monkeypatch.setattr(gate, "score_all", slowly)
    promotion = threading.Thread(target=lambda: gated.client.promote(own_store.old.name, force=True))
    promotion.start()
    assert looking.wait(30)
    assert gated.client.rank(1, [9]).version == own_store.new.name
    go_on.set()
    promotion.join(30)
    assert gated.client.rank(1, [9]).version == own_store.old.name
    assert set(priorities) == {os.getpriority(os.PRIO_PROCESS, 0) + 10}


def test_the_index_grows_with_the_distance() -> None:
    """It is 0 for the same scores and, for a shift by a decile, what the formula gives by hand."""
    scores = np.linspace(0, 1, 10_001)
    assert stability_index(scores, scores) == 0
    shifted = stability_index(scores, scores + 0.1)
    # The lowest bin is empty but for half a score, the highest one has twice as many.
    empty = 0.5 / 10_006
    assert shifted == pytest.approx((empty - 0.1) * np.log(empty / 0.1) + 0.1 * np.log(2), rel=0.01)
    assert stability_index(scores, scores + 0.2) > shifted > 0.25
    assert stability_index(np.full(500, 0.5), np.full(500, 0.5)) == 0


def test_precision_counts_against_the_auc(own_store: Store) -> None:
    """A bundle in less than float32 is taken to be as good as training said, less what it was measured to lose."""
    manifest = read_manifest(own_store.old)
    measured = Measured(num_rows=10, auc=0.71, auc_float32=0.73, max_score_error=0.0)
    assert stated_auc(manifest) == 0.5
    assert stated_auc(manifest.model_copy(update={"measured": measured})) == pytest.approx(0.48)


def request(num_candidates: int, first: int = 0) -> RecentRequest:
    ids = np.arange(first, first + num_candidates)
    return RecentRequest(1, ids, ids[:3], np.stack([ids, -ids], axis=1))


def test_requests_of_one_length_are_scored_together() -> None:
    """What is not too much is scored whole, in few runs; each candidate keeps its levels and its history."""
    requests = [request(10, first) for first in range(0, 600, 10)] + [request(3, 1000), request(300, 2000)]
    runs = gate.sampled_runs(requests, 100_000)
    assert [run.candidates.shape for run in runs] == [(12, 10)] * 5 + [(1, 3), (1, 300)]
    candidates = np.concatenate([run.candidates.ravel() for run in runs])
    assert sorted(candidates) == sorted(np.concatenate([each.candidates for each in requests]))
    for run in runs:
        assert (run.levels[..., 0] == run.candidates).all()
        assert (np.stack(run.histories) == run.candidates[:, :3]).all()


def test_of_very_many_scores_some_are_enough() -> None:
    """Large requests are thinned evenly, small ones stay whole; of very many requests some are left out."""
    runs = gate.sampled_runs([request(1000)] * 8 + [request(2)], 900)
    assert [run.candidates.shape for run in runs] == [(1, 100)] * 8 + [(1, 2)]
    assert runs[0].candidates[0, :3].tolist() == [0, 10, 20]
    runs = gate.sampled_runs([request(32, 1000 * number) for number in range(256)], 1024)
    assert sum(run.candidates.size for run in runs) == 1024
    users = np.concatenate([run.candidates[:, 0] for run in runs]) // 1000
    assert users.tolist() == list(range(0, 256, 4))
