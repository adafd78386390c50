"""What the configuration files may say: what the genuine server's source takes and refuses, in its words."""

from pathlib import Path

import pytest
from glyph_serving import config, flags
from glyph_serving.config import ServerConfig
from glyph_serving.errors import Code, ServingError
from glyph_serving.source import aspired_versions, versions_on_disk
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.serving.conftest import RECORDED_MODELS


def entry(name: str = "a", base_path: str = "/x", rest: str = 'model_platform: "tensorflow"') -> str:
    return f'config {{ name: "{name}" base_path: "{base_path}" {rest} }}'


def models(*entries: str, served: tuple[str, ...] = ()) -> dict[str, config.ModelConfig]:
    message = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(f"model_config_list {{ {' '.join(entries)} }}", message)
    return config.models_from_proto(message, served)


def loaded(*arguments: str) -> ServerConfig:
    values, unknown = flags.parse([f"--model_base_path={RECORDED_MODELS / 'digits'}", "--rest_api_port=1", *arguments])
    assert unknown == []
    return config.load(values)


NEITHER = "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
BOTH = "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
CHANGED = "Illegal to change a model's platform. For model a platform was tensorflow and new platform requested is foo"


@pytest.mark.parametrize(
    ("entries", "served", "message"),
    [
        ([entry(rest="")], (), NEITHER),
        ([entry(rest="")], ("a",), NEITHER),
        ([entry(rest='model_type: TENSORFLOW model_platform: "tensorflow"')], (), BOTH),
        ([entry(rest="model_type: OTHER")], (), "ModelServerConfig::model_type choice 2 not supported."),
        ([entry(rest='model_platform: "foo"')], (), "Model a requests unsupported platform foo"),
        ([entry(rest='model_platform: "foo"')], ("a",), CHANGED),
        (
            [entry(rest='model_platform: "foo"'), entry("b", "y")],
            (),
            "Expected model b to have an absolute path or URI",
        ),
        ([entry("b", "y"), entry(), entry()], (), "Illegal to list model a multiple times in config list"),
        ([entry("b", rest=""), entry(rest='model_platform: "foo"')], ("a",), CHANGED),
        ([entry(base_path="gs://bucket/a")], (), "Model a must lie in a folder of this machine"),
        ([entry(base_path="/x\\000y")], (), "Model a must lie in a folder; got base_path()=/x\0y, which holds a NUL"),
    ],
)
def test_models_that_cannot_be_served_are_refused(entries: list[str], served: tuple[str, ...], message: str) -> None:
    with pytest.raises(ServingError) as refused:
        models(*entries, served=served)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.message.startswith(message)


def test_the_older_name_of_the_platform_and_uris_of_files_are_understood() -> None:
    found = models(entry(rest="model_type: TENSORFLOW"), entry("b", "file:///x/y"), served=("a",))
    assert [model.base_path for model in found.values()] == [Path("/x"), Path("/x/y")]


def test_a_relative_base_path_is_refused() -> None:
    with pytest.raises(ServingError) as refused:
        loaded("--model_base_path=models/digits")
    said = "Expected model default to have an absolute path or URI; got base_path()=models/digits"
    assert str(refused.value) == f"INVALID_ARGUMENT: {said}"


FILES = ["model_config_file", "batching_parameters_file", "monitoring_config_file", "ssl_config_file"]


@pytest.mark.parametrize("flag", [*FILES, "platform_config_file"])
@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, Code.NOT_FOUND, "$FILE; No such file or directory"),
        ("", Code.INVALID_ARGUMENT, "$FILE; Invalid argument"),
        ("foo: 1", Code.INVALID_ARGUMENT, "Invalid protobuf file: '$FILE'"),
    ],
)
def test_files_that_cannot_be_read_are_refused(
    tmp_path: Path, flag: str, content: str | None, code: Code, said: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ServingError) as refused:
        loaded(f"--{flag}={file}", *(["--enable_batching"] if flag.startswith("batching") else []))
    assert (refused.value.code, refused.value.message) == (code, said.replace("$FILE", str(file)))


@pytest.mark.parametrize("flag", [*FILES, "platform_config_file", "thread_pool_factory_config_file"])
def test_a_folder_is_no_file(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ServingError) as refused:
        loaded(f"--{flag}={tmp_path}", *(["--enable_batching"] if flag.startswith("batching") else []))
    assert str(refused.value) == f"NOT_FOUND: {tmp_path}; No such device"
    assert refused.value.in_full.endswith("(Is a directory)")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_bytes(b"\xff\xfe")
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Invalid protobuf file"):
        loaded(f"--model_config_file={tmp_path / 'models.config'}")


def test_a_model_config_of_comments_only_serves_nothing(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("# to come\n")
    assert loaded(f"--model_config_file={tmp_path / 'models.config'}").models == {}


def test_the_platform_config_of_the_genuine_server_is_read(tmp_path: Path) -> None:
    (tmp_path / "platform.config").write_text(
        'platform_configs { key: "tensorflow" value { source_adapter_config { '
        "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] { legacy_config { } } } } }"
    )
    assert loaded(f"--platform_config_file={tmp_path / 'platform.config'}").models


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing", "Model default requests unsupported platform tensorflow"),
        ('platform_configs { key: "foo" value { } }', "Model default requests unsupported platform tensorflow"),
        ('platform_configs { key: "tensorflow" value { } }', "Supplied config's type_url could not be parsed: "),
    ],
)
def test_a_platform_config_without_tensorflow_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "platform.config").write_text(text)
    with pytest.raises(ServingError) as refused:
        loaded(f"--platform_config_file={tmp_path / 'platform.config'}")
    assert str(refused.value) == f"INVALID_ARGUMENT: {message}"


ALL_THREE = [f"--tensorflow_{name}_parallelism=1" for name in ("session", "intra_op", "inter_op")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_config_file=/nonexistent", *ALL_THREE], "/nonexistent; No such file or directory"),
        (["--batching_parameters_file=/x", *ALL_THREE], "server_options.batching_parameters_file is set without"),
        (["--model_base_path=x", *ALL_THREE], "Either configure server_options.tensorflow_session_parallelism"),
        (["--use_alts_credentials", "--ssl_config_file=/x", "--model_base_path="], "Either use_alts_credentials must"),
        (["--tensorflow_session_parallelism=-1"], "--tensorflow_session_parallelism must be 0"),
        (["--tensorflow_intra_op_parallelism=4294967296"], "--tensorflow_intra_op_parallelism must be 0"),
        (["--thread_pool_factory_config_file=/nonexistent"], "/nonexistent; No such file or directory"),
    ],
)
def test_of_several_mistakes_the_genuine_servers_first_is_told(arguments: list[str], message: str) -> None:
    with pytest.raises(ServingError) as refused:
        loaded(*arguments)
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--workers=0", "--workers must be at least 1. Received: 0"),
        ("--file_system_poll_wait_seconds=-1", "--file_system_poll_wait_seconds must be at least 0. Received: -1"),
        ("--num_load_threads=-1", "--num_load_threads must be at least 0. Received: -1"),
        ("--max_num_load_retries=-1", "--max_num_load_retries must be at least 0. Received: -1"),
        ("--max_message_bytes=0", "--max_message_bytes must be at least 1. Received: 0"),
        ("--max_concurrent_requests=-1", "--max_concurrent_requests must be at least 0. Received: -1"),
        ("--grace_period_seconds=-1", "--grace_period_seconds must be at least 0. Received: -1.0"),
        ("--grace_period_seconds=nan", "--grace_period_seconds must be at least 0. Received: nan"),
        ("--address=localhost", "--address must be an IP address, 0.0.0.0 for all of this machine's. Received: 'local"),
        ("--address=999.1.1.1", "--address must be an IP address, 0.0.0.0 for all of this machine's. Received: '999."),
    ],
)
def test_values_that_cannot_be_are_refused(argument: str, message: str) -> None:
    with pytest.raises(ServingError) as refused:
        loaded(argument)
    assert refused.value.message.startswith(message)


def test_no_version_may_be_asked_for_of_a_model_that_is_served() -> None:
    none = entry(rest='model_platform: "tensorflow" model_version_policy { specific { } }')
    assert aspired_versions({1: Path("1")}, models(none, served=("a",))["a"].policy) == {}
    with pytest.raises(ServingError, match="Model a has a specific version policy without versions"):
        models(none)


@pytest.mark.parametrize("kind", ['type: "foo"', ""])
def test_there_is_one_kind_of_request_log(kind: str) -> None:
    with pytest.raises(ServingError) as refused:
        models(entry(rest=f'model_platform: "tensorflow" logging_config {{ log_collector_config {{ {kind} }} }}'))
    assert str(refused.value) == "INVALID_ARGUMENT: No request-logger-creator provided."
    assert "there is one type: tfrecord" in refused.value.in_full


def test_of_two_folders_of_one_version_the_last_counts(tmp_path: Path) -> None:
    for name in ("007", "7", "07"):
        (tmp_path / name).mkdir()
    assert versions_on_disk(tmp_path) == {7: tmp_path / "7"}


def test_only_of_the_platforms_are_unknown_types_let_pass(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("custom_model_config { [type.googleapis.com/some.Type] { } }")
    with pytest.raises(ServingError, match="Invalid protobuf file"):
        loaded(f"--model_config_file={tmp_path / 'models.config'}")


def test_monitoring_without_rest_is_not_looked_at() -> None:
    assert loaded("--monitoring_config_file=/nonexistent", "--rest_api_port=0").metrics_path is None


@pytest.mark.parametrize("more", [1, 0])
def test_parallelism_is_refused_only_where_all_three_are_set(more: int) -> None:
    arguments = ["--tensorflow_session_parallelism=2", "--tensorflow_intra_op_parallelism=1"]
    arguments.append(f"--tensorflow_inter_op_parallelism={more}")
    if more:
        with pytest.raises(ServingError, match="You cannot configure all"):
            loaded(*arguments)
    else:
        assert loaded(*arguments).flags.tensorflow_intra_op_parallelism == 1


def batching(folder: Path, text: str) -> config.BatchingParameters:
    (folder / "batching.config").write_text(text)
    found = loaded("--enable_batching", f"--batching_parameters_file={folder / 'batching.config'}").batching
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("num_batch_threads { value: -1 }", "num_batch_threads must be positive; was -1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
    ],
)
def test_batching_that_cannot_be_is_refused_at_the_start(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ServingError) as refused:
        batching(tmp_path, text)
    assert str(refused.value) == f"INVALID_ARGUMENT: {message}"


SPLITTING = "max_execution_batch_size { value: 8 } enable_large_batch_splitting { value: true }"
TOO_SMALL = "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "input_batch_size_limit must be positive; was 0"),
        (f"max_batch_size {{ value: 4 }} {SPLITTING}", f"{TOO_SMALL} max_execution_batch_size."),
    ],
)
def test_sizes_that_do_not_go_together_fail_the_load(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ServingError) as refused:
        config.check_batching(batching(tmp_path, text))
    assert str(refused.value) == f"INVALID_ARGUMENT: {message}"


def test_a_queue_for_no_batch_holds_one(tmp_path: Path) -> None:
    assert batching(tmp_path, "max_enqueued_batches { value: 0 }").max_enqueued_batches == 1
