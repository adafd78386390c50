"""docs/training.md and docs/contract.md tell the truth: the recipes, the example, the statuses, the files."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glyph_client import Client
from glyph_trainer.cli import main
from glyph_trainer.recipes import RECIPES

from tests.trainer.conftest import COMMAND

DOCS = Path(__file__).parents[2] / "docs"
TRAINING = (DOCS / "training.md").read_text()


def test_every_recipe_is_in_the_table() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", TRAINING, re.M) == list(RECIPES)


def test_the_name_under_which_a_recipe_is_published_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "(default: digits; 'run' gives recipes with data of their own the recipe's name)" in told


def test_the_example_of_one_s_own_classes_runs_and_answers_with_their_names(
    small_folder: Path,
    tmp_path: Path,
    serve: Callable[..., contextlib.AbstractContextManager[Any]],
) -> None:
    for path in small_folder.glob("[017].*.jpg"):
        folder = tmp_path / "pictures" / {"0": "circle", "1": "line", "7": "hook"}[path.name[0]]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"photo {path.name.split('.')[1]}.jpg")
    (commands,) = re.findall(r"^```sh\n(glyph-train validate .*?)^```$", TRAINING, re.M | re.S)
    environment = {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[0] == "1"
    base = tmp_path / "build" / "models" / "shapes"
    assert (base / "1" / "assets.extra" / "labels.txt").read_text() == "circle\nhook\nline\n"
    picture = min((tmp_path / "pictures" / "circle").iterdir())
    with serve("--model_name=shapes", f"--model_base_path={base}") as server, Client(server.grpc) as client:
        assert client.predict(picture, model="shapes").label == "circle"


def test_every_file_of_a_published_version_is_in_the_contract(models_dir: Path) -> None:
    version = models_dir / "digits" / "1"
    names = [path.relative_to(version) for path in version.rglob("*") if path.is_file()]
    described = (DOCS / "contract.md").read_text()
    for name in names:
        top = name.as_posix() if name.parts[0] in (name.name, "assets.extra") else f"{name.parts[0]}/"
        assert f"`{top}`" in described, top
