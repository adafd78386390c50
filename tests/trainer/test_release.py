"""Labels, and the server's models.config that carries them."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from glyph_trainer.errors import PublishError
from glyph_trainer.promotions import CANARY, STABLE
from glyph_trainer.release import Release
from glyph_trainer.versions import check_writable, prune, published_versions
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.conftest import Server
from tests.serving.conftest import ask
from tests.trainer.conftest import Run, give_up_root

CONFIG = Path(__file__).parents[2] / "serving" / "config" / "models.config"


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """The repository's models.config, and six versions."""
    config = tmp_path / "models.config"
    config.write_bytes(CONFIG.read_bytes())
    for number in range(1, 7):
        version = tmp_path / "digits" / str(number)
        (version / "assets.extra").mkdir(parents=True)
        (version / "saved_model.pb").touch()
        (version / "assets.extra" / "manifest.json").write_text('{"recipe": "deck"}')
    return Release(config, "digits", tmp_path / "digits")


def read(release: Release) -> model_server_config_pb2.ModelConfig:
    parsed = text_format.Parse(release.config.read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    return model


def test_all_labelled_versions_are_served(release: Release) -> None:
    release.promote(3, STABLE)
    release.promote(5, CANARY)
    model = read(release)
    assert dict(model.version_labels) == {"stable": 3, "canary": 5}
    assert list(model.model_version_policy.specific.versions) == [3, 5]
    assert model.base_path == "/models/digits", "the rest stays as it was"
    assert release.config.read_text().splitlines()[0] == CONFIG.read_text().splitlines()[0]


def test_a_canary_that_becomes_stable_is_no_canary_any_longer(release: Release) -> None:
    release.promote(3, STABLE)
    release.promote(5, CANARY)
    release.promote(5, STABLE)
    assert release.labels() == {"stable": 5}


def test_the_two_that_were_stable_before_stay_loaded_for_rollbacks(release: Release) -> None:
    for version in (1, 3, 4, 6):
        release.promote(version, STABLE)
    assert list(read(release).model_version_policy.specific.versions) == [3, 4, 6]
    release.rollback()
    assert list(read(release).model_version_policy.specific.versions) == [1, 3, 4]


def test_rolling_back_drops_the_canary_first_and_then_returns_to_what_was_stable(release: Release) -> None:
    for version in (1, 4, 6):
        release.promote(version, STABLE)
    release.promote(5, CANARY)
    assert release.rollback() == (CANARY, None)
    assert release.rollback() == (STABLE, 4)
    assert release.rollback() == (STABLE, 1)
    assert release.labels() == {"stable": 1}
    with pytest.raises(PublishError, match="no version was stable before 1: promote one by its number"):
        release.rollback()


def test_without_labels_there_is_nothing_to_roll_back(release: Release) -> None:
    with pytest.raises(PublishError, match="labels no version: there is nothing to roll back"):
        release.rollback()


def test_only_a_published_version_is_promoted(release: Release) -> None:
    before = release.config.read_bytes()
    with pytest.raises(PublishError, match=r"has no version 9\. Published are: 1, 2, 3, 4, 5, 6"):
        release.promote(9, STABLE)
    assert release.config.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model_config_list {", "cannot be read as a models.config"),
        (b"\xff\xfe", "cannot be read as a models.config"),
        (b"", "has no model called 'digits'"),
    ],
)
def test_a_config_that_cannot_be_used_is_named_and_left_alone(release: Release, content: bytes, message: str) -> None:
    release.config.write_bytes(content)
    with pytest.raises(PublishError, match=f"^{re.escape(str(release.config))} {message}"):
        release.promote(1, STABLE)
    assert release.config.read_bytes() == content


COMMENTED = """\
# Ours. {Ask before you change it}
model_config_list {
  config {  # "what the demo shows
    name: "digits"
    # not on the root disk: '}'
    base_path: "/models/digits"
    %s  # moved by glyph-train
    model_platform: "tensorflow"
  }
  config { name: "letters # 2" base_path: "/models/letters" model_version_policy { all {} } }  # everything
}
# The end.
"""


def test_whatever_somebody_has_written_into_the_config_stays(release: Release) -> None:
    release.config.write_text(COMMENTED % "model_version_policy { latest { num_versions: 1 } }")
    release.promote(3, STABLE)
    release.promote(5, CANARY)
    assert release.config.read_text() == COMMENTED.replace("%s  # moved", "%s\n    # moved") % (
        "model_version_policy { specific { versions: 3 versions: 5 } }\n"
        '    version_labels { key: "canary" value: 5 }\n'
        '    version_labels { key: "stable" value: 3 }'
    )
    release.rollback()
    release.promote(3, CANARY)
    release.rollback()
    release.promote(4, STABLE)
    release.rollback()
    assert release.config.read_text() == COMMENTED.replace("%s  # moved", "%s\n    # moved") % (
        'model_version_policy { specific { versions: 3 } }\n    version_labels { key: "stable" value: 3 }'
    )


ONE_LINE = 'model_config_list{config{name:"digits"base_path:"/m"model_type:TENSORFLOW}}'
NEITHER = 'model_config_list {\n  config {\n    name: "digits"\n    base_path: "/m"\n    # the end\n  }\n}\n'
ANGLES = 'model_config_list: <config: <base_path: "/m" version_labels <key: "stable" value: 1>; name: "digits";>>'
LISTS = """model_config_list { config: [
  { name: 'other' version_labels: [] },
  {
    name: 'dig' 'its', base_path: '/m',
    version_labels: [ { key: 'stable', value: 1 }, { key: 'old', value: 2 } ], # }
    version_labels { key: 'new' value: 2 } # {
    , model_version_policy: { specific: { versions: [1, 2] } } }
] }"""
WINDOWS = NEITHER.replace("# the end", "model_version_policy { all {} }").replace("\n", "\r\n")
BRACE = r'model_config_list { config { name: "\"{" } config { name: "digits" base_path: "/m" } config { name: "it" } }'


@pytest.mark.parametrize("text", [ONE_LINE, NEITHER, ANGLES, LISTS, WINDOWS, BRACE])
def test_any_spelling_of_a_config_can_be_changed(release: Release, text: str) -> None:
    release.config.write_bytes(text.encode())
    expected = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = (model for model in expected.model_config_list.config if model.name == "digits")
    labels = {**model.version_labels, STABLE: 6}
    model.version_labels.update(labels)
    model.model_version_policy.specific.versions[:] = sorted({*labels.values(), *([1] if STABLE in text else [])})
    release.promote(6, STABLE)
    changed = release.config.read_bytes().decode()
    assert text_format.Parse(changed, model_server_config_pb2.ModelServerConfig()) == expected, changed
    assert re.findall("#.*", changed) == re.findall("#.*", text)


def test_pruning_keeps_the_newest_and_those_in_use(release: Release) -> None:
    release.promote(1, STABLE)
    release.promote(2, STABLE)
    assert prune(release.base, 2, release.versions_in_use()) == ([3, 4], {})
    assert list(published_versions(release.base)) == [1, 2, 5, 6]
    assert prune(release.base, 2, release.versions_in_use()) == ([], {})
    check_writable(release.base)


def test_pruning_leaves_alone_what_others_have_put_there_and_the_newest_of_what_works(release: Release) -> None:
    for number in ("7", "8"):
        (release.base / number).mkdir()  # broken: the server goes on with version 6
    assert prune(release.base, 1, ()) == ([1, 2, 3, 4, 5], {})
    assert list(published_versions(release.base)) == [6, 7, 8]


def test_the_commands_do_the_same(glyph_train: Run, release: Release) -> None:
    models = ("--models-dir", release.base.parent, "--config", release.config)
    assert glyph_train("promote", 4, *models).stdout == "stable is version 4\n"
    assert glyph_train("promote", 6, "--label", "canary", *models).stdout == "canary is version 6\n"
    blind = glyph_train("prune", "--keep", 1, *models[:2])
    assert blind.returncode == 1
    assert "have had labels. Name the server's models.config with --config" in blind.stderr
    assert glyph_train("prune", "--keep", 1, *models).stdout == "Deleted 1, 2, 3, 5\n"
    assert glyph_train("rollback", *models).stdout == "there is no canary any longer\n"
    refused = glyph_train("promote", 5, *models)
    assert refused.returncode == 1
    assert refused.stderr == f"glyph-train: error: {release.base} has no version 5. Published are: 4, 6\n"


def test_pruning_names_what_it_may_not_delete_and_deletes_the_others(glyph_train: Run, release: Release) -> None:
    (release.base / "2").chmod(0o555)
    (release.base / "4" / "assets.extra").chmod(0o555)
    done = glyph_train("prune", "--keep", 1, "--models-dir", release.base.parent, preexec_fn=give_up_root)
    assert done.stdout == "Deleted 1, 3, 5\n"
    assert done.returncode == 1
    first, *reasons = done.stderr.splitlines()
    assert first.startswith(f"glyph-train: error: 2 versions of {release.base} cannot be deleted by user {os.getuid()}")
    owner = f"Permission denied (it belongs to user {os.getuid()})"
    assert reasons == [f"  2: {release.base}/2: {owner}", f"  4: {release.base}/4/assets.extra: {owner}"]
    for number in (2, 4):
        assert (release.base / str(number) / "assets.extra" / "manifest.json").exists()
    assert sorted(path.name for path in release.base.iterdir()) == ["2", "4", "6"]


def test_nothing_is_to_be_pruned_of_a_model_that_is_not_there(glyph_train: Run, tmp_path: Path) -> None:
    done = glyph_train("prune", "--keep", 1, "--models-dir", tmp_path / "models")
    assert (done.returncode, done.stdout) == (0, "Nothing to delete\n")
    assert not list(tmp_path.iterdir()), "nor is its folder made"


def test_a_promotion_that_is_said_twice_can_still_be_taken_back(release: Release) -> None:
    for version in (1, 2, 2):
        release.promote(version, STABLE)
    assert release.versions_in_use() == {1, 2}
    assert release.rollback() == (STABLE, 1)


@pytest.mark.parametrize("name", ["", "..", "../outside", "a/b"])
def test_a_model_s_name_is_that_of_one_folder(glyph_train: Run, release: Release, name: str) -> None:
    refused = glyph_train("versions", "--models-dir", release.base.parent, "--model-name", name)
    assert refused.returncode == 2
    assert f"{name!r} is no name of a folder" in refused.stderr


def test_of_promotions_at_once_none_is_lost(release: Release) -> None:
    with ThreadPoolExecutor(2) as operators:
        for stable in (1, 2, 3, 4, 5, 4, 3, 2):
            done = [operators.submit(release.promote, stable, STABLE), operators.submit(release.promote, 6, CANARY)]
            assert [one.result() for one in done] == [None, None]
            assert release.labels() == {"stable": stable, "canary": 6}
            release.rollback()


def test_a_promotion_that_failed_is_none_to_roll_back(release: Release) -> None:
    release.promote(1, STABLE)
    release.promote(2, STABLE)
    in_the_way = release.config.with_name(".models.config.writing")
    in_the_way.mkdir()
    with pytest.raises(OSError, match="writing"):
        release.promote(1, STABLE)
    in_the_way.rmdir()
    assert release.rollback() == (STABLE, 1)
    with pytest.raises(PublishError, match="no version was stable before 1"):
        release.rollback()


def test_a_promotion_that_cannot_be_logged_is_not_made(release: Release) -> None:
    release.promote(1, STABLE)
    before = release.config.read_bytes()
    (release.base / "..promotions.jsonl.writing").mkdir()
    for label in (STABLE, CANARY):
        with pytest.raises(OSError, match="writing"):
            release.promote(2, label)
        assert release.config.read_bytes() == before


def test_a_damaged_log_is_named(release: Release) -> None:
    release.promote(1, STABLE)
    log = release.base / ".promotions.jsonl"
    log.write_text(log.read_text() + '{"label": "sta\n')
    with pytest.raises(PublishError, match=rf"^line 2 of {re.escape(str(log))} is damaged .* Repair or remove it$"):
        release.promote(2, STABLE)


def test_the_file_stays_readable_for_whoever_could_read_it_and_a_link_a_link(release: Release) -> None:
    release.config.chmod(0o664)
    link = release.config.with_name("link.config")
    link.symlink_to(release.config.name)
    Release(link, "digits", release.base).promote(3, STABLE)
    assert link.is_symlink()
    assert release.labels() == {"stable": 3}
    assert release.config.stat().st_mode & 0o777 == 0o664


def test_what_a_rollback_returns_to_stays_whatever_the_policy_says(release: Release) -> None:
    release.promote(2, STABLE)
    release.promote(5, STABLE)
    text = release.config.read_text()
    release.config.write_text(re.sub(r"model_version_policy \{.*?\} \}", "model_version_policy { all { } }", text))
    assert "all { }" in release.config.read_text()
    assert prune(release.base, 1, release.versions_in_use()) == ([1, 3, 4], {})
    assert release.rollback() == (STABLE, 2)


def test_a_number_too_large_for_a_server_is_no_version(release: Release) -> None:
    (release.base / "20261128035853123456").mkdir()
    assert max(published_versions(release.base)) == 6


def test_a_rollback_takes_back_a_return_too_and_comes_to_an_end(release: Release) -> None:
    for version in (1, 2, 1):
        release.promote(version, STABLE)
    assert release.rollback() == (STABLE, 2)
    assert release.rollback() == (STABLE, 1)
    with pytest.raises(PublishError, match="no version was stable before 1"):
        release.rollback()


@pytest.fixture
def production(release: Release) -> Release:
    """Another server's models.config, for the same versions."""
    config = release.config.with_name("production.config")
    config.write_bytes(CONFIG.read_bytes())
    return Release(config, release.name, release.base)


def test_a_rollback_takes_back_what_was_promoted_in_its_own_file(release: Release, production: Release) -> None:
    for stage, version in ((release, 1), (production, 1), (release, 2), (production, 4), (release, 4), (release, 5)):
        stage.promote(version, STABLE)
    assert production.rollback() == (STABLE, 1)
    assert [release.rollback(), release.rollback(), release.rollback()] == [(STABLE, 4), (STABLE, 2), (STABLE, 1)]


def test_pruning_spares_what_other_files_need(release: Release, production: Release) -> None:
    release.promote(6, STABLE)
    production.promote(2, STABLE)
    production.promote(3, STABLE)
    production.promote(5, CANARY)
    production.config.unlink()  # as for a process that cannot see it
    assert prune(release.base, 1, release.versions_in_use()) == ([1, 4], {})


def test_a_log_that_does_not_name_its_files_holds_for_each(release: Release, production: Release) -> None:
    for stage in (release, production):
        stage.promote(1, STABLE)
        stage.promote(4, STABLE)
    log = release.base / ".promotions.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()[:2]]
    log.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "config"}) + "\n" for line in lines))
    production.promote(6, STABLE)
    assert release.rollback() == (STABLE, 1)
    assert [production.rollback(), production.rollback()] == [(STABLE, 4), (STABLE, 1)]


def test_a_file_and_the_folders_may_be_seen_under_another_path(release: Release, tmp_path: Path) -> None:
    release.promote(1, STABLE)
    release.promote(2, STABLE)
    elsewhere = tmp_path.with_name(f"{tmp_path.name} elsewhere")
    shutil.copytree(tmp_path, elsewhere)
    copy = Release(elsewhere / release.config.name, release.name, elsewhere / release.base.name)
    assert copy.rollback() == (STABLE, 1)


def test_of_promotions_of_two_models_in_one_file_none_is_lost(release: Release) -> None:
    shutil.copytree(release.base, release.base.with_name("letters"))
    release.config.write_text(
        'model_config_list { config { name: "digits" base_path: "/d" } config { name: "letters" base_path: "/l" } }'
    )
    letters = Release(release.config, "letters", release.base.with_name("letters"))
    with ThreadPoolExecutor(2) as operators:
        for version in (1, 2, 3, 4, 5, 6) * 3:
            done = [operators.submit(model.promote, version, STABLE) for model in (release, letters)]
            assert [one.result() for one in done] == [None, None]
            assert release.labels() == letters.labels() == {"stable": version}


@pytest.mark.parametrize(
    ("label", "remedy"), [("stable", "Roll back to 1, promote 3 to canary"), ("canary", "'glyph-train rollback'")]
)
def test_a_step_that_a_running_server_refuses_is_warned_of(
    glyph_train: Run, release: Release, label: str, remedy: str
) -> None:
    models = ("--models-dir", release.base.parent, "--config", release.config, "--label", label)
    first, second = (glyph_train("promote", version, *models) for version in (1, 3))
    assert (first.stderr, second.stdout) == ("", f"{label} is version 3\n")
    assert "it moves a label only to a version that it has loaded, and 3 was not to be" in second.stderr
    assert remedy in second.stderr


class Times(tf.Module):  # type: ignore[misc]
    """A model that tells its version."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self._factor = factor

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="number")])  # type: ignore[untyped-decorator]
    def serving_default(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"product": self._factor * number}


class Served:
    """A server, which reads a copy of the release's models.config that is brought to it now and then."""

    def __init__(self, release: Release, server_config: Path) -> None:
        self.release = release
        self.config = server_config
        self.server: Server

    def deliver(self) -> None:
        base_path = f'"{self.release.base}"'
        text = self.release.config.read_text().replace('"/models/digits"', base_path)
        self.config.with_name("next").write_text(text)
        self.config.with_name("next").rename(self.config)

    def answer(self, label: str) -> Any:
        return ask(self.server, f"/v1/models/digits/labels/{label}:predict", {"instances": [1.0]})

    def wait_for(self, label: str, version: int) -> None:
        deadline = time.monotonic() + 30
        while self.answer(label) != (200, {"predictions": [float(version)]}):
            assert time.monotonic() < deadline, self.server.log
            time.sleep(0.05)


@pytest.fixture
def served(tmp_path: Path, serve: Callable[..., AbstractContextManager[Server]]) -> Iterator[Served]:
    for number in range(1, 6):
        model = Times(number)
        tf.saved_model.save(model, str(tmp_path / "digits" / str(number)), signatures=model.serving_default)
    config = tmp_path / "models.config"
    config.write_bytes(CONFIG.read_bytes())
    served = Served(Release(config, "digits", tmp_path / "digits"), tmp_path / "server" / "models.config")
    served.config.parent.mkdir()
    served.deliver()
    flags = ("--model_config_file_poll_wait_seconds=1", "--allow_version_labels_for_unavailable_models")
    with serve(f"--model_config_file={served.config}", *flags) as served.server:
        yield served


def test_a_server_follows_two_rollbacks_of_which_it_has_not_read_the_first(served: Served) -> None:
    served.release.promote(1, STABLE)
    served.deliver()
    served.wait_for(STABLE, 1)
    for version in (2, 3, 4):
        served.release.promote(version, CANARY)
        served.deliver()
        served.wait_for(CANARY, version)
        served.release.promote(version, STABLE)
        served.deliver()
        served.wait_for(STABLE, version)
    served.release.promote(5, CANARY)
    served.deliver()
    served.wait_for(CANARY, 5)
    served.release.promote(5, STABLE)
    for _ in range(3):  # the promotion, and two steps more
        served.release.rollback()
    served.deliver()
    served.wait_for(STABLE, 2)
    assert "is not in effect" not in served.server.log
