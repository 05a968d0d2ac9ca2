"""A busy machine is refused or flagged: with fake clocks, and the real ones against work that is known."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks.load import PATIENCE, Watch, idle_share, read_clocks, require_idle, settled
from tests.support.benchmark_records import clocks
from tests.support.refusals import refused


def test_the_idle_share_is_that_of_the_second_between() -> None:
    slept: list[float] = []
    assert idle_share(clocks([(100, 50, 7), (102, 51.5, 7)]), slept.append) == 0.75
    assert slept == [1.0]


def test_a_machine_that_is_busy_for_a_moment_is_waited_for() -> None:
    slept: list[float] = []
    busy_then_idle = [(100, 50, 7), (102, 51, 7), (102, 51, 7), (104, 53, 7)]
    assert settled(clocks(busy_then_idle), slept.append) == 1.0
    assert slept == [1.0, 1.0]


def test_and_not_for_ever() -> None:
    slept: list[float] = []
    assert settled(clocks([(2 * i, i, 0) for i in range(200)]), slept.append) == 0.5
    assert len(slept) == PATIENCE


def test_a_busy_machine_is_refused() -> None:
    with refused("", "75", "95", "--force", "idle"):
        require_idle(0.75, force=False)


def test_a_busy_machine_is_flagged_when_forced() -> None:
    assert "75 % idle" in (require_idle(0.75, force=True) or "")


def test_an_idle_machine_needs_no_remark() -> None:
    assert require_idle(0.95, force=False) is None


def test_a_system_that_does_not_tell_is_named_and_not_refused() -> None:
    assert idle_share(lambda: None, lambda _: None) is None
    assert "does not tell" in (require_idle(None, force=False) or "")
    assert Watch(lambda: None).lap() is None


def test_others_are_what_is_neither_idle_nor_ours() -> None:
    watch = Watch(clocks([(0, 0, 0), (10, 4, 5), (20, 4, 15), (20, 4, 15)]))
    assert watch.lap() == pytest.approx(0.1)
    assert watch.lap() == 0.0
    assert watch.lap() is None  # no time has passed


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="there is no /proc here")
def test_the_real_clocks_count_a_child_that_lives_and_one_that_has_ended() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = read_clocks()
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        living = read_clocks()
        child.communicate("\n")
    ended = read_clocks()
    assert before is not None
    assert living is not None
    assert ended is not None
    own = time.process_time()  # an upper bound of what this process may have used meanwhile
    assert 0.25 <= living.ours - before.ours <= 0.6 + own
    assert ended.ours >= living.ours - 0.02
    assert living.total > before.total
    assert living.idle >= before.idle
