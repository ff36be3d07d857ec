"""A pair drawn: its pictures with their regions, where the model looked, and the ratio against the threshold."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmpo.data.layouts.geometry import Box
from mmpo.data.layouts.token_grid import GridView, TokenMap
from mmpo.data.pair import PreferencePair
from mmpo.data_builders.mia.ratio import unpacked
from mmpo.files.images import load_image

TARGET, OTHER = "#d62728", "#ffffff"


def density(stored: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """[shape] the attention of a stored map over its picture, 1 on average over what is shown."""
    values, views, first = [], [], 0
    for view in stored["views"]:
        rows, columns = view["grid"]
        own = unpacked(view)
        values.append(own)
        views.append(GridView(first + np.arange(rows * columns).reshape(rows, columns), Box(*view["box"])))
        first += len(own)
    places = TokenMap(first, (int(stored["size"][0]), int(stored["size"][1])), tuple(views))
    return places.picture(np.concatenate(values), shape)


def draw(pair: PreferencePair, *, root: Any = None) -> bytes:
    """A PNG of the pair. Works for pairs of every builder; those without attention show their pictures and texts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    source = pair.provenance
    attention = source.get("attention") or {}
    maps: Sequence[Mapping[str, Any]] = attention.get("maps") or ()
    pictures = [load_image(image, root=root if isinstance(image, str) else None) for image in pair.images]
    figure = Figure(figsize=(max(6.0, 3.2 * len(pictures)), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[4, 1])).tolist()
    axes = upper.subplots(1, max(1, len(pictures)), squeeze=False)[0]
    sequence = source.get("layout") == "sequence"
    drawn = [density(one, (picture.height, picture.width)) for one, picture in zip(maps, pictures, strict=False)]
    top = max((float(one.max()) for one in drawn), default=1.0) or 1.0
    for number, (axis, picture) in enumerate(zip(axes, pictures, strict=False)):
        axis.imshow(picture)
        if number < len(drawn):
            axis.imshow(drawn[number], cmap="inferno", alpha=0.55, vmin=0, vmax=top)
        axis.set_xticks([])
        axis.set_yticks([])
        if sequence:
            right = number + 1 == source.get("target")
            axis.set_title(f"Image{number + 1}", color=TARGET if right else "black")
            for edge in axis.spines.values():
                edge.set(color=TARGET if right else "grey", linewidth=3 if right else 1)
        else:
            for place, region in enumerate(source.get("regions") or (), start=1):
                x0, y0, x1, y1 = region
                right = place == source.get("target")
                frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, zorder=3 if right else 2)
                frame.set(edgecolor=TARGET if right else OTHER, linewidth=3 if right else 1.5)
                axis.add_patch(frame)
    _ratio_bar(lower, pair.scores or {})
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def _ratio_bar(figure: Any, scores: Mapping[str, float]) -> None:
    """The ratio as a bar from 0 to 1, with marks at the uniform ratio and at the threshold."""
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[])
    ratio, limit = scores.get("attention_ratio"), scores.get("attention_threshold")
    if ratio is None:
        axis.set_axis_off()
        axis.text(0.5, 0, "no attention was measured for this pair", ha="center", va="center")
        return
    axis.barh([0], [ratio], height=0.4, color="#ff7f0e")
    label = f"attention on the target {ratio:.3f}"
    if (uniform := scores.get("attention_uniform")) is not None:
        axis.axvline(uniform, color="grey", linestyle=":")
        label += f", uniform {uniform:.3f} (dotted)"
    if limit is not None:
        axis.axvline(limit, color=TARGET, linestyle="--")
        label += f", kept below {limit:.3f} (dashed)"
    axis.set_title(label, fontsize=9)


def page(pair: PreferencePair, png: bytes) -> str:
    """One HTML page without anything from outside: the picture, the texts and every number."""
    rows = [("question", pair.prompt_text), ("chosen", pair.chosen_text), ("rejected", pair.rejected_text)]
    source = pair.provenance
    rows += [(name, f"{value:.4g}") for name, value in sorted((pair.scores or {}).items())]
    attention = source.get("attention") or {}
    rows += [
        (name, str(value))
        for name, value in (
            ("layout", source.get("layout")),
            ("pictures", ", ".join(source.get("pictures") or ())),
            ("target", source.get("target")),
            ("layers", attention.get("layers")),
            ("measure", attention.get("measure")),
            ("builder", f"{source.get('builder')} {source.get('version')}"),
        )
        if value not in (None, "")
    ]
    cells = "\n".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(pair.id)}</title>
<style>body{{font-family:sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}}img{{max-width:100%}}
th{{text-align:left;vertical-align:top;padding-right:1rem;white-space:nowrap}}td{{white-space:pre-wrap}}</style></head>
<body><h1>{html.escape(pair.id)}</h1>
<img alt="The pictures of the pair with the model's attention"
 src="data:image/png;base64,{base64.b64encode(png).decode()}">
<table>
{cells}
</table></body></html>
"""
