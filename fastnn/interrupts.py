"""Owns the delay of Ctrl-C where it must not come between: inside a step, and in the books.

Leaves recorded steps to the plan, which takes Ctrl-C between steps by itself.
"""

import signal
import threading
from types import FrameType, TracebackType

__all__ = ["Interrupts"]


class Interrupts:
    """A block in which Ctrl-C waits while ``hold`` is True, but not if it is pressed again.

    It begins held; ``release`` lets go. Does nothing outside the main thread, where no signal
    arrives, and where no Python function handles SIGINT.

    Examples
    --------
    >>> try:
    ...     with Interrupts():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("not yet")
    ... except KeyboardInterrupt:
    ...     print("now")
    not yet
    now
    """

    hold = True
    _pending: tuple[int, FrameType | None] | None = None
    _active = False

    def __enter__(self) -> "Interrupts":
        self._handler = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        if main and callable(self._handler):
            self._active = True
            signal.signal(signal.SIGINT, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self._pending = self._pending, (number, frame)
        if again or not self.hold:
            self._deliver()

    def _deliver(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and callable(self._handler):
            self._handler(*pending)

    def release(self) -> None:
        """Stop holding, and call the handler of before if Ctrl-C was pressed meanwhile."""
        self.hold = False
        if self._pending is not None:
            self._deliver()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hold = True
        if self._active:
            signal.signal(signal.SIGINT, self._handler)
            self._deliver()
