"""Owns the delay of Ctrl-C while a step runs in Python, so that it ends as a whole.

Leaves recorded steps to the plan, which takes Ctrl-C between steps by itself.
"""

import signal
import threading
from types import FrameType, TracebackType

__all__ = ["DelayedInterrupt"]


class DelayedInterrupt:
    """A block in which Ctrl-C waits for ``deliver``, or for a second Ctrl-C.

    Does nothing outside the main thread, where no signal arrives, and where SIGINT is handled by
    no Python function.
    """

    def __enter__(self) -> "DelayedInterrupt":
        self._pending: tuple[int, FrameType | None] | None = None
        self._handler = signal.getsignal(signal.SIGINT)
        self._active = callable(self._handler) and (
            threading.current_thread() is threading.main_thread()
        )
        if self._active:
            signal.signal(signal.SIGINT, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self._pending is not None
        self._pending = number, frame
        if again:
            self.deliver()

    def deliver(self) -> None:
        """Call the handler of before, if Ctrl-C was pressed."""
        pending, self._pending = self._pending, None
        if pending is not None and callable(self._handler):
            self._handler(*pending)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._handler)
            self.deliver()
