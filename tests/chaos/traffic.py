"""Constant requests while things fail: ranks whose scores are checked, items that change, events that must last."""

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Lock

from contract.client import ONCE, Client, ClientError
from contract.wire import Ranking
from tests.chaos.world import CHANGING, DELETED, HISTORY_LENGTH, NUM_VARIANTS, STEADY, History, World
from tests.service.running import wait_until

VISIBLE_S = 1.0
"""After so long an item that was written must be ranked as it is."""
WRITER = 999
"""The user whose history grows."""
_PAUSE_S = 0.004
_LONGEST_S = 60
_MOST_TRIES = 100
_CANDIDATES = 20


@dataclass(slots=True)
class Write:
    """One attempt to change an item."""

    variant: int
    started: float
    ended: float = float("inf")
    stored: bool = False


@dataclass
class Tally:
    """What happened; every field is a count."""

    sent: int = 0
    answered: int = 0
    degraded: int = 0
    shed: int = 0
    failed: int = 0
    repeated: int = 0
    wrong: int = 0
    late: int = 0
    written: int = 0
    refused: int = 0
    appended: int = 0
    notes: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def add(self, **counts: int) -> None:
        """Add to fields by name."""
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def note(self, text: str) -> None:
        """Keep the first few sayings of what was wrong."""
        with self.lock:
            if len(self.notes) < 10:
                self.notes.append(text)


def surely(request: Callable[[], object]) -> None:
    """Make a request again and again until it is done; a machine that is busy may take its time."""
    for _ in range(_MOST_TRIES):
        try:
            request()
        except ClientError as error:
            if error.status != 503:
                raise
        else:
            return
        time.sleep(10 * _PAUSE_S)
    raise AssertionError("a request is refused for ever")


class Traffic:
    """Requests from several threads to one service, and the checks of its answers.

    Parameters
    ----------
    world
        Tells right scores from wrong ones.
    url
        The service.
    """

    def __init__(self, world: World, url: str) -> None:
        self.world, self.url, self.tally = world, url, Tally()
        generator = random.Random(5)
        self.histories: dict[int, History] = {
            user: tuple(generator.sample(STEADY, user % (HISTORY_LENGTH + 1))) for user in range(1, 13)
        }
        self.events: list[int] = []
        self.may_revert = Event()  # Redis itself may lose acknowledged writes from here on
        self.may_be_empty = Event()  # and whole histories
        self._writes: dict[int, list[Write]] = {item_id: [] for item_id in CHANGING}
        self._ending, self._no_more_writes = Event(), Event()
        self._appending = Lock()
        self._writers: list[Future[None]] = []
        for history in self.histories.values():
            world.scores(history)
        world.scores(())

    def stock(self) -> None:
        """Store the catalogue and the histories, and wait until the service knows the items."""
        with self._client() as client:
            now = time.monotonic()
            items = [self.world.item(item_id) for item_id in (*STEADY, *CHANGING)]
            surely(lambda: client.put_items(items))
            for writes in self._writes.values():
                writes[:] = [Write(1, now, time.monotonic(), stored=True)]
            self.restore_histories(client)
            wait_until(lambda: client.rank(1, list(CHANGING)).unknown_items == [])

    def restore_histories(self, client: Client) -> None:
        """Store every user's history, the growing one as far as it was acknowledged."""
        for user, history in self.histories.items():
            surely(partial(client.put_history, user, history))
        with self._appending:
            surely(lambda: client.put_history(WRITER, self.events))

    @contextmanager
    def flowing(self, num_rankers: int = 2) -> Iterator[None]:
        """Send requests for as long as the block runs."""
        with ThreadPoolExecutor(num_rankers + 2, "traffic") as threads:
            rankers = [threads.submit(self._rank, number) for number in range(num_rankers)]
            self._writers = [threads.submit(job) for job in (self._write, self._append)]
            try:
                yield
            finally:
                self._ending.set()
                self.stop_writing()
                for ranker in rankers:
                    ranker.result(_LONGEST_S)

    def stop_writing(self) -> None:
        """Let items and histories rest, every event acknowledged; ranks go on."""
        self._no_more_writes.set()
        for writer in self._writers:
            writer.result(_LONGEST_S)

    def newest(self) -> dict[int, int]:
        """Return the variant that was last stored of each item."""
        return {
            item_id: [write for write in writes if write.stored][-1].variant
            for item_id, writes in self._writes.items()
        }

    def _client(self) -> Client:
        return Client(self.url, timeout_s=20, retry=ONCE)

    def _rank(self, number: int) -> None:
        generator = random.Random(number)
        with self._client() as client:
            while not self._ending.wait(_PAUSE_S):
                user, history = generator.choice(list(self.histories.items()))
                self.rank(client, user, history, generator.sample(CHANGING, _CANDIDATES))

    def rank(self, client: Client, user: int, history: History, candidates: Sequence[int]) -> Ranking | None:
        """Rank once, check the answer and count it."""
        self.tally.add(sent=1)
        started = time.monotonic()
        try:
            ranking = self._ranked(client, user, candidates)
        except ClientError as error:
            shed = error.status in (429, 503)
            self.tally.add(shed=shed, failed=not shed)
            if not shed:
                self.tally.note(f"rank of user {user} failed: {error}")
            return None
        self.tally.add(answered=1, degraded=bool(ranking.degraded))
        self._check(ranking, user, history, candidates, started)
        return ranking

    def _ranked(self, client: Client, user: int, candidates: Sequence[int]) -> Ranking:
        """Rank, once more where the connection ended without an answer."""
        try:
            return client.rank(user, candidates)
        except ClientError as error:
            if error.status is not None:
                raise
            self.tally.add(repeated=1)
            return client.rank(user, candidates)

    def _check(
        self, ranking: Ranking, user: int, history: History, candidates: Sequence[int], started: float
    ) -> None:
        possible = {()} if "history" in ranking.degraded else {history}
        if self.may_be_empty.is_set():
            possible |= {()}
        attempts = [self.world.variants_seen(candidates, ranking.scores, each) for each in possible]
        seen = min(attempts, key=lambda variants: variants.count(frozenset()))
        now, unknown = time.monotonic(), set(ranking.unknown_items)
        for position, (item_id, variants) in enumerate(zip(candidates, seen, strict=True)):
            variants &= {DELETED} if position in unknown else set(range(NUM_VARIANTS)) - {DELETED}
            if not any(self._was_tried(item_id, variant, now) for variant in variants):
                self.tally.add(wrong=1)
                self.tally.note(f"item {item_id} for user {user} scored {ranking.scores[position]}: {ranking}"[:500])
                return
            if not ranking.degraded and not any(self._is_fresh(item_id, variant, started) for variant in variants):
                self.tally.add(late=1)
                self.tally.note(f"item {item_id} was still ranked as {set(variants)}, long after that was replaced")
                return

    def _was_tried(self, item_id: int, variant: int, until: float) -> bool:
        return any(write.variant == variant and write.started <= until for write in list(self._writes[item_id]))

    def _is_fresh(self, item_id: int, variant: int, started: float) -> bool:
        """Whether no later write was acknowledged long before a request started."""
        if self.may_revert.is_set():
            return True
        for write in reversed(list(self._writes[item_id])):
            if write.variant == variant:
                return True
            if write.stored and write.ended < started - VISIBLE_S:
                return False
        return False

    def _write(self) -> None:
        generator = random.Random(-1)
        with self._client() as client:
            while not self._no_more_writes.wait(_PAUSE_S):
                item_id, variant = generator.choice(CHANGING), generator.randrange(NUM_VARIANTS)
                self._writes[item_id].append(write := Write(variant, time.monotonic()))
                try:
                    if variant == DELETED:
                        client.delete_item(item_id)
                    else:
                        client.put_item(item_id, self.world.item(item_id, variant))
                    write.ended, write.stored = time.monotonic(), True
                    self.tally.add(written=1)
                except ClientError as error:
                    self._refused(error, "write of an item")

    def _append(self) -> None:
        """Append events, each tried until it is acknowledged, and see that the next rank knows of it."""
        generator = random.Random(-2)
        with self._client() as client:
            for number in itertools.count():
                if self._no_more_writes.wait(5 * _PAUSE_S):
                    return
                item_id, key = generator.choice(STEADY), f"{number}-{uuid.uuid4()}"
                with self._appending:
                    if not self._append_surely(client, item_id, key):
                        return
                    self.events.append(item_id)
                self.tally.add(appended=1)
                if not self.may_revert.is_set():
                    self.rank(client, WRITER, tuple(self.events[-HISTORY_LENGTH:]), generator.sample(CHANGING, 5))

    def _append_surely(self, client: Client, item_id: int, key: str) -> bool:
        """Retry with the same key until the answer is yes; False where nothing is written any more."""
        for _ in itertools.count():
            try:
                client.append_events(WRITER, [item_id], key)
                return True
            except ClientError as error:
                self._refused(error, "an event")
            # What is not known to be stored must be known before the end: only a stop of the test ends this.
            if self._ending.wait(10 * _PAUSE_S):
                return False
        return False

    def _refused(self, error: ClientError, what: str) -> None:
        self.tally.add(refused=1, repeated=error.status is None)
        if error.status not in (None, 503):
            self.tally.add(failed=1)
            self.tally.note(f"{what} failed: {error}")
