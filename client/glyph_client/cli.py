"""The command `glyph`: ask a model server from the shell."""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from PIL import Image

from glyph_client._base import DEFAULT_TARGET, DEFAULT_TIMEOUT
from glyph_client._client import Client
from glyph_client._errors import (
    CallError,
    DeadlineExceeded,
    GlyphError,
    InputError,
    Overloaded,
    Unavailable,
)
from glyph_client._flows import Outcome
from glyph_client._transports.base import TLS
from glyph_client._types import Prediction

USAGE, PICTURES, NO_ANSWER, REFUSED, UNWRITTEN, INTERRUPTED = 2, 3, 4, 5, 6, 130
_BAR: Final = 20
_MOST_IMAGES: Final = (2**31 - 1) // (28 * 28)  # of one byte a pixel, in a message of 2 GiB
_WATCH_SECONDS: Final = 0.2
_NO_ANSWER_ERRORS: Final = (Unavailable, DeadlineExceeded, Overloaded)
_Stamp = tuple[int, int]  # a file's size, and when it was changed
_IMAGE_SUFFIXES: Final = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
_EXITS: Final = f"""An API key is taken from the environment, from GLYPH_API_KEY.

exit codes:
  0  every question is answered
  {USAGE}  the command line, or an address, is wrong
  {PICTURES}  at least one picture cannot be read (the others are answered)
  {NO_ANSWER}  no answer: nobody there, no time left, or too much load
  {REFUSED}  the server refused, or failed
  {UNWRITTEN}  the answers cannot be written to standard output
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code (see `glyph --help`).
    """
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Such a picture is refused with a message.
    if sys.stdout is None:
        _say("error: standard output is closed, so that no answer can be written. Leave it open.")
        return UNWRITTEN
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The names of files need not be text, and what is text need not have a place in the terminal's encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with Client(
            options.server,
            model=options.model,
            version=options.version,
            timeout=options.timeout,
            api_key=os.environ.get("GLYPH_API_KEY"),
            tls=TLS(ca=options.ca),
        ) as client:
            code = int(options.run(client, options))
        sys.stdout.flush()
        return code
    except CallError as error:
        _say(f"error: {error}")
        return NO_ANSWER if isinstance(error, _NO_ANSWER_ERRORS) else REFUSED
    except GlyphError as error:
        _say(f"error: {error}")
        return USAGE
    except OSError as error:
        # Nothing more can be written, not even what is left over when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # Whoever read this has gone.
            return 0
        _say(f"error: the answers cannot be written to standard output: {error.strerror}.")
        return UNWRITTEN
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED


def _say(message: str) -> None:
    """Tells the user, unless nobody can be told."""
    if sys.stderr is not None:  # Without it, print() would take standard output.
        with contextlib.suppress(OSError):
            print(f"glyph: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    server = os.environ.get("GLYPH_SERVER", DEFAULT_TARGET)
    common.add_argument(
        "--server",
        default=server,
        metavar="URL",
        help="host:port, grpc://, grpcs://, http:// or https:// (from GLYPH_SERVER; now %(default)s)",
    )
    common.add_argument(
        "--ca",
        default=os.environ.get("GLYPH_CA"),
        metavar="FILE",
        help="PEM file of the authorities to trust over TLS (from GLYPH_CA, else the system's)",
    )
    common.add_argument("--model", default="digits", help="the model to ask (%(default)s)")
    common.add_argument("--version", type=int, help="its version (the newest)")
    common.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="for each call (%(default)g)"
    )
    common.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    parser = argparse.ArgumentParser(
        prog="glyph",
        description="Ask a model server what is drawn in pictures.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", parents=[common], help="say what is drawn in each picture")
    predict.add_argument("files", nargs="+", metavar="FILE", help="a picture; - reads one from standard input")
    top = "show the K most probable answers; the server names only the first, the others have their class numbers"
    predict.add_argument("--top", type=int, default=1, metavar="K", help=top)
    predict.add_argument("--truth", action="store_true", help="compare with file names such as 7.0001.png")
    predict.add_argument("--server-side", action="store_true", help="let the server preprocess the files")
    predict.set_defaults(run=_predict)
    status = commands.add_parser("status", parents=[common], help="show the versions of a model and their states")
    status.set_defaults(run=_status)
    models = commands.add_parser("models", parents=[common], help="show models, their versions and signatures")
    models.add_argument("names", nargs="*", metavar="NAME", help="a model (the one of --model)")
    models.set_defaults(run=_models)
    watch = commands.add_parser("watch", parents=[common], help="answer for each picture that a folder holds or gets")
    watch.add_argument("folder", type=Path, metavar="FOLDER")
    watch.set_defaults(run=_watch)
    bench = commands.add_parser("bench", parents=[common], help="measure how fast the server answers this client")
    bench.add_argument("--requests", type=int, default=500, metavar="N", help="how many (%(default)s)")
    bench.add_argument("--concurrency", type=int, default=4, metavar="N", help="at once (%(default)s)")
    bench.add_argument("--batch", type=int, default=1, metavar="N", help="images in each (%(default)s)")
    bench.set_defaults(run=_bench)
    return parser


def _predict(client: Client, options: argparse.Namespace) -> int:
    _require_positive(options, "top")
    names = ["standard input" if file == "-" else file for file in options.files]
    pictures: Iterator[str | bytes] = (_standard_input() if file == "-" else file for file in options.files)
    outcomes = client.predict_many(pictures, server_side=options.server_side)
    table = _Table(names, top=options.top, truth=options.truth, as_json=options.json)
    for name, outcome in zip(names, outcomes, strict=True):
        table.add(name, outcome)
    table.finish()
    return PICTURES if table.failed else 0


def _standard_input() -> bytes:
    """All that can be read there: nothing if it is closed."""
    try:
        return sys.stdin.buffer.read() if sys.stdin is not None else b""
    except OSError:
        return b""


class _Table:
    """Predictions, line by line as they come."""

    def __init__(self, names: Sequence[str], *, top: int, truth: bool, as_json: bool) -> None:
        self.failed = 0
        self._right, self._known = 0, 0
        self._top, self._truth, self._json = top, truth, as_json
        self._width = max(len("picture"), *(len(name) for name in names))
        self._total, self._done = len(names), 0
        self._progress = sys.stderr is not None and sys.stderr.isatty() and not sys.stdout.isatty()
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        self._full, self._empty = ("█", "░") if unicode else ("#", ".")

    def add(self, name: str, outcome: Outcome) -> None:
        """One picture and its outcome."""
        if not self._done and not self._json:
            heading = f"{'picture':{self._width}}  answer  {'confidence':{_BAR + 8}}"
            print(f"{heading}  truth" if self._truth else heading.rstrip())
        self._done += 1
        truth = _truth(name) if self._truth else None
        if isinstance(outcome, Prediction):
            if truth is not None:
                self._known += 1
                self._right += outcome.label == truth
            print(self._json_line(name, outcome, truth) if self._json else self._line(name, outcome, truth))
        else:
            self.failed += 1
            if self._json:
                print(json.dumps({"picture": name, "error": str(outcome)}))
            message = str(outcome) if name in str(outcome) else f"{name}: {outcome}"
            _say(f"error: {message}")
        if self._progress:
            print(f"\r{self._done}/{self._total}", end="\n" if self._done == self._total else "", file=sys.stderr)

    def finish(self) -> None:
        """The last line: how many were right."""
        if not self._truth:
            return
        accuracy = self._right / self._known if self._known else 0.0
        if self._json:
            print(json.dumps({"right": self._right, "known": self._known, "accuracy": accuracy}))
        elif self._known:
            print(f"{self._right} of {self._known} right ({accuracy:.2%})")
        else:
            print("no file name tells the truth: they would look like 7.0001.png")

    def _line(self, name: str, prediction: Prediction, truth: str | None) -> str:
        lines: list[str] = []
        for label, probability in prediction.top(self._top):
            filled = round(probability * _BAR)
            bar = self._full * filled + self._empty * (_BAR - filled)
            lines.append(f"{'' if lines else name:{self._width}}  {label:6}  {bar} {probability:7.2%}")
        if self._truth:
            lines[0] += f"  {'?' if truth is None else truth}{'' if truth in (None, prediction.label) else '  wrong'}"
        return "\n".join(lines)

    def _json_line(self, name: str, prediction: Prediction, truth: str | None) -> str:
        line = {
            "picture": name,
            "label": prediction.label,
            "confidence": round(prediction.confidence, 6),
            "model": prediction.model,
            "version": prediction.version,
        }
        if self._top > 1:
            line["top"] = [[label, round(probability, 6)] for label, probability in prediction.top(self._top)]
        if self._truth:
            line["truth"] = truth
        return json.dumps(line)


def _truth(name: str) -> str | None:
    """The label of a file named label.index.ext."""
    parts = Path(name).name.split(".")
    return parts[0] if len(parts) == 3 and parts[0] and parts[1].isdigit() else None


def _status(client: Client, options: argparse.Namespace) -> int:
    for each in client.status():
        if options.json:
            error = {"error": f"{each.error_code}: {each.error_message}"} if each.error_code != "OK" else {}
            print(json.dumps({"model": options.model, "version": each.version, "state": each.state, **error}))
        else:
            error_text = f"  {each.error_code}: {each.error_message}" if each.error_code != "OK" else ""
            print(f"{options.model}  version {each.version}  {each.state}{error_text}")
    return 0


def _models(client: Client, options: argparse.Namespace) -> int:
    for model in client.models(*options.names):
        if options.json:
            versions = [{"version": each.version, "state": each.state} for each in model.versions]
            signatures = {
                name: {
                    "inputs": {key: str(spec) for key, spec in each.inputs.items()},
                    "outputs": {key: str(spec) for key, spec in each.outputs.items()},
                }
                for name, each in model.signatures.items()
            }
            print(json.dumps({"model": model.name, "versions": versions, "signatures": signatures}))
            continue
        print(f"{model.name}  {', '.join(f'version {each.version} {each.state}' for each in model.versions)}")
        for name, each in model.signatures.items():
            inputs = ", ".join(f"{key}: {spec}" for key, spec in each.inputs.items())
            outputs = ", ".join(f"{key}: {spec}" for key, spec in each.outputs.items())
            print(f"  {name}  ({inputs}) -> ({outputs})")
    return 0


def _look(folder: Path) -> dict[Path, _Stamp]:
    """The pictures in a folder, and what tells that they have changed."""
    try:
        paths = sorted(each for each in folder.iterdir() if each.suffix.lower() in _IMAGE_SUFFIXES)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}. Give a folder that can be read.") from error
    stamps = {}
    for path in paths:
        with contextlib.suppress(OSError):  # A file that has gone already, or a link that leads nowhere.
            status = path.stat()
            stamps[path] = (status.st_size, status.st_mtime_ns)
    return stamps


def _watch(client: Client, options: argparse.Namespace) -> int:
    table = _Table(["picture" * 4], top=1, truth=False, as_json=options.json)
    seen: dict[Path, _Stamp] = {}
    answered: dict[Path, _Stamp] = {}
    interrupted = is_away = False

    def interrupt(*_: object) -> NoReturn:
        # Where Python happens to run a destructor, the exception is lost; then the next round finds this.
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    while not interrupted:
        looked = _look(options.folder)
        # A file is whole when it has not changed since the last look.
        whole = [path for path, stamp in looked.items() if seen.get(path) == stamp != answered.get(path)]
        answered = {path: stamp for path, stamp in answered.items() if path in looked}
        seen = looked
        for path in whole:
            try:
                (outcome,) = client.predict_many([path])
            except _NO_ANSWER_ERRORS as error:
                if not is_away:
                    _say(f"error: {error} It is tried again.")
                is_away = True
                break
            is_away = False
            answered[path] = looked[path]
            table.add(path.name, outcome)
            sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)
    raise KeyboardInterrupt


def _bench(client: Client, options: argparse.Namespace) -> int:
    for name in ("requests", "concurrency", "batch"):
        _require_positive(options, name)
    if options.batch > _MOST_IMAGES:
        raise InputError(f"--batch is at most {_MOST_IMAGES}, as a message is 2 GiB. Received: {options.batch}.")
    image = np.zeros((options.batch, 28, 28, 1), np.uint8)
    image[:, 4:24, 13:16] = 255

    def ask(_: int) -> float:
        start = time.perf_counter()
        client.call({"image": image})
        return time.perf_counter() - start

    ask(0)
    start = time.perf_counter()
    with ThreadPoolExecutor(options.concurrency) as pool:
        seconds = np.array(list(pool.map(ask, range(options.requests))))
    rate = options.requests / (time.perf_counter() - start)
    p50, p95, p99 = (float(each) for each in np.percentile(seconds * 1000, (50, 95, 99)))
    if options.json:
        measured = {"requests_per_second": rate, "images_per_second": rate * options.batch}
        print(json.dumps({**measured, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}))
    else:
        print(f"{options.requests} requests of {options.batch}, {options.concurrency} at once, at {options.server}")
        print(f"{rate:,.0f} requests/s  {rate * options.batch:,.0f} images/s")
        print(f"p50 {p50:.2f} ms  p95 {p95:.2f} ms  p99 {p99:.2f} ms")
    return 0


def _require_positive(options: argparse.Namespace, name: str) -> None:
    if getattr(options, name) < 1:
        raise InputError(f"--{name} is a number from 1. Received: {getattr(options, name)}.")
