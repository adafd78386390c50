"""An evaluation as one self-contained HTML file: no script, no network, pictures inside."""

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.evaluate import SETS, Evaluation

_GALLERY = 40
_CELL = 34
_PLOT = 300

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
svg {{ font: 12px system-ui, sans-serif; max-width: 100% }}
figure {{ display: inline-block; margin: .4rem; text-align: center; font-size: 12px }}
figure img {{ width: 84px; image-rendering: pixelated; display: block }}
.figure {{ font-size: 2rem; margin: 0 }}
</style>
<h1>{title}</h1>
{sections}
</html>
"""


def draw_report(name: str, evaluations: Mapping[str, Evaluation], sets: Mapping[str, Dataset]) -> str:
    """Draw the report of a model.

    Args:
        name: of the model.
        evaluations: its answers, by the name of the set of images.
        sets: the images.

    Returns:
        HTML.
    """
    sections = [_section(SETS[key], evaluation, sets[key]) for key, evaluation in evaluations.items()]
    return _PAGE.format(title=f"Evaluation of {escape(name)}", sections="\n".join(sections))


def _section(title: str, evaluation: Evaluation, images: Dataset) -> str:
    summary = evaluation.summary()
    low, high = summary["accuracy_95_percent_interval"]
    return f"""<h2>{summary["images"]:,} {escape(title)}</h2>
<p class="figure">{summary["accuracy"]:.2%}</p>
<p>right answers; with 95 % confidence between {low:.2%} and {high:.2%} (Wilson). Cross-entropy
{summary["cross_entropy"]:.4f}, expected calibration error {evaluation.expected_calibration_error():.2%}.</p>
<h3>By class</h3>
{_class_table(evaluation)}
<h3>Confusion: rows are true, columns are answered</h3>
{_confusion(evaluation)}
<h3>Reliability: how often it is right, by how sure it is</h3>
{_reliability(evaluation)}
<h3>The surest wrong answers</h3>
{_gallery(evaluation, images)}"""


def _class_table(evaluation: Evaluation) -> str:
    def share(value: float | None) -> str:
        return "none" if value is None else f"{value:.2%}"

    rows = "".join(
        f"<tr><th>{escape(each['name'])}<td>{each['images']:,}<td>{share(each['precision'])}<td>{share(each['recall'])}"
        for each in evaluation.per_class()
    )
    return f"<table><tr><th>class<th>images<th>precision<th>recall{rows}</table>"


def _confusion(evaluation: Evaluation) -> str:
    counts = evaluation.confusion()
    strength = np.log1p(counts) / max(np.log1p(counts.max()), 1e-9)
    side = (len(counts) + 1) * _CELL
    cells = []
    for index, name in enumerate(evaluation.names):
        at = (index + 1) * _CELL
        cells.append(f'<text x="{at + _CELL / 2}" y="{_CELL * 0.65}" text-anchor="middle">{escape(name)}</text>')
        cells.append(f'<text x="{_CELL * 0.8}" y="{at + _CELL * 0.65}" text-anchor="end">{escape(name)}</text>')
    for row, column in np.ndindex(*counts.shape):
        hue = 210 if row == column else 10
        shade = 100 - 55 * strength[row, column]
        x, y = (column + 1) * _CELL, (row + 1) * _CELL
        cells.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="hsl({hue} 70% {shade:.0f}%)"/>')
        if counts[row, column]:
            where = f'x="{x + _CELL / 2}" y="{y + _CELL * 0.65}"'
            cells.append(f'<text {where} text-anchor="middle">{counts[row, column]}</text>')
    return f'<svg width="{side}" height="{side}" viewBox="0 0 {side} {side}">{"".join(cells)}</svg>'


def _reliability(evaluation: Evaluation) -> str:
    bins = evaluation.calibration()
    most = max(each["images"] for each in bins)
    marks = []
    for each in bins:
        x, y = each["confidence"] * _PLOT, (1 - each["accuracy"]) * _PLOT
        radius = 3 + 9 * (each["images"] / most) ** 0.5
        about = f"{each['images']:,} answers, {each['confidence']:.1%} sure, {each['accuracy']:.1%} right"
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#36c"><title>{about}</title></circle>')
    return f"""<svg width="{_PLOT + 60}" height="{_PLOT + 50}" viewBox="-40 -15 {_PLOT + 60} {_PLOT + 50}">
<rect width="{_PLOT}" height="{_PLOT}" fill="none" stroke="#999"/>
<line x1="0" y1="{_PLOT}" x2="{_PLOT}" y2="0" stroke="#999" stroke-dasharray="4"/>
<text x="{_PLOT / 2}" y="{_PLOT + 25}" text-anchor="middle">how sure, 0 to 100 %</text>
<text transform="translate(-12 {_PLOT / 2}) rotate(-90)" text-anchor="middle">how often right, 0 to 100 %</text>
{"".join(marks)}</svg>"""


def _gallery(evaluation: Evaluation, images: Dataset) -> str:
    figures = []
    for index in evaluation.worst(_GALLERY):
        truth, answer = evaluation.names[evaluation.labels[index]], evaluation.names[evaluation.predictions[index]]
        sure = evaluation.probabilities[index].max()
        picture = _as_data_url(images.images[index, ..., 0])
        caption = f"{escape(answer)}, {sure:.0%} sure;<br>it is {escape(truth)}"
        figures.append(f'<figure><img alt="" src="{picture}"><figcaption>{caption}</figcaption></figure>')
    return "".join(figures) or "<p>There are none.</p>"


def _as_data_url(pixels: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
