"""What the client's tests share: genuine digits, and digits drawn large on paper."""

from __future__ import annotations

import contextlib
import gzip
import io
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pytest
from glyph_client import Client, ModelConfig
from numpy.typing import NDArray
from PIL import Image

from tests.client.peers import Conversation, Peer

REPOSITORY = Path(__file__).resolve().parents[2]
MNIST = REPOSITORY / "trainer" / "data" / "mnist"
GREY = NDArray[np.uint8]

# The inverse of each EXIF orientation: what a camera held that way would have stored.
_STORED: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_KINDS = ("grey", "colour", "rgba", "transparent", "exif", "jpeg40")


@dataclass(frozen=True)
class Drawing:
    """A test digit drawn large, as the bytes of an image file."""

    data: bytes
    kind: str
    index: int


class Paper:
    """Sheets with grain, fibres and uneven light, cut out of one large one."""

    def __init__(self, rng: np.random.Generator, size: int = 1024) -> None:
        self._rng = rng
        self._grain = rng.normal(0, 1, (size, size)).astype(np.float32)
        coarse = rng.normal(0, 1, (size // 6, size // 6)).astype(np.float32)
        self._fibres = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))

    def cut(self, height: int, width: int) -> NDArray[np.float32]:
        top = int(self._rng.integers(0, self._grain.shape[0] - height))
        left = int(self._rng.integers(0, self._grain.shape[1] - width))
        window = np.s_[top : top + height, left : left + width]
        angle, strength = self._rng.uniform(0, 2 * np.pi), self._rng.uniform(0, 50)
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, np.newaxis] * np.float32(np.sin(angle) * strength)
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle) * strength)
        grain, fibres = np.float32(self._rng.uniform(1, 5)), np.float32(self._rng.uniform(1, 4))
        sheet: NDArray[np.float32] = (
            np.float32(self._rng.uniform(205, 250))
            + self._grain[window] * grain
            + self._fibres[window] * fibres
            + y
            + x
        )
        return sheet


def _draw(digit: GREY, paper: Paper, rng: np.random.Generator) -> tuple[bytes, str]:
    side = int(rng.integers(60, 260))
    height, width = int(side * rng.uniform(1, 1.5)), int(side * rng.uniform(1, 1.5))
    enlarge = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)[rng.integers(3)]
    ink = np.zeros((height, width), np.float32)
    top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    ink[top : top + side, left : left + side] = np.asarray(Image.fromarray(digit).resize((side, side), enlarge)) / 255.0
    kind = _KINDS[rng.integers(len(_KINDS))]
    file = io.BytesIO()
    if kind == "transparent":
        sheet = np.zeros((height, width, 4), np.uint8)
        sheet[..., :3] = rng.integers(0, 90, 3)
        sheet[..., 3] = np.round(ink * 255)
        Image.fromarray(sheet).save(file, "PNG", compress_level=1)
        return file.getvalue(), kind
    picture = paper.cut(height, width) * (1 - ink) + ink * np.float32(rng.uniform(10, 90))
    if rng.random() < 0.5:
        picture = 255 - picture
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if kind == "grey":
        image.save(file, "PNG", compress_level=1)
    elif kind == "colour":
        tinted = np.asarray(image)[..., np.newaxis] * rng.uniform(0.9, 1, 3)
        Image.fromarray(tinted.astype(np.uint8)).save(file, "PNG", compress_level=1)
    elif kind == "rgba":
        image = image.convert("RGBA")
        image.putalpha(Image.fromarray(rng.integers(235, 256, (height, width), dtype=np.uint8)))
        image.save(file, "PNG", compress_level=1)
    else:
        orientation = int(rng.integers(1, 9)) if kind == "exif" else 1
        save_rotated(image.convert("RGB"), orientation, file, format="JPEG", quality=40 if kind == "jpeg40" else 85)
    return file.getvalue(), kind


def save_rotated(image: Image.Image, orientation: int, file: io.BytesIO, **options: Any) -> None:
    """Stores an upright image as a camera held that way would: turned, with the EXIF tag that turns it back."""
    transpose = _STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if transpose is None else image.transpose(transpose)).save(file, exif=exif, **options)


@pytest.fixture(scope="session")
def rotated() -> Callable[..., bytes]:
    """`rotated(image, orientation, format="PNG")`: the bytes of a file that EXIF turns upright."""

    def encode(image: Image.Image, orientation: int, **options: Any) -> bytes:
        file = io.BytesIO()
        save_rotated(image, orientation, file, **options)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def digits() -> GREY:
    """The official test images, uint8 [10000, 28, 28]."""
    with gzip.open(MNIST / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)


@pytest.fixture(scope="session")
def truths() -> GREY:
    """Their labels, uint8 [10000]."""
    with gzip.open(MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=8)


@pytest.fixture(scope="session")
def drawings(digits: GREY) -> list[Drawing]:
    """2,000 different test digits, drawn large on paper-like backgrounds."""
    rng = np.random.default_rng(20261123)
    paper = Paper(rng)
    indices = rng.choice(len(digits), 2000, replace=False)
    return [Drawing(*_draw(digits[index], paper, rng), int(index)) for index in indices]


@pytest.fixture(scope="session")
def configuration(models_dir: Path) -> list[ModelConfig]:
    """The digits, and a model that has signatures of every method and type."""
    recorded = REPOSITORY / "tests" / "conformance" / "models" / "half_plus_two"
    return [
        ModelConfig("digits", str(models_dir / "digits")),
        ModelConfig("half_plus_two", str(recorded), versions=[1, 3], labels={"stable": 1}),
    ]


@pytest.fixture(scope="session")
def server(server: Any, configuration: list[ModelConfig]) -> Any:
    """The server that all rooms share, with both models."""
    with Client(server.grpc, timeout=60) as client:
        client.reload_config([replace(model, labels={}) for model in configuration])
        client.reload_config(configuration)  # Only versions that are available already can have labels.
    return server


@pytest.fixture(scope="session")
def client(server: Any) -> Iterator[Client]:
    """A client of the session's server over gRPC."""
    with Client(server.grpc, timeout=60) as grpc_client:
        yield grpc_client


@pytest.fixture(scope="session")
def rest_client(server: Any) -> Iterator[Client]:
    """A client of the session's server over REST."""
    with Client(server.rest, timeout=60) as rest:
        yield rest


@dataclass
class Stub:
    """A server made of a function, for what the real server does not do on demand; counts what it was asked.

    Attributes:
        connections: the addresses that asked (REST only).
    """

    target: str
    asked: list[tuple[str, bytes, dict[str, str]]]
    connections: set[Any] = field(default_factory=set)


@pytest.fixture
def grpc_stub() -> Iterator[Callable[..., Stub]]:
    """`grpc_stub(answer)`: a real gRPC server on loopback; `answer(method, message, context)` gives the bytes."""
    servers: list[grpc.Server] = []

    def start(
        answer: Callable[[str, bytes, Any], bytes],
        credentials: grpc.ServerCredentials | None = None,
        address: str = "127.0.0.1:0",
    ) -> Stub:
        stub = Stub("", [])

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
                method = details.method.rpartition("/")[2]

                def unary(message: bytes, context: grpc.ServicerContext) -> bytes:
                    headers = {str(key): str(value) for key, value in context.invocation_metadata()}
                    stub.asked.append((method, message, headers))
                    return answer(method, message, context)

                return grpc.unary_unary_rpc_method_handler(unary)

        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((Handler(),))
        port = (
            server.add_insecure_port(address)
            if credentials is None
            else server.add_secure_port("localhost:0", credentials)
        )
        server.start()
        servers.append(server)
        stub.target = f"{address.partition(':')[0]}:{port}" if credentials is None else f"grpcs://localhost:{port}"
        return stub

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def rest_stub() -> Iterator[Callable[..., Stub]]:
    """`rest_stub(answer)`: a real HTTP server on loopback; `answer(path, body)` gives status, body and headers."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[str, bytes], tuple[int, bytes, dict[str, str]]]) -> Stub:
        stub = Stub("", [])

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.asked.append((self.path, body, {key.lower(): value for key, value in self.headers.items()}))
                stub.connections.add(self.client_address)
                status, content, headers = answer(self.path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # A client whose time was up has hung up.
                    self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        stub.target = f"http://127.0.0.1:{server.server_port}"
        return stub

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts this process and those that it starts, which a job in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """`peer(script)`: a server that does to each connection what the script says; see Peer."""
    peers: list[Peer] = []

    def start(script: Callable[[Conversation], object], settings: dict[Any, int] | None = None) -> Peer:
        peers.append(Peer(script, settings or {}))
        return peers[-1]

    yield start
    for each in peers:
        each.close()
