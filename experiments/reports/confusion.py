"""A confusion matrix as a picture and as a table."""

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from lcn_jax.trained.scores import Scores

MOST_NAMES = 40  # classes beyond which names would overlap


def as_csv(scores: Scores) -> str:
    """A line for each class: images that were taken for each class, and the fraction recognised."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator='\n')
    lines.writerow(['class', *scores.class_names, 'accuracy'])
    for counts, (name, accuracy) in zip(scores.confusion.tolist(), scores.per_class.items()):
        lines.writerow([name, *counts, f'{accuracy:.4f}'])
    return text.getvalue()


def draw(scores: Scores, title: str) -> Figure:
    """Rows are true classes, columns the classes they were taken for, as fractions of the row."""
    names, counts = scores.class_names, scores.confusion
    size = 3.5 + 0.28 * min(len(names), MOST_NAMES)
    figure = Figure(figsize=(size + 1, size), layout='constrained')
    axes = figure.subplots()
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label='fraction of the images of a class')
    axes.set(xlabel='taken for', ylabel='class', title=title)
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    return figure
