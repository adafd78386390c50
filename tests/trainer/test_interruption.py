"""An interruption is called one, whatever the code that it meets makes of it."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from glyph_trainer import cli, commands, interruptions


@pytest.fixture(autouse=True)
def restored_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_comes_out_as_another_error_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """As TensorFlow does with one that arrives while it builds a graph."""

    def interrupted(_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise TypeError from None

    monkeypatch.setattr(commands, "recipes", interrupted)
    assert cli.main(["recipes"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_error_without_an_interruption_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setattr(commands, "recipes", fails)
    with pytest.raises(TypeError, match="a fault of ours"):
        cli.main(["recipes"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_held_back_comes_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    done = []

    def interrupted(_: object) -> None:
        with interruptions.held_back():
            os.kill(os.getpid(), number)
            done.append("inside")
        done.append("after it")

    monkeypatch.setattr(commands, "recipes", interrupted)
    assert cli.main(["recipes"]) == 130
    assert done == ["inside"]
    assert "interrupted" in capsys.readouterr().err


def test_none_is_made_up_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptions.held_back():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_it_does_nothing() -> None:
    entered = []

    def work() -> None:
        with interruptions.held_back():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]
