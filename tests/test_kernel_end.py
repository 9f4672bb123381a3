"The end of the launcher: a kernel that does not end, whatever is done to it, is not waited for without limit."
import signal
from subprocess import TimeoutExpired

import pytest

from yolov10_qat.pipeline import launch


class Endless:
    "A process that the system cannot end: it waits for a disk that has gone."
    pid = 2**22  # nobody's: the numbers end before

    def __init__(self): self.waited = []

    def poll(self): return None

    def wait(self, timeout=None):
        assert timeout is not None, 'this would be for ever'
        self.waited.append(timeout)
        raise TimeoutExpired('kernel', timeout)


class Ended(Endless):
    "One that has ended, and whose group has gone."
    def wait(self, timeout=None):
        self.waited.append(timeout)
        return -9


@pytest.mark.parametrize('kind', [Endless, Ended])
def test_the_wait_for_its_end_has_a_limit(kind, monkeypatch):
    told = []
    monkeypatch.setattr(launch.os, 'killpg', lambda pid, number: told.append((pid, number)))
    kernel = launch._Stoppable.__new__(launch._Stoppable)
    kernel.process = kind()
    kernel.end()
    assert told == [(2**22, signal.SIGKILL)] and kernel.process.waited == [launch.GRACE_S] and 0 < launch.GRACE_S <= 60


def test_what_never_started_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(launch.os, 'killpg', lambda *_: pytest.fail('there is nobody to signal'))
    kernel = launch._Stoppable.__new__(launch._Stoppable)
    kernel.process = None
    kernel.end()


def test_a_group_that_has_gone_is_no_error():
    kernel = launch._Stoppable.__new__(launch._Stoppable)
    kernel.process = Ended()
    kernel.end()
    assert kernel.process.waited == [launch.GRACE_S]
