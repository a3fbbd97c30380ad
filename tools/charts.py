"""Draw the figures and pages of report.py, compare.py, photo.py and precision.py. Imported only.

A page is UTF-8 HTML with inline SVG and JPEG: no script, and nothing is fetched.
"""
import base64
import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

from _root import ROOT

import summary
from common.cli import printable
from common.files import write
from common.runs import pixels
from common.stats import wilson

import numpy as np

PHOTO_SIDE = 224  # pixels of a picture in the page
PHOTOS = 24  # in the grid of a page
LONGEST = 12  # rows of a table of classes, pairs or images
BINS = 15  # of the calibration curve (C. Guo et al., arXiv 1706.04599)
# Colors that matplotlib writes, and the page's own that replace them, which differ in the dark
COLORS = {"#010101": "ink", "#020202": "faint", "#030303": "first", "#040404": "second", "#050505": "third",
          "#060606": "fourth"}
INK, FAINT, FIRST, SECOND, THIRD, FOURTH = COLORS
STAGES = dict(zip(summary.STAGES, (FOURTH, THIRD, FIRST, FAINT)))


# --- pages ----------------------------------------------------------------------------------------------------------

def write_page(template: str, path: Path, **values) -> int:
    """Fill a template of templates/ and write it; text from a user's file is escaped. Returns its size in bytes.

    Raises ValueError if the values lack something that the page shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(ROOT / "tools/templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=lambda value: value if isinstance(value, Markup) or
        not isinstance(value, str) else printable(value))
    try:
        data = environment.get_template(template).render(**values).encode()
    except UndefinedError as error:
        raise ValueError(str(error)) from error
    write(path, data)
    return len(data)


def picture(folders: list, recipe: dict, image: str) -> str:
    """Return an image's tensor as a small JPEG for the page: a data URI, "" if no folder has it."""
    from PIL import Image

    found = pixels(folders, recipe, image)
    if found is None:
        return ""
    file = io.BytesIO()
    Image.fromarray(found).resize((PHOTO_SIDE, PHOTO_SIDE)).save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def answer(names: list, top, chances) -> list:
    """Return [{id, name, chance}] of one image's likeliest classes, for the page."""
    return [{"id": int(k), "name": names[k], "chance": float(p)} for k, p in zip(top, chances)]


# --- figures --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def fonts_elsewhere():
    """While in this block, matplotlib keeps its list of fonts in a temporary folder, not in the home directory."""
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        yield


def plot(draw, label: str, width=5.4, height=3.2):
    """Call draw(axes) on a new figure of width x height inches; return inline SVG in the page's own colors."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    if "text.parse_math" not in matplotlib.rcParams:  # without it, $ in a name would start a formula
        raise ImportError(f"matplotlib {matplotlib.__version__} is older than 3.6")
    style = {"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10, "text.parse_math": False,
             "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.labelcolor": INK,
             "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlesize": 10, "grid.color": FAINT,
             "legend.frameon": False, "legend.fontsize": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg"):]
    for color, name in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
                  lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{escape(label)}">', text, count=1)
    salt = re.sub(r"\W+", "_", label)  # ids are the page's, which has several figures
    return Markup(re.sub(r'\b(?:id="|url\(#|href="#)', lambda found: f"{found[0]}{salt}_", text))


def draw_accuracy(run_: SimpleNamespace, published: dict):
    """Draw top-1 to top-5 with their intervals, and published top-1 and top-5."""
    def draw(axes):
        series = [("this run", dict(enumerate((100 * n / run_.total for n in run_.counts), 1)), FIRST)]
        series += [(name, {1: top1, 5: top5}, color)
                   for (name, (top1, top5)), color in zip(published.items(), (SECOND, THIRD, FOURTH))]
        width = 0.8 / len(series)
        for place, (name, values, color) in enumerate(series):
            x = [k + (place - (len(series) - 1) / 2) * width * (len(series) > 1) for k in values]
            axes.bar(x, list(values.values()), width * 0.92, label=name, color=color)
            tops = list(values.values())
            if place == 0:
                limits = np.array([wilson(n, run_.total) for n in run_.counts]).T
                tops = limits[1].tolist()
                axes.errorbar(x, list(values.values()), np.abs(limits - list(values.values())), fmt="none", ecolor=INK,
                              elinewidth=1, capsize=2)
            for left, value, top in zip(x, values.values(), tops):
                axes.text(left, top + 2, f"{value:.2f}", rotation=90 if len(series) > 1 else 0, fontsize=8,
                          ha="center", va="bottom")
        axes.set_xticks(range(1, len(run_.counts) + 1), [f"top-{k}" for k in range(1, len(run_.counts) + 1)])
        axes.set_ylim(0, 125 if len(series) > 1 else 112)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("images, %")
        if len(series) > 1:
            axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return plot(draw, "Accuracy, top-1 to top-5", width=7.2, height=3.6)


def draw_rates(rows: list):
    """Draw images/s by batch size, of the model's execution alone and end to end."""
    def draw(axes):
        x = np.arange(len(rows))
        for place, (name, key, color) in enumerate([("Interface", "interface", FIRST), ("e2e", "e2e", SECOND)]):
            bars = axes.bar(x + (place - 0.5) * 0.4, [row[key] or 0 for row in rows], 0.37, label=name, color=color)
            axes.bar_label(bars, [f"{row[key]:.4g}" if row[key] else "" for row in rows], padding=2, fontsize=8)
        axes.set_xticks(x, [f"{row['batch_size']}" for row in rows])
        axes.set(xlabel="batch size", ylabel="images/s")
        axes.margins(y=0.15)
        axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return plot(draw, "Throughput by batch size", height=height_of(rows))


def draw_stages(rows: list):
    """Draw ms per image of each stage by batch size; return None if no stage was timed."""
    stages = [stage for stage in STAGES if any(stage in row["stages"] for row in rows)]

    def draw(axes):
        y, width = np.arange(len(rows)), 0.8 / len(stages)
        for place, stage in enumerate(stages):
            values = [row["stages"].get(stage, 0) for row in rows]
            bars = axes.barh(y + (place - (len(stages) - 1) / 2) * width, values, width * 0.9, label=stage,
                             color=STAGES[stage])
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=8)
        axes.set_yticks(y, [f"{row['batch_size']}" for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel="ms per image", ylabel="batch size")
        axes.margins(x=0.18)
        axes.legend(ncols=len(stages), loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)
    return plot(draw, "Time of each stage by batch size", height=height_of(rows)) if stages else None


def height_of(rows: list) -> float:
    """Return the height in inches of a plot with four bars per row."""
    return max(3.2, 1.2 + 0.62 * len(rows))


def calibration(run_: SimpleNamespace) -> tuple:
    """Return (confidence, accuracy, counts, error) over BINS equal bins of the likeliest class's probability.

    confidence (mean) and accuracy: float (BINS,), NaN where a bin is empty; counts: int (BINS,); error: the expected
    calibration error in percent (C. Guo et al., arXiv 1706.04599, equation 3).
    """
    top1, right = run_.chances[:, 0], run_.ranks == 1
    place = np.minimum((top1 * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, top1, BINS) / counts
        accuracy = np.bincount(place, right, BINS) / counts
    error = np.nansum(counts * np.abs(accuracy - confidence)) / run_.total
    return confidence, accuracy, counts, 100 * float(error)


def draw_calibration(run_: SimpleNamespace):
    """Draw accuracy by confidence, with 95 % intervals."""
    def draw(axes):
        confidence, accuracy, counts, _ = calibration(run_)
        full = counts > 0
        limits = np.array([wilson(round(share * count), int(count)) for share, count in
                           zip(accuracy[full], counts[full])])
        axes.plot([0, 100], [0, 100], color=FAINT, linestyle="--", linewidth=1)
        axes.errorbar(100 * confidence[full], 100 * accuracy[full], np.abs(limits.T - 100 * accuracy[full]), fmt="o-",
                      markersize=4, color=FIRST, ecolor=FIRST, elinewidth=0.8, capsize=2)
        axes.set(xlim=(0, 100), ylim=(0, 103), xlabel="confidence, %", ylabel="accuracy, %")
    return plot(draw, "Calibration curve")


def draw_confidence(run_: SimpleNamespace):
    """Draw a histogram of the confidence of correct and of wrong answers."""
    def draw(axes):
        groups = [100 * run_.chances[run_.ranks == 1, 0], 100 * run_.chances[run_.ranks > 1, 0]]
        axes.hist(groups, np.linspace(0, 100, 21), stacked=True, color=[FIRST, SECOND], label=["correct", "wrong"])
        axes.set(xlim=(0, 100), xlabel="confidence, %", ylabel="images")
        axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return plot(draw, "Confidence histogram")


def draw_histogram(values, label: str, logarithmic=False):
    """Draw a histogram of one value per image."""
    def draw(axes):
        shown = np.maximum(values, np.min(values[values > 0], initial=1.0)) if logarithmic else values
        low, high = float(shown.min()), float(shown.max())
        if logarithmic and low < high:
            edges = np.geomspace(low, high, 41)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        else:
            edges = np.linspace(low, high, 41) if low < high else 3
        axes.hist(shown, edges, color=FIRST)
        axes.set_xlabel(label)
        axes.set_ylabel("images")
    return plot(draw, label, width=4.6, height=2.6)
