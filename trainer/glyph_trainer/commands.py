"""What each command does. TensorFlow takes seconds to import: each command imports what needs it when it runs."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyph_trainer.errors import ModelError, PublishError, TrainerError

if TYPE_CHECKING:
    from glyph_trainer.pipeline import Images
    from glyph_trainer.release import Release
    from glyph_trainer.trained import TrainedModel

DEFAULT_MODEL_NAME = "digits"


def dataset(options: argparse.Namespace) -> None:
    """Write the folder of digits."""
    from glyph_trainer.data.digits import build_digit_folder

    built = build_digit_folder(options.data_dir, options.mnist_dir, options.images)
    print(f"{options.data_dir}: {options.images:,} images{'' if built else ', there already'}")


def validate(options: argparse.Namespace) -> None:
    """Look through images without training."""
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        images = _load_images(options, options.seed)
    if options.json:
        print(json.dumps(images.validation.as_json(), indent=2))


def fit(options: argparse.Namespace) -> None:
    """Train a model and save it."""
    from glyph_trainer.trained import check_free, save_trained

    check_free(options.output)
    save_trained(_train(options), options.output)
    print(f"Saved {options.output}")


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a model."""
    from glyph_trainer.evaluate import GIVEN
    from glyph_trainer.evaluate import evaluate as ask
    from glyph_trainer.pipeline import describe, images_to_ask
    from glyph_trainer.report import draw_report
    from glyph_trainer.staging import write_atomically
    from glyph_trainer.subject import load_subject

    if options.html:
        options.html.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        subject = load_subject(options.model)
        images = _load_images(options, subject.seed, least=0, share=subject.training_share)
        sets = images_to_ask(images, subject)
        if GIVEN in sets:
            print(
                f"glyph-train: warning: {options.data_dir} does not hold the images that {subject.name} was trained "
                f"with (fingerprint {images.fingerprint[:12]}, then {subject.data_fingerprint[:12]}): all of them are "
                f"asked about. If it has only changed since, most are training images, and the accuracy says little",
                file=sys.stderr,
            )
        evaluations = {name: ask(subject.predictor, images) for name, images in sets.items()}
        if options.html:
            write_atomically(options.html, draw_report(subject.name, evaluations, sets).encode())
            print(f"Wrote {options.html}")
    if options.json:
        print(json.dumps({name: evaluation.as_json() for name, evaluation in evaluations.items()}, indent=2))
    else:
        print(describe({name: evaluation.summary() for name, evaluation in evaluations.items()}))


def publish(options: argparse.Namespace) -> None:
    """Publish a saved model."""
    from glyph_trainer.trained import load_trained

    _publish_trained(options, load_trained(options.model))


def run(options: argparse.Namespace) -> None:
    """Do it all."""
    from glyph_trainer.recipes import Example, find_recipe
    from glyph_trainer.versions import check_writable, published_versions

    recipe = find_recipe(options.recipe + options.variant)
    if options.model_name is None:
        options.model_name = recipe.name if isinstance(recipe, Example) else DEFAULT_MODEL_NAME
    versions = published_versions(options.models_dir / options.model_name)
    if options.unless_published and versions:
        print(f"{options.model_name} has version {max(versions)}: nothing to do")
        return
    check_writable(options.models_dir / options.model_name)
    _stable_version(options)  # a mistake in --config is told before the training
    if isinstance(recipe, Example):
        from glyph_trainer.publish import publish_example

        version = publish_example(recipe, recipe.run(print), options.models_dir, options.model_name)
        print(f"Published {version}")
    else:
        _publish_trained(options, _train(options))


def _publish_trained(options: argparse.Namespace, trained: "TrainedModel") -> None:
    from glyph_trainer.gates import Limits
    from glyph_trainer.publish import publish

    limits = Limits(accuracy=options.min_accuracy, tolerance=options.tolerance)
    stable = _stable_version(options)
    publication = publish(trained, options.models_dir, options.model_name, limits, stable, options.force)
    for gate in publication.gates:
        print(gate)
    if not publication.version:
        raise PublishError("the model is not published: see above what it failed. --force publishes it all the same")
    print(f"Published {publication.version}")


def _stable_version(options: argparse.Namespace) -> Path | None:
    """Find the version that a new one is compared with: the one labelled stable, or else the newest of our own."""
    from glyph_trainer.versions import describe_version, published_versions

    base = options.models_dir / options.model_name
    versions = published_versions(base)
    labelled = _release(options).labels().get("stable") if options.config else None
    if labelled and labelled not in versions:
        raise PublishError(
            f"{options.config} calls version {labelled} stable, which is not in {base}: a new one cannot be compared "
            "with it. Promote a version that is there"
        )
    ours = [path for path in versions.values() if describe_version(path).manifest]  # others may be of any kind
    return versions[labelled] if labelled else (ours[-1] if ours else None)


def _release(options: argparse.Namespace) -> "Release":
    from glyph_trainer.release import Release

    return Release(options.config, options.model_name, options.models_dir / options.model_name)


def promote(options: argparse.Namespace) -> None:
    """Point a label to a version."""
    release = _release(options)
    before, can_follow = release.labels().get(options.label), release.can_follow(options.version, options.label)
    release.promote(options.version, options.label)
    print(f"{options.label} is version {options.version}")
    if not can_follow:
        remedy = {
            "stable": f"Roll back to {before}, promote {options.version} to canary, and to stable when it is loaded",
            "canary": "Drop it with 'glyph-train rollback', and promote it again when the server has read that",
        }
        print(
            f"glyph-train: warning: a server that runs refuses {options.config} now: it moves a label only to "
            f"a version that it has loaded, and {options.version} was not to be. {remedy[options.label]}",
            file=sys.stderr,
        )


def rollback(options: argparse.Namespace) -> None:
    """Take back the last promotion."""
    label, version = _release(options).rollback()
    print(f"{label} is version {version}" if version else f"there is no {label} any longer")


def prune(options: argparse.Namespace) -> None:
    """Delete old versions."""
    from glyph_trainer.promotions import read_steps
    from glyph_trainer.staging import locked
    from glyph_trainer.versions import prune

    base = options.models_dir / options.model_name
    if not options.config and read_steps(base):
        raise PublishError(f"versions of {base} have had labels. Name the server's models.config with --config")
    pruned: list[int] = []
    refused: dict[int, str] = {}
    if base.is_dir():
        with locked(base):  # what is not in use now could be promoted meanwhile
            in_use = _release(options).versions_in_use() if options.config else ()
            pruned, refused = prune(base, options.keep, in_use)
    if pruned or not refused:
        print(f"Deleted {', '.join(map(str, pruned))}" if pruned else "Nothing to delete")
    if refused:
        listed = "".join(f"\n  {number}: {reason}" for number, reason in refused.items())
        raise PublishError(
            f"{len(refused):,} version{'s' * (len(refused) > 1)} of {base} cannot be deleted by user {os.getuid()} and "
            f"stayed as they were. Have their owners do it, or give this user access:{listed}"
        )


def versions(options: argparse.Namespace) -> None:
    """List the published versions."""
    from glyph_trainer.versions import describe_version, published_versions

    base = options.models_dir / options.model_name
    versions = published_versions(base)
    if not versions:
        raise ModelError(f"{base} has no published version. 'glyph-train run' makes one")
    labels = _release(options).labels() if options.config else {}
    print("version  label   published                  age     recipe       accuracy")
    for directory in versions.values():
        version = describe_version(directory)
        accuracy = ", ".join(f"{share:.2%} {name.replace('_', ' ')}" for name, share in version.accuracies.items())
        label = ",".join(label for label, number in labels.items() if number == version.number)
        created = version.created.isoformat(timespec="seconds") if version.created else "-"
        recipe = str(version.manifest.get("recipe", "-"))
        print(
            f"{version.number:>7}  {label:<6}  {created:<25}  {version.age or '-':<6}  {recipe:<11}  {accuracy or '-'}"
        )


def samples(options: argparse.Namespace) -> None:
    """Write test images as pictures."""
    from glyph_trainer.data.samples import write_samples

    for path in write_samples(options.samples_dir, options.mnist_dir, options.count, options.seed):
        print(path)


def recipes(_: argparse.Namespace) -> None:
    """List the recipes."""
    from glyph_trainer.recipes import RECIPES

    for recipe in RECIPES.values():
        print(f"{recipe.name:<12}{recipe.summary}")


def _train(options: argparse.Namespace) -> "TrainedModel":
    from glyph_trainer.pipeline import describe, train
    from glyph_trainer.recipes import Example, find_recipe

    recipe = find_recipe(options.recipe + options.variant)
    if isinstance(recipe, Example):
        raise TrainerError(f"the recipe {recipe.name!r} trains no classifier of pictures. Use 'glyph-train run'")
    chosen = {"epochs": options.epochs, "batch_size": options.batch_size, "patience": options.patience}
    settings = dataclasses.replace(recipe.settings, **{key: value for key, value in chosen.items() if value})
    images = _load_images(options, options.seed, least=settings.least_images, share=settings.training_share)
    trained = train(recipe, settings, images, options.seed, options.run_dir, options.resume)
    print(describe(trained.record.metrics))
    return trained


def _load_images(options: argparse.Namespace, seed: int, **demands: Any) -> "Images":
    from glyph_trainer.pipeline import load_images

    if not options.data_dir:
        raise TrainerError("name the folder of images with --data-dir")
    return load_images(options.data_dir, options.mnist_dir, options.images, seed, options.skip_bad, **demands)
