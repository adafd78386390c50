"""The `glyph-train` command."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from glyph_trainer import commands
from glyph_trainer.errors import TrainerError
from glyph_trainer.interruptions import INTERRUPTIONS
from glyph_trainer.staging import free_space

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the program's name; by default those of this process.

    Returns:
        the exit status: 0, 1 after a failure, 2 if the command line is wrong or files among the images cannot be used,
        130 after an interruption.
    """
    options = _parser().parse_args(arguments)
    _prepare_tensorflow()
    interruptions: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        interruptions.append(number)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in INTERRUPTIONS:
        signal.signal(number, interrupt)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except TrainerError as error:
        print(f"glyph-train: error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"glyph-train: error: {_explain(error)}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Exception) as error:
        # An interruption within TensorFlow's own code comes out of it as another error.
        if not interruptions and not isinstance(error, KeyboardInterrupt):
            raise
        print("glyph-train: interrupted; nothing is left half-written", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glyph-train", description="From a folder of images to a published model.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        added.set_defaults(command=command)
        return added

    dataset = add("dataset", commands.dataset, "write MNIST digits as a folder of files label.index.jpg")
    _add_digit_options(dataset)
    validate = add("validate", commands.validate, "look through images without training")
    validate.add_argument("--json", action="store_true", help="print JSON")
    _add_source_options(validate)
    _add_seed_option(validate)
    fit = add("fit", commands.fit, "train a model and save it, without publishing")
    _add_training_options(fit)
    fit.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make for the trained model")
    evaluate = add("evaluate", commands.evaluate, "evaluate a model on images that it has not seen")
    evaluate.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="what 'fit' has saved, or a published version"
    )
    evaluate.add_argument("--json", action="store_true", help="print everything as JSON")
    evaluate.add_argument("--html", type=Path, metavar="FILE", help="draw a report, with the worst mistakes")
    _add_source_options(evaluate)
    publish = add("publish", commands.publish, "publish a trained model as the next version")
    publish.add_argument("--model", type=Path, required=True, metavar="DIR", help="what 'fit' has saved")
    _add_publishing_options(publish)
    run = add("run", commands.run, "do it all: build the images if need be, train, evaluate, publish")
    _add_training_options(run)
    _add_publishing_options(run)
    run.set_defaults(model_name=None)  # it depends on the recipe
    run.add_argument("--unless-published", action="store_true", help="do nothing if the model has a version already")
    _add_models_options(add("versions", commands.versions, "list the published versions"))
    promote = add("promote", commands.promote, "point a label of the server's models.config to a version")
    promote.add_argument("version", type=_positive, metavar="VERSION", help="a published version")
    promote.add_argument("--label", choices=("stable", "canary"), default="stable", help="(default: %(default)s)")
    _add_models_options(promote, config_required=True)
    rollback = add("rollback", commands.rollback, "drop the canary, or else return to the stable version before")
    _add_models_options(rollback, config_required=True)
    prune = add("prune", commands.prune, "delete old versions, but none that has a label, nor any of others")
    prune.add_argument("--keep", type=_positive, required=True, metavar="N", help="how many of the newest stay")
    _add_models_options(prune)
    samples = add("samples", commands.samples, "write official test images as label.index.png")
    samples.add_argument("--samples-dir", type=Path, required=True, metavar="DIR", help="folder to write into")
    samples.add_argument("--count", type=_positive, default=12, metavar="N", help="how many (default: %(default)s)")
    samples.add_argument("--seed", type=_seed, default=1, metavar="N", help="which ones (default: %(default)s)")
    _add_mnist_option(samples)
    add("recipes", commands.recipes, "list the recipes")
    return parser


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    _add_source_options(parser, required=False)  # not every recipe trains with pictures
    parser.add_argument("--recipe", default="deck", metavar="NAME", help="what to train (default: %(default)s)")
    variants = parser.add_mutually_exclusive_group()
    variants.set_defaults(variant="")
    variants.add_argument(
        "--fast", dest="variant", action="store_const", const="-fast", help="as quickly as it gets (recipe deck)"
    )
    variants.add_argument(
        "--polish", dest="variant", action="store_const", const="-polish", help="as accurate as it gets (recipe deck)"
    )
    _add_seed_option(parser)
    parser.add_argument("--epochs", type=_positive, metavar="N", help="instead of the recipe's own number")
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="instead of the recipe's own")
    parser.add_argument(
        "--patience", type=_positive, metavar="N", help="stop after N epochs without progress on images set aside"
    )
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="keep checkpoints, metrics.jsonl and TensorBoard events here"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --run-dir, if there is one")


def _add_seed_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_seed, default=1, metavar="N", help="of weights, split and order (default: %(default)s)"
    )


def _add_source_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    _add_digit_options(parser, required)
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used")


def _add_digit_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    from glyph_trainer.data.digits import DECK_IMAGES

    parser.add_argument(
        "--data-dir",
        type=Path,
        required=required,
        metavar="DIR",
        help="folder of images; if missing, it is made of digits",
    )
    parser.add_argument(
        "--images",
        type=_positive,
        default=DECK_IMAGES,
        metavar="N",
        help="how many digits to build a missing folder of (default: %(default)s)",
    )
    _add_mnist_option(parser)


def _add_mnist_option(parser: argparse.ArgumentParser) -> None:
    from glyph_trainer.data.mnist import DEFAULT_DIRECTORY

    parser.add_argument(
        "--mnist-dir", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="folder of the four MNIST files"
    )


def _add_publishing_options(parser: argparse.ArgumentParser) -> None:
    from glyph_trainer.gates import Limits

    _add_models_options(parser)
    parser.add_argument(
        "--min-accuracy",
        type=_share,
        default=Limits.accuracy,
        metavar="P",
        help="least share of right answers, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=_share,
        default=Limits.tolerance,
        metavar="P",
        help="how much less accurate than the stable (or else newest) version it may be (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="publish the model even if it fails what is demanded")


def _add_models_options(parser: argparse.ArgumentParser, config_required: bool = False) -> None:
    parser.add_argument(
        "--config", type=Path, required=config_required, metavar="FILE", help="the server's models.config, with labels"
    )
    parser.add_argument("--models-dir", type=Path, required=True, metavar="DIR", help="folder of all models")
    parser.add_argument(
        "--model-name",
        type=_model_name,
        default=commands.DEFAULT_MODEL_NAME,
        metavar="NAME",
        help=f"of the model (default: {commands.DEFAULT_MODEL_NAME}; 'run' gives recipes with data of their own the "
        "recipe's name)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return share


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _seed(text: str) -> int:
    seed = _natural(text)
    if seed >= 2**32:  # NumPy's generators take no more
        raise argparse.ArgumentTypeError(f"{text!r} is too large: seeds are below 4,294,967,296")
    return seed


def _model_name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a folder")
    return text


def _prepare_tensorflow() -> None:
    """Make TensorFlow quiet and quick, unless the user has decided otherwise.

    Its messages about itself stay off the terminal. Where there is no NVIDIA driver even its errors are off: they would
    only say so, on every start; what goes wrong in a command is raised as an exception. oneDNN, which trains the
    deck's network more than twice as fast, is on by default only on processors with AVX-512.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if Path("/proc/driver/nvidia").exists() else "3")


def _explain(error: OSError) -> str:
    place = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = f" ({free_space(Path(place))})" if error.filename else ""
        return (
            f"{place} cannot be written: {error.strerror}{free}. Free some space and try again; what was there is kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}: {error.strerror} for user {os.getuid()}. Give this user access, or choose another folder"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{place}: {error.strerror}, where a folder should be. Choose another name"
    return f"{place}: {error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
