"""The `glyph-train` command."""

import argparse
import contextlib
import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from glyph_trainer.errors import ModelError, TrainerError

if TYPE_CHECKING:
    from glyph_trainer.pipeline import Images
    from glyph_trainer.trained import TrainedModel

# TensorFlow takes seconds to import: commands import what needs it when they run.

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the program's name; by default those of this process.

    Returns:
        the exit status: 0, 1 after a failure, 2 if the command line is wrong, 130 after an interruption.
    """
    options = _parser().parse_args(arguments)
    _prepare_tensorflow()
    signal.signal(signal.SIGTERM, _interrupt)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except TrainerError as error:
        print(f"glyph-train: error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"glyph-train: error: {_explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("glyph-train: interrupted; nothing is left half-written", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _dataset(options: argparse.Namespace) -> None:
    from glyph_trainer.data.digits import build_digit_folder

    built = build_digit_folder(options.data_dir, options.mnist_dir, options.images)
    print(f"{options.data_dir}: {options.images:,} images{'' if built else ', there already'}")


def _validate(options: argparse.Namespace) -> None:
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        images = _load_images(options, options.seed)
    if options.json:
        print(json.dumps(images.validation.as_json(), indent=2))


def _fit(options: argparse.Namespace) -> None:
    from glyph_trainer.trained import save_trained

    save_trained(_train(options), options.output)
    print(f"Saved {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    from glyph_trainer.pipeline import describe, measure
    from glyph_trainer.trained import load_trained

    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        trained = load_trained(options.model)
        images = _load_images(options, trained.record.seed)
        metrics = measure(trained.model, images)
    print(json.dumps(metrics, indent=2) if options.json else describe(metrics))


def _publish(options: argparse.Namespace) -> None:
    from glyph_trainer.publish import publish
    from glyph_trainer.trained import load_trained

    version = publish(load_trained(options.model), options.models_dir, options.model_name)
    print(f"Published {version}")


def _run(options: argparse.Namespace) -> None:
    from glyph_trainer.versions import check_writable, published_versions

    base = options.models_dir / options.model_name
    versions = published_versions(base)
    if options.unless_published and versions:
        print(f"{options.model_name} has version {max(versions)}: nothing to do")
        return
    check_writable(base)
    from glyph_trainer.publish import publish

    version = publish(_train(options), options.models_dir, options.model_name)
    print(f"Published {version}")


def _versions(options: argparse.Namespace) -> None:
    from glyph_trainer.versions import describe_version, published_versions

    base = options.models_dir / options.model_name
    versions = published_versions(base)
    if not versions:
        raise ModelError(f"{base} has no published version. 'glyph-train run' makes one")
    print("version  published                  recipe    accuracy")
    for directory in versions.values():
        version = describe_version(directory)
        accuracy = ", ".join(
            f"{summary['accuracy']:.2%} {name.replace('_', ' ')}" for name, summary in version.metrics.items()
        )
        print(f"{version.number:>7}  {version.manifest['created']:<25}  {version.manifest['recipe']:<8}  {accuracy}")


def _samples(options: argparse.Namespace) -> None:
    from glyph_trainer.data.samples import write_samples

    for path in write_samples(options.samples_dir, options.mnist_dir, options.count, options.seed):
        print(path)


def _recipes(_: argparse.Namespace) -> None:
    from glyph_trainer.recipes import RECIPES

    for recipe in RECIPES.values():
        print(f"{recipe.name:<12}{recipe.summary}")


def _train(options: argparse.Namespace) -> "TrainedModel":
    from glyph_trainer.pipeline import describe, train
    from glyph_trainer.recipes import find_recipe

    recipe = find_recipe(options.recipe)
    chosen = {"epochs": options.epochs, "batch_size": options.batch_size}
    settings = dataclasses.replace(recipe.settings, **{key: value for key, value in chosen.items() if value})
    images = _load_images(options, options.seed, settings.batch_size)
    trained = train(recipe, settings, images, options.seed)
    print(describe(trained.record.metrics))
    return trained


def _load_images(options: argparse.Namespace, seed: int, least: int = 1) -> "Images":
    from glyph_trainer.pipeline import load_images

    return load_images(options.data_dir, options.mnist_dir, options.images, seed, options.skip_bad, least)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glyph-train", description="From a folder of images to a published model.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        added.set_defaults(command=command)
        return added

    dataset = add("dataset", _dataset, "write MNIST digits as a folder of files label.index.jpg")
    _add_digit_options(dataset)
    validate = add("validate", _validate, "look through images without training")
    validate.add_argument("--json", action="store_true", help="print JSON")
    _add_source_options(validate)
    _add_seed_option(validate)
    fit = add("fit", _fit, "train a model and save it, without publishing")
    _add_training_options(fit)
    fit.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make for the trained model")
    evaluate = add("evaluate", _evaluate, "evaluate a trained model on the images that it has not seen")
    evaluate.add_argument("--model", type=Path, required=True, metavar="DIR", help="what 'fit' has saved")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_source_options(evaluate)
    publish = add("publish", _publish, "publish a trained model as the next version")
    publish.add_argument("--model", type=Path, required=True, metavar="DIR", help="what 'fit' has saved")
    _add_models_options(publish)
    run = add("run", _run, "do it all: build the images if need be, train, evaluate, publish")
    _add_training_options(run)
    _add_models_options(run)
    run.add_argument("--unless-published", action="store_true", help="do nothing if the model has a version already")
    _add_models_options(add("versions", _versions, "list the published versions"))
    samples = add("samples", _samples, "write official test images as label.index.png")
    samples.add_argument("--samples-dir", type=Path, required=True, metavar="DIR", help="folder to write into")
    samples.add_argument("--count", type=_positive, default=12, metavar="N", help="how many (default: %(default)s)")
    samples.add_argument("--seed", type=_natural, default=1, metavar="N", help="which ones (default: %(default)s)")
    _add_mnist_option(samples)
    add("recipes", _recipes, "list the recipes")
    return parser


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    _add_source_options(parser)
    parser.add_argument("--recipe", default="deck", metavar="NAME", help="what to train (default: %(default)s)")
    _add_seed_option(parser)
    parser.add_argument("--epochs", type=_positive, metavar="N", help="instead of the recipe's own number")
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="instead of the recipe's own")


def _add_seed_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_natural, default=1, metavar="N", help="of weights, split and order (default: %(default)s)"
    )


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    _add_digit_options(parser)
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used")


def _add_digit_options(parser: argparse.ArgumentParser) -> None:
    from glyph_trainer.data.digits import DECK_IMAGES

    parser.add_argument(
        "--data-dir",
        type=Path,
        required=True,
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


def _add_models_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models-dir", type=Path, required=True, metavar="DIR", help="folder of all models")
    parser.add_argument("--model-name", default="digits", metavar="NAME", help="on the server (default: %(default)s)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _prepare_tensorflow() -> None:
    """Make TensorFlow quiet and quick, unless the user has decided otherwise.

    Its messages about itself stay off the terminal. Where there is no NVIDIA driver even its errors are off: they would
    only say so, on every start; what goes wrong in a command is raised as an exception. oneDNN, which trains the
    deck's network more than twice as fast, is on by default only on processors with AVX-512.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if Path("/proc/driver/nvidia").exists() else "3")


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _explain(error: OSError) -> str:
    place = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{place} cannot be written: {error.strerror}. Free some space and try again; nothing was published"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}: {error.strerror} for user {os.getuid()}. Give this user access, or choose another folder"
    return f"{place}: {error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
