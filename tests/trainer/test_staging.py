"""Staging directories: cleared when dead, never when alive."""

import subprocess
import sys
from pathlib import Path

from glyph_trainer.staging import clear_dead, staging_directory, write_atomically

HOLD = """
import sys
from pathlib import Path
from glyph_trainer.staging import staging_directory
with staging_directory(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("of something")
    print(staging, flush=True)
    sys.stdin.read()
"""


def test_a_live_owner_s_staging_is_kept_and_a_dead_one_s_cleared(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        staging = Path(owner.stdout.readline().strip())
        assert clear_dead(tmp_path) == []
        assert (staging / "half").exists()
        owner.kill()
        owner.wait()
        assert (staging / "half").exists(), "what a killed process leaves"
        with staging_directory(tmp_path) as another:
            assert list(tmp_path.iterdir()) == [another]
    assert list(tmp_path.iterdir()) == []


def test_a_renamed_staging_directory_stays(tmp_path: Path) -> None:
    with staging_directory(tmp_path) as staging:
        (staging / "content").write_text("whole")
        staging.rename(tmp_path / "finished")
    assert (tmp_path / "finished" / "content").read_text() == "whole"


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_only_looks_like_a_staging_directory_is_somebody_else_s(tmp_path: Path) -> None:
    (tmp_path / ".staging-mywebsite").mkdir()
    assert clear_dead(tmp_path) == []
    assert (tmp_path / ".staging-mywebsite").is_dir()
