"""How a command ends, of itself or by a signal.

This module imports nothing that takes long, so that a command can import it before the rest.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(BaseException):
    """A signal asked the process to end.

    Attributes:
      number: the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def end_at_once() -> None:
    """Makes a signal end the process at once, with one line, while it imports its modules."""

    def end(number: int, _: object) -> NoReturn:
        os.write(2, b"interrupted\n")
        os._exit(128 + number)

    _handle(end)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Makes the signals raise `Stopped` as long as the context lasts."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    before = _handle(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, object], NoReturn]) -> dict[int, Any]:
    """Sets a handler and returns the earlier ones; signals that nohup ignores stay ignored."""
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread, where no handler can be set
        for name in SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    return before
