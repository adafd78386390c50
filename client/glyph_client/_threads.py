"""Threads for which neither an interruption nor the program's end waits."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> Future[T]:
    """What the function returns or raises in a thread of its own, or in this one where no other can be started."""
    future: Future[T] = Future()
    try:
        start(settle, future, function)
    except RuntimeError:  # The program is ending, or there are too many.
        settle(future, function)
    return future


def settle(future: Future[T], function: Callable[[], T]) -> None:
    """Has the future hold what the function returns or raises, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 (for whoever waits)
            future.set_exception(error)


def start(function: Callable[..., None], *arguments: object) -> None:
    """Calls it in a thread of its own."""
    threading.Thread(target=function, args=arguments, daemon=True, name="glyph").start()
