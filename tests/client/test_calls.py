"""Calls against a real server, over gRPC and REST, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glyph_client import (
    AsyncClient,
    Attempt,
    Client,
    DeadlineExceeded,
    InputError,
    InvalidRequest,
    ModelConfig,
    NotFound,
    PictureError,
    Prediction,
    Unsupported,
)
from numpy.typing import NDArray

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "client" / "samples").glob("*.png"))
SEVEN = next(path for path in SAMPLES if path.name == "7.0.png")
Ask = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(params=["grpc", "rest", "async grpc", "async rest"])
def ask(request: pytest.FixtureRequest, server: Any) -> Ask:
    """`ask(lambda client: client.predict(...))`: the result, from each kind of client over each protocol."""
    target = server.rest if request.param.endswith("rest") else server.grpc

    def run(question: Callable[[Any], Any]) -> Any:
        if not request.param.startswith("async"):
            with Client(target, timeout=60) as client:
                answer = question(client)
                return list(answer) if hasattr(answer, "__next__") else answer

        async def asynchronous() -> Any:
            async with AsyncClient(target, timeout=60) as client:
                answer = question(client)
                return [each async for each in answer] if hasattr(answer, "__anext__") else await answer

        return asyncio.run(asynchronous())

    return run


def test_a_picture_is_answered(ask: Ask) -> None:
    answer = ask(lambda client: client.predict(SEVEN))
    assert isinstance(answer, Prediction)
    assert (answer.label, answer.model) == ("7", "digits")
    assert answer.version in {1, None}  # REST does not say.
    assert answer.confidence == pytest.approx(answer.probabilities[7]) == answer.top(1)[0][1]
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert answer.top(10)[0][0] == "7"
    assert sorted(label for label, _ in answer.top(10)) == list("0123456789")


def test_classes_that_have_other_names_than_their_numbers_are_not_named_by_these() -> None:
    probabilities = np.array([0.1, 0.7, 0.2], np.float32)
    for label, expected in (("1", ["1", "2", "0"]), ("cat", ["cat", "#2", "#0"]), ("2", ["2", "#2", "#0"])):
        assert [name for name, _ in Prediction(label, 0.7, "pets", 1, probabilities).top(3)] == expected


def test_the_server_may_preprocess_and_says_the_same(ask: Ask) -> None:
    one = ask(lambda client: client.predict(SEVEN))
    other = ask(lambda client: client.predict(SEVEN, server_side=True))
    assert one.label == other.label
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_the_stages_of_preprocessing_can_be_kept(ask: Ask) -> None:
    explanation = ask(lambda client: client.predict(SEVEN, explain=True)).explanation
    assert explanation.untouched
    assert list(explanation.images()) == ["grey", "ink", "crop", "resized", "result"]


def test_an_open_file_is_read_once_for_its_stages_and_for_the_server(ask: Ask) -> None:
    answer = ask(lambda client: client.predict(io.BytesIO(SEVEN.read_bytes()), server_side=True, explain=True))
    assert (answer.label, answer.explanation.untouched) == ("7", True)
    with pytest.raises(PictureError, match=r"test_calls.py: no image"):
        ask(lambda client: client.predict(__file__, server_side=True, explain=True))


def test_many_pictures_are_answered_in_order_and_a_bad_one_is_one_error(ask: Ask, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(SEVEN.read_bytes()[:60])
    pictures = [*SAMPLES, broken, tmp_path / "missing.png", *SAMPLES]
    outcomes = ask(lambda client: client.predict_many(pictures, batch_size=5, concurrency=2))
    assert [isinstance(each, PictureError) for each in outcomes] == [False] * 12 + [True] * 2 + [False] * 12
    assert [each.label for each in outcomes[:12]] == [each.label for each in outcomes[14:]]
    assert "broken.png" in str(outcomes[12])
    assert "missing.png: No such file" in str(outcomes[13])
    right = sum(each.label == path.name[0] for path, each in zip(SAMPLES, outcomes, strict=False))
    assert right >= 9


def test_a_bad_picture_alone_is_an_error(ask: Ask) -> None:
    with pytest.raises(PictureError, match=r"none.png: No such file"):
        ask(lambda client: client.predict("none.png"))
    assert [type(each) for each in ask(lambda client: client.predict_many(["none.png"]))] == [PictureError]


def test_many_files_preprocessed_by_the_server_find_the_bad_one(ask: Ask, tmp_path: Path) -> None:
    pictures = [SEVEN, b"no image", SEVEN, tmp_path / "missing.png"]
    outcomes = ask(lambda client: client.predict_many(pictures, server_side=True))
    assert [type(each) for each in outcomes] == [Prediction, InvalidRequest, Prediction, PictureError]
    assert ask(lambda client: client.predict_many([], server_side=True)) == []
    assert [PictureError] == [type(each) for each in ask(lambda c: c.predict_many(["none.png"], server_side=True))]


@pytest.mark.parametrize("choice", [{"model": "half_plus_two"}, {"label": "nowhere"}])
def test_no_picture_is_to_blame_where_the_model_reads_no_files(server: Any, choice: dict[str, str]) -> None:
    asked: list[Attempt[Any]] = []

    def watched(attempt: Attempt[Any]) -> contextlib.AbstractContextManager[None]:
        asked.append(attempt)
        return contextlib.nullcontext()

    for target in (server.grpc, server.rest):
        asked.clear()
        with Client(target, timeout=60, interceptors=[watched], **choice) as client:  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest, match=r"image_bytes|nowhere"):
                list(client.predict_many([SEVEN] * 64, server_side=True))
            with pytest.raises(InvalidRequest, match=r"image_bytes|nowhere"):
                list(client.predict_many([SEVEN], server_side=True))
        assert len(asked) <= 4


def test_an_array_of_images_is_answered_image_by_image(ask: Ask, digits: NDArray[np.uint8]) -> None:
    outcomes = ask(lambda client: client.predict_many(digits[:200]))
    assert len(outcomes) == 200
    assert outcomes[0].label == "7"


def test_an_asynchronous_source_of_pictures_is_read_as_it_comes(server: Any) -> None:
    async def source() -> AsyncIterator[Path]:
        for path in SAMPLES:
            yield path

    async def ask_all() -> list[Any]:
        async with AsyncClient(server.grpc, timeout=60) as client:
            return [each async for each in client.predict_many(source())]

    assert len(asyncio.run(ask_all())) == 12


def test_reading_ahead_is_bounded_and_stops_when_nobody_listens(server: Any, client: Client) -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield SEVEN

    answers = client.predict_many(endless(), batch_size=2, concurrency=2)
    assert next(answers).label == "7"  # type: ignore[union-attr]
    answers.close()  # type: ignore[attr-defined]
    assert read <= 2 * 2 * 2 + 2

    async def one() -> Any:
        async with AsyncClient(server.grpc, timeout=60) as asynchronous:
            answers = asynchronous.predict_many(endless(), batch_size=2, concurrency=2)
            first = await anext(answers)
            await answers.aclose()  # type: ignore[attr-defined]
            return first

    read = 0
    assert asyncio.run(one()).label == "7"
    assert read <= 2 * 2 * 2 + 2


def test_any_signature_can_be_called(ask: Ask, digits: NDArray[np.uint8]) -> None:
    outputs = ask(lambda client: client.call({"image": digits[:3, ..., None]}))
    assert outputs.keys() == {"label", "probabilities"}
    assert (outputs["probabilities"].dtype, outputs["probabilities"].shape) == (np.float32, (3, 10))
    assert outputs["label"][0] == b"7"
    files = np.array([SEVEN.read_bytes()], object)
    only = ask(lambda c: c.call({"image_bytes": files}, signature="image_bytes", output_filter=["label"]))
    assert {name: list(each) for name, each in only.items()} == {"label": [b"7"]}


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"picture": 1}, {}, r"serving_default takes other inputs. Received: \['picture'\] \(it takes image: uint8"),
        ({"image": np.zeros((1, 784), np.uint8)}, {}, r"must be uint8 \[N, 28, 28, 1\]. Received: uint8 \[1, 784\]"),
        ({"image": np.zeros((1, 28, 28, 1))}, {}, r"Received: float64 \[1, 28, 28, 1\]. Convert it: array.astype"),
        ({"image": np.zeros((1, 28, 28, 1)).tolist()}, {}, r"Received: float32 \[1, 28, 28, 1\]. Convert it: array"),
        ({"image": [[1], [1, 2]]}, {}, "nested lists of one shape"),
        ({"image": 1}, {"signature": "none"}, r"no such signature. Received: 'none' \(it has: .*serving_default"),
        ({"image": np.zeros((1, 28, 28, 1), np.uint8)}, {"output_filter": ["x"]}, r"no such output. Received: \['x'\]"),
        (
            {"image": 1},
            {"version": 1, "label": "stable"},
            "not by both. Received: 1 and 'stable'",
        ),
    ],
)
def test_what_does_not_fit_the_signature_is_refused_before_it_is_sent(
    client: Client, inputs: Any, options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        client.call(inputs, **options)


def test_pythons_numbers_take_the_signatures_type(client: Client, digits: NDArray[np.uint8]) -> None:
    assert client.call({"image": digits[:1, ..., None].tolist()})["label"][0] == b"7"


@pytest.mark.parametrize(
    "inputs",
    [
        {"n": [1.9]},
        {"n": [2.0]},
        {"n": [np.float32(1.9)]},
        {"n": np.array([2.0])},
        {"b": [0.1]},
        {"b": [1]},
        {"b": np.array([1])},
        {"x": [1j]},
        {"n": [2**63]},
        {"n": [np.uint64(2**63)]},
        {"n": [2**70]},
        {"n": [None]},
        {"s": ["\ud800"]},
    ],
    ids=repr,
)
def test_no_value_in_a_list_is_changed_to_fit(ask: Ask, inputs: dict[str, Any]) -> None:
    whole = {"b": [True], "n": [1], "s": ["a"], "x": [1.0]}
    with pytest.raises(InputError, match="Received: "):
        ask(lambda client: client.call(whole | inputs, model="half_plus_two", signature="multi"))


def test_narrower_numbers_in_lists_stand_for_wider_ones(ask: Ask) -> None:
    inputs: dict[str, Any] = {"b": [np.True_], "n": [True], "s": ["a"], "x": [np.uint8(1)]}
    outputs = ask(lambda client: client.call(inputs, model="half_plus_two", signature="multi"))
    assert (outputs["n"].tolist(), outputs["x"].tolist()) == ([2], [2.0])
    none: dict[str, Any] = {"b": [], "n": [], "s": [], "x": []}
    outputs = ask(lambda client: client.call(none, model="half_plus_two", signature="multi"))
    assert {name: array.size for name, array in outputs.items()} == {"b": 0, "n": 0, "s": 0, "x": 0}


def test_examples_are_classified(ask: Ask) -> None:
    results = ask(lambda c: c.classify([{"image/encoded": SEVEN.read_bytes()}] * 2, signature="classify"))
    assert [each[0].label for each in results] == ["7", "7"]
    assert results[0][0].score == max(each.score for each in results[0])


def test_examples_are_regressed(ask: Ask) -> None:
    values = ask(
        lambda c: c.regress([{}, {"x": 4.0}], context={"x": 1.0}, model="half_plus_two", signature="regress_x_to_y")
    )
    assert (values.dtype, values.tolist()) == (np.float32, [2.5, 4.0])


def test_values_of_every_kind_go_and_come_back(ask: Ask) -> None:
    def call(inputs: Any, **options: Any) -> Any:
        return ask(lambda client: client.call(inputs, model="half_plus_two", **options))

    many = call({"b": [True], "n": [2**40], "s": ["é"], "x": [1.5]}, signature="multi")
    assert {name: (array.dtype.name, array.tolist()) for name, array in many.items()} == {
        "b": ("bool", [False]),
        "n": ("int64", [2**40 + 1]),
        "s": ("object", ["é".encode()]),
        "x": ("float32", [3.0]),
    }
    assert call({"b": [True], "n": [1], "s": ["a"], "x": [1.5]}, signature="multi", output_filter=["n"]).keys() == {"n"}
    strings = call({"s": [b"\xff\0", "ab"]}, signature="strs")
    assert (strings["image_bytes"].tolist(), strings["len"].tolist()) == ([b"\xff\0", b"ab"], [2, 2])
    assert call({"x": [0.0]}, signature="inv")["l"].tolist() == [-np.inf]
    assert call({"x": [[1.0, 2.0]]}, signature="sum2")["total"].shape == ()


def test_a_version_is_asked_by_its_number_or_its_label(ask: Ask) -> None:
    def call(**choice: Any) -> Any:
        return ask(lambda client: client.call({"x": [[1.0]]}, model="half_plus_two", **choice))["y"].tolist()

    assert call() == call(version=1) == call(label="stable") == [[2.5]]
    models = ask(lambda client: client.models("digits", "half_plus_two"))
    assert [[each.version for each in model.versions] for model in models] == [[1], [3, 1]]
    with pytest.raises(InvalidRequest, match="nightly"):
        call(label="nightly")


def test_a_signature_of_another_method_does_not_regress(ask: Ask) -> None:
    with pytest.raises(InvalidRequest):
        ask(lambda client: client.regress([{"x": 1.0}], signature="classify"))


def test_status_and_signatures_are_told(ask: Ask) -> None:
    (version,) = ask(lambda client: client.status())
    assert (version.version, version.state, version.error_code) == (1, "AVAILABLE", "OK")
    signatures = ask(lambda client: client.metadata())
    assert str(signatures["serving_default"].inputs["image"]) == "uint8 [N, 28, 28, 1]"
    assert str(signatures["serving_default"].outputs["probabilities"]) == "float32 [N, 10]"
    (model,) = ask(lambda client: client.models("digits"))
    assert (model.name, model.versions, model.signatures) == ("digits", [version], signatures)


def test_a_model_that_is_not_there_is_named(ask: Ask) -> None:
    with pytest.raises(NotFound, match=r"nope.*Check the name and the version") as error:
        ask(lambda client: client.status("nope"))
    assert (error.value.code, error.value.model, error.value.attempts) == ("NOT_FOUND", "nope", 1)
    with pytest.raises(NotFound):
        ask(lambda client: client.predict(SEVEN, model="nope"))
    with pytest.raises(NotFound):
        ask(lambda client: client.predict(SEVEN, version=99))
    with pytest.raises(NotFound):
        ask(lambda client: client.call({"image": 1}, model="nope"))


def test_waiting_ends_at_once_where_the_model_is_available(ask: Ask) -> None:
    assert ask(lambda client: client.wait_until_available(30))[0].state == "AVAILABLE"


def test_waiting_for_a_label_ends_when_calls_can_ask_it(server: Any, configuration: list[ModelConfig]) -> None:
    digits, half_plus_two = configuration
    labelled = replace(half_plus_two, labels={"stable": 1, "canary": 3})
    for target in (server.grpc, server.rest):
        with (
            Client(server.grpc) as operator,
            Client(target, model="half_plus_two", label="canary") as client,
            ThreadPoolExecutor() as pool,
        ):
            with pytest.raises(DeadlineExceeded, match=r"last seen: .*canary"):
                client.wait_until_available(1)
            waiting = pool.submit(client.wait_until_available, 60)
            operator.reload_config([digits, labelled])
            assert [each.version for each in waiting.result()] == [3, 1]
            assert client.call({"x": [[1.0]]})["y"].tolist() == [[2.5]]
            operator.reload_config(configuration)


def test_waiting_for_what_never_comes_says_what_was_seen(server: Any) -> None:
    with (
        Client(server.grpc, model="nope") as client,
        pytest.raises(DeadlineExceeded, match=r"last seen: NOT_FOUND.*nope") as error,
    ):
        client.wait_until_available(0.2)
    assert isinstance(error.value, TimeoutError)


def test_a_new_configuration_goes_over_grpc_only(
    ask: Ask, configuration: list[ModelConfig], request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["ask"].endswith("rest"):
        with pytest.raises(Unsupported, match=r"REST has no call.*Use gRPC"):
            ask(lambda client: client.reload_config(configuration))
        return
    ask(lambda client: client.reload_config(configuration))
    assert ask(lambda client: client.status())[0].state == "AVAILABLE"
    with pytest.raises(InvalidRequest, match="relative"):
        ask(lambda client: client.reload_config([ModelConfig("digits", "relative/path")]))


def test_requests_may_be_compressed(server: Any, digits: NDArray[np.uint8]) -> None:
    for target in (server.grpc, server.rest):
        with Client(target, compression=True, timeout=60) as client:
            assert client.predict(digits[0]).label == "7"


def test_a_file_object_is_read(client: Client) -> None:
    assert client.predict(io.BytesIO(SEVEN.read_bytes())).label == "7"
