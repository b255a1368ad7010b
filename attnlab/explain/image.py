"""Explains an image classifier's decision: relevance of pixels, and the areas it attends to.

Two steps, as in Li et al. (arXiv 1712.08268): layer-wise relevance propagation of the largest
logit, and context-aware saliency of that relevance map (the exhibit `salient_relevance`). Saliency
of the image itself stands beside it: what a person would look at, whatever the network does.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from attnlab.contract import Backend
from attnlab.models.images import ImageModel
from attnlab.registry import find


@dataclass(frozen=True)
class ImageExplained:
    """One image, what the model says of it, and where that comes from."""

    source: str
    image: Float[np.ndarray, "channels size size"]
    classes: tuple[str, ...]
    logits: Float[np.ndarray, "classes"]
    relevance: Float[np.ndarray, "channels size size"]  # R0, signed
    heatmap: Float[np.ndarray, "size size"]  # |R0| in 0..1, channels averaged
    saliency: Float[np.ndarray, "size size"]  # of the image
    scales: dict[int, np.ndarray]  # saliency of the relevance map, by round(100 r)
    mean_saliency: Float[np.ndarray, "size size"]
    foci: Bool[np.ndarray, "size size"]
    foci_distance: Float[np.ndarray, "size size"]
    sr_map: Float[np.ndarray, "size size"]
    totals: dict[int, float]  # relevance before each layer, summed
    layers: tuple[str, ...]
    label: str = ""

    @property
    def probabilities(self) -> Float[np.ndarray, "classes"]:
        e = np.exp(self.logits - self.logits.max())
        return e / e.sum()

    @property
    def prediction(self) -> str:
        return self.classes[int(self.logits.argmax())]

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain numbers."""
        p = self.probabilities
        return {
            "source": self.source,
            "label": self.label or None,
            "prediction": self.prediction,
            "probabilities": {c: float(x) for c, x in zip(self.classes, p)},
            "logits": {c: float(x) for c, x in zip(self.classes, self.logits)},
            "relevance_totals": {
                f"before layer {n} ({self.layers[n]})": total for n, total in self.totals.items()
            },
            "image": self.image.tolist(),
            "relevance": self.relevance.tolist(),
            "heatmap": self.heatmap.tolist(),
            "image_saliency": self.saliency.tolist(),
            "mean_saliency": self.mean_saliency.tolist(),
            "foci": np.argwhere(self.foci).tolist(),
            "sr_map": self.sr_map.tolist(),
        }


def explain_image(
    model: ImageModel,
    image: Float[np.ndarray, "channels size size"],
    *,
    source: str = "",
    label: str = "",
    patch: int = 5,
    K: int = 64,
    backend: Backend = "numba",
    **rules: Any,
) -> ImageExplained:
    """LRP and the Salient Relevance map of the model's decision.

    `rules` are options of `propagate_relevance` (stabiliser, epsilon, unpool). Raises InputError
    where an option does not fit, or the relevance of the image is constant.
    """
    exhibit = find("salient_relevance")
    lrp = exhibit.run("propagate_relevance", backend=backend, **model.network(image[None]), **rules)
    heat = lrp.heatmap_uint8[0].astype(np.float32) / 255
    looks: dict[str, Any] = {"patch": patch, "K": K}
    sr = exhibit.run("salient_map", backend=backend, features=heat, **looks)
    seen = exhibit.run(
        "salient_map",
        backend=backend,
        features=np.ascontiguousarray(image.transpose(1, 2, 0), np.float32),
        **looks,
    )
    before = lrp.relevance_before_layer
    return ImageExplained(
        source=source,
        label=label,
        image=image,
        classes=model.classes,
        logits=lrp.logits[0],
        relevance=before[0][0],
        heatmap=heat.mean(axis=2),
        saliency=seen.sr_map,
        scales=sr.saliency_scale,
        mean_saliency=sr.mean_saliency,
        foci=sr.foci,
        foci_distance=sr.foci_distance,
        sr_map=sr.sr_map,
        totals={n: float(before[n].sum()) for n in sorted(before)},
        layers=tuple(layer["type"] for layer in model.layers),
    )


def panels(one: ImageExplained) -> list[tuple[str, np.ndarray]]:
    """Titles and maps in the order in which they are shown."""
    return [
        ("image", one.image.mean(axis=0)),
        ("relevance (LRP)", one.heatmap),
        ("Salient Relevance", one.sr_map),
        ("saliency of the image", one.saliency),
    ]


def summary(one: ImageExplained) -> list[str]:
    """What can be said in words: prediction, runners-up, how concentrated the two maps are."""
    p = one.probabilities
    best = np.argsort(-p)[:3]
    lines = [
        f"prediction: {one.prediction}"
        + (f" (label {one.label})" if one.label else "")
        + "; "
        + ", ".join(f"{one.classes[i]} {p[i]:.1%}" for i in best)
    ]
    top, bottom = one.logits.max(), one.totals[0]
    lines.append(
        f"relevance: {top:.2f} at the output, {bottom:.2f} at the pixels "
        "(convolutions' biases take a share)"
    )
    areas = [regions(m) for m in (one.heatmap, one.sr_map)]
    lines.append(
        f"connected areas above half the maximum: {areas[0]} in the relevance map, {areas[1]} in "
        "the Salient Relevance map"
    )
    return lines


def regions(heat: Float[np.ndarray, "height width"], share: float = 0.5) -> int:
    """Number of connected areas (corners do not connect) above a share of the maximum."""
    from scipy.ndimage import label

    return int(label(heat > share * heat.max())[1])


def figure(explained: Sequence[ImageExplained]) -> Any:
    """A matplotlib figure: one row an image, the maps beside it, foci marked."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink = "#1f2428"
    with mpl.rc_context({"font.size": 9, "text.color": ink, "axes.titlecolor": ink}):
        made = Figure(figsize=(8.4, 2.4 * len(explained)), layout="constrained")
        axes = made.subplots(len(explained), 4, squeeze=False)
        for row, one in zip(axes, explained):
            for ax, (title, heat) in zip(row, panels(one)):
                grey = title == "image"
                ax.imshow(heat, cmap="gray" if grey else "cividis", interpolation="nearest")
                ax.set_title(f"{title}: {one.prediction}" if grey else title)
                ax.set_xticks([])
                ax.set_yticks([])
            y, x = np.nonzero(one.foci)
            row[2].plot(x, y, "x", color="#D55E00", markersize=4)
            row[0].set_xlabel(one.source, fontsize=8)
    return made


def png(explained: Sequence[ImageExplained], dpi: int = 150) -> bytes:
    """The figure as a PNG picture."""
    stream = io.BytesIO()
    figure(explained).savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def page(explained: Sequence[ImageExplained]) -> str:
    """One self-contained HTML page: the picture, what it says in words, relevance layer by layer."""
    from html import escape

    from attnlab.explain.page import page as document
    from attnlab.explain.page import table

    picture = base64.b64encode(png(explained)).decode()
    about = "Images with their relevance, Salient Relevance and saliency maps"
    body = (
        f'<figure><img src="data:image/png;base64,{picture}" alt="{about}">'
        "<figcaption>From left to right: the image as the network sees it; relevance of its pixels "
        "for the predicted class; the areas attended to, foci marked; saliency of the image itself, "
        "which knows nothing of the network. Bright is high, each map on its own scale."
        "</figcaption></figure>\n"
    )
    for one in explained:
        body += f"<h2>{escape(one.source)}</h2>\n" + "".join(
            f"<p>{escape(line)}</p>\n" for line in summary(one)
        )
        cells = [
            [f"before layer {n}: {one.layers[n]}", f"{total:.4f}"]
            for n, total in one.totals.items()
        ]
        body += table(["relevance", "sum"], [*cells, ["output", f"{one.logits.max():.4f}"]])
    return document("Where the network looks", body, "attnlab explain image")


def save_picture(path: Path, explained: Sequence[ImageExplained]) -> None:
    path.write_bytes(png(explained))
