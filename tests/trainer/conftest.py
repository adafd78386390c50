"""What the trainer's tests share: the command, a small folder of digits, a small trained model."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import made_once

PROCESSES = multiprocessing.get_context("forkserver")
"""Processes that begin with TensorFlow imported."""
PROCESSES.set_forkserver_preload(["glyph_trainer.publish"])

COMMAND = Path(sysconfig.get_path("scripts")) / "glyph-train"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def limit_files_to(size: int) -> Callable[[], None]:
    """What a child process does first so that the kernel refuses it files beyond a size, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def give_up_root() -> None:
    """What a child process does first so that permissions bind it even if it is root's."""
    if os.getuid() == 0:
        drop_capability, override_permissions = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        assert ctypes.CDLL(None).prctl(drop_capability, override_permissions, 0, 0, 0) == 0


@pytest.fixture(scope="session")
def glyph_train() -> Run:
    """`glyph_train("versions", "--models-dir", folder)` runs the command to its end."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def small_folder(glyph_train: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 1,400 training digits as label.index.jpg."""
    folder = tmp_path_factory.mktemp("small") / "digits"
    done = glyph_train("dataset", "--data-dir", folder, "--images", 1400)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def trained_folder(glyph_train: Run, small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `glyph-train fit` saves after two epochs on the small folder."""
    with made_once(tmp_path_factory, "trained") as (folder, missing):
        if missing:
            done = glyph_train("fit", "--data-dir", small_folder, "--epochs", 2, "--seed", 7, "--output", folder)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def weights() -> Callable[[object], list[np.ndarray]]:
    """`weights(model)`: copies of a Keras model's weights."""
    return lambda model: [np.copy(weight) for weight in model.get_weights()]  # type: ignore[attr-defined]
