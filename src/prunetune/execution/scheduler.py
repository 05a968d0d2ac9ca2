"""Which steps of a plan can be run now, which are done already or by others, and which never will be."""

import heapq
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from prunetune.errors import ConfigError, CorruptionError, DivergedSourceError
from prunetune.execution.events import SOURCE_FAILED, Cached, Event, Failed, Notice, Skipped
from prunetune.execution.inputs import refuse_diverged, weights_read
from prunetune.steps import graph
from prunetune.steps.steps import Step
from prunetune.store.checkpoints import discard
from prunetune.store.leases import Leases
from prunetune.store.store import StoreWriter
from prunetune.training.recipe import TrainingTime


class Work(Protocol):
    """What an executor asks of a plan."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps in topological order, each once."""
        ...

    @property
    def snapshots(self) -> Mapping[str, frozenset[TrainingTime]]:
        """Key of a training -> the moments whose states must be kept."""
        ...


class Schedule:
    """The steps that are neither done nor given up, and of these a queue of those whose parents are done.

    The queue has the plan's order. No call walks through steps that cannot be run: a run of n steps costs O(n log n).
    """

    def __init__(self, work: Work, store: StoreWriter, leases: Leases) -> None:
        self._store = store
        self._leases = leases
        self._snapshots = work.snapshots
        self._steps = work.steps
        self._children = graph.children(work.steps)
        self._place = {step.key: i for i, step in enumerate(work.steps)}
        self._pending = {step.key: step for step in work.steps}
        self.running: dict[str, Step] = {}  # by key: those that `take` has yielded and that have not ended
        self._parents_left = {s.key: sum(parent.key in self._place for parent in s.parents) for s in work.steps}
        self._ready = [self._place[key] for key, left in self._parents_left.items() if not left]  # a heap, being sorted
        self._sound: set[str] = set()
        self.elsewhere: list[str] = []  # steps that could be run if they were not claimed, as the last walk saw them

    def points(self, step: Step) -> Collection[TrainingTime]:
        """The moments of a training whose states must be kept."""
        return self._snapshots.get(step.key, frozenset())

    def take(self) -> Iterator[Step | Event]:
        """Walk through the steps whose parents are done: what is stored is ticked off, damage is put aside, and a step
        that must be run is claimed, yielded and counts as running; so are events on the way."""
        for key in self.elsewhere:
            heapq.heappush(self._ready, self._place[key])
        self.elsewhere = []
        while self._ready:
            step = self._steps[heapq.heappop(self._ready)]
            if step.key in self._pending:
                try:
                    yield from self._look_at(step)
                except ConfigError as error:  # the store cannot be reached, or takes no more
                    yield from self.fail(step, str(error), type(error).__name__)

    def done(self, key: str) -> None:
        """A running step's result is stored here; raises what keeps it from being shared, and it counts as running."""
        self._store.share(key)
        step = self.running.pop(key)
        self._leases.release(key)
        self._open_children(step)

    def again(self, key: str) -> None:
        """A running step must be run once more."""
        self._pending[key] = self.running.pop(key)
        heapq.heappush(self._ready, self._place[key])

    def block(self, step: Step, why: str) -> Iterator[Event]:
        """Give up a step, and all that needs it, because a training diverged."""
        yield Skipped(step.key, why)
        self._give_up(step.key)
        yield from (Skipped(descendant.key, why) for descendant in self._drop_descendants(step))

    def fail(self, step: Step, message: str, error: str) -> Iterator[Event]:
        """Give up a step, and all that needs it and is not stored, because it failed."""
        yield Failed(step.key, message, error)
        self._give_up(step.key)
        why = f"not run: {step.label} failed: {message}"
        yield from (Failed(descendant.key, why, SOURCE_FAILED) for descendant in self._drop_descendants(step))

    def _give_up(self, key: str) -> None:
        self._pending.pop(key, None)
        self.running.pop(key, None)
        self._leases.release(key)

    def _look_at(self, step: Step) -> Iterator[Step | Event]:
        if self._is_stored(step):
            yield self._found(step)
        elif self._leases.take(step.key):
            yield from self._begin(step)
        else:
            self.elsewhere.append(step.key)

    def _begin(self, step: Step) -> Iterator[Step | Event]:
        """A step has just been claimed: what another process has done up to then is looked at once more."""
        if why := self._damage(step):
            yield self._quarantine(step, why)
        if self._is_stored(step):
            self._leases.release(step.key)
            yield self._found(step)
        elif why := self._diverged_source(step):
            yield from self.block(step, why)
        else:
            self.running[step.key] = self._pending.pop(step.key)
            yield step

    def _found(self, step: Step) -> Cached:
        """A step is stored; of a process that was killed right after it wrote the result, the checkpoint is left."""
        del self._pending[step.key]
        discard(self._store.root, step.key)
        self._open_children(step)
        return Cached(step.key)

    def _open_children(self, step: Step) -> None:
        """A step is done: those that waited for it alone are ready."""
        for child in self._children[step]:
            self._parents_left[child.key] -= 1
            if not self._parents_left[child.key]:
                heapq.heappush(self._ready, self._place[child.key])

    def _drop_descendants(self, step: Step) -> Iterator[Step]:
        """Steps still pending that need `step`, directly or not: taken out, and yielded unless they are stored."""
        lost = [self._place[child.key] for child in self._children[step]]
        while lost:
            descendant = self._steps[heapq.heappop(lost)]
            if self._pending.pop(descendant.key, None) is None:
                continue
            for child in self._children[descendant]:
                heapq.heappush(lost, self._place[child.key])
            if not self._store.has(descendant.key, self.points(descendant)):
                yield descendant

    def _diverged_source(self, step: Step) -> str | None:
        try:
            for weights in weights_read(step):
                refuse_diverged(weights.step, self._store)
        except DivergedSourceError as error:
            return str(error)
        return None

    def _is_stored(self, step: Step) -> bool:
        return self._damage(step) is None and self._store.has(step.key, self.points(step))

    def _damage(self, step: Step) -> str | None:
        """What is wrong with a stored step. Everything that a report will rest on is read again once, and compared with
        its checksums."""
        if step.key in self._sound:
            return None
        try:
            self._store.check(step.key)
            if not self._store.has(step.key):
                return None
            changed = self._store.stale_input(step.key)
        except CorruptionError as error:
            return str(error)
        if changed is not None:
            return f"its input {changed} is another one now"
        self._sound.add(step.key)
        return None

    def _quarantine(self, step: Step, why: str) -> Notice:
        where = self._store.quarantine(step.key)
        return Notice(step.key, f"{step.label} is done again: {why}; the old one lies in {where}")
