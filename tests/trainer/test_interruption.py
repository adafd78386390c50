"""An interruption is called one, whatever the code that it meets makes of it."""

import os
import signal
from collections.abc import Iterator

import pytest
from glyph_trainer import cli, commands


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
