"""A small convolutional network for images, whose layers are what `salient_relevance` reads.

A model is the list `layers` of the exhibit's card and the weights it names, so that

    exhibit.run("propagate_relevance", **model.network(images))

is the network's forward pass and the relevance of every pixel. PyTorch trains it.

    python -m attnlab.models.images train     the digits model that ships in data/digits_cnn, anew
    python -m attnlab.models.images report    its accuracy on the held-out digits
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from attnlab.datasets.images import SHAPES, digits, held_out
from attnlab.paths import data_dir

DIGITS_SIZE = 24  # the 8 x 8 digits are enlarged, so that attention has room


class ModelFileError(ValueError):
    """A folder that holds no image model; the message says which and why."""


@dataclass(frozen=True)
class ImageModel:
    """A network: its layers, their weights, what its classes are called, and how inputs are scaled."""

    layers: list[dict[str, Any]]
    conv: list[dict[str, np.ndarray]]
    fc: list[dict[str, np.ndarray]]
    classes: tuple[str, ...]
    size: int  # height and width of an image
    channels: int = 1
    mean: float = 0.0
    std: float = 1.0

    def network(self, images: Float[np.ndarray, "batch channels size size"]) -> dict[str, Any]:
        """The arguments of `propagate_relevance` for images in 0..1."""
        x = ((images - self.mean) / self.std).astype(np.float32)
        return {"x": x, "conv": self.conv, "fc": self.fc, "layers": self.layers}

    def logits(
        self, images: Float[np.ndarray, "batch channels size size"]
    ) -> Float[np.ndarray, "batch classes"]:
        """The logits, by PyTorch."""
        import torch

        net = _module(self)
        with torch.inference_mode():
            return net(torch.from_numpy(self.network(images)["x"])).numpy()

    def predict(self, images: np.ndarray) -> Int[np.ndarray, "batch"]:
        return self.logits(images).argmax(axis=1)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float((self.predict(images) == labels).mean())

    def save(self, folder: Path) -> None:
        """weights.npz and model.json in `folder`, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{kind}{i}_{name}": a
            for kind, stack in (("conv", self.conv), ("fc", self.fc))
            for i, weights in enumerate(stack)
            for name, a in weights.items()
        }
        np.savez_compressed(folder / "weights.npz", **arrays)  # type: ignore[arg-type]
        about = {
            "layers": self.layers, "classes": list(self.classes), "size": self.size,
            "channels": self.channels, "mean": self.mean, "std": self.std,
        }  # fmt: skip
        text = json.dumps(about, indent=1).replace("\n   ", " ").replace("\n  }", " }")
        (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def load(folder: Path | None = None) -> ImageModel:
    """The model in a folder; without one, the digits model that ships. Raises ModelFileError."""
    folder = data_dir() / "digits_cnn" if folder is None else Path(folder)
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        stacks = {
            kind: [
                {part: arrays[f"{kind}{i}_{part}"] for part in ("weight", "bias")}
                for i in range(sum(layer["type"] == kind for layer in about["layers"]))
            ]
            for kind in ("conv", "fc")
        }
        return ImageModel(**about | stacks | {"classes": tuple(about["classes"])})
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{folder}: no image model there ({error.filename} is missing)"
        ) from None
    except (KeyError, TypeError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise ModelFileError(f"{folder}: not a readable image model ({error})") from None


def cnn(
    size: int, classes: int, channels: int = 1, widths: tuple[int, ...] = (8, 16), hidden: int = 32
) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """conv 3x3, ReLU, pool 2x2 for each width, then two linear layers: (layers, weight shapes).

    Raises ValueError where the pools do not divide the size.
    """
    layers: list[dict[str, Any]] = []
    shapes: list[tuple[int, ...]] = []
    inner = channels
    for width in widths:
        if size % 2:
            raise ValueError(f"pools of 2 do not divide {size} pixels")
        layers += [
            {"type": "conv", "kernel": 3, "stride": 1, "padding": 1},
            {"type": "relu"},
            {"type": "maxpool", "kernel": 2, "stride": 2},
        ]
        shapes.append((width, inner, 3, 3))
        inner, size = width, size // 2
    layers += [{"type": t} for t in ("flatten", "fc", "relu", "fc")]
    return layers, [*shapes, (hidden, inner * size * size), (classes, hidden)]


def untrained(
    size: int, classes: Sequence[str], *, channels: int = 1, seed: int = 0, **widths: Any
) -> ImageModel:
    """The network with PyTorch's initial weights."""
    import torch

    layers, shapes = cnn(size, len(classes), channels, **widths)
    made = []
    generator = torch.Generator().manual_seed(seed)
    for shape in shapes:
        bound = float(np.prod(shape[1:])) ** -0.5
        draw = [torch.rand(s, generator=generator).numpy() for s in (shape, shape[:1])]
        weight, bias = ((2 * d - 1) * np.float32(bound) for d in draw)
        made.append({"weight": weight, "bias": bias})
    count = sum(len(shape) == 4 for shape in shapes)
    return ImageModel(layers, made[:count], made[count:], tuple(classes), size, channels)


def train(
    images: Float[np.ndarray, "rows channels size size"],
    labels: Int[np.ndarray, "rows"],
    classes: Sequence[str] = SHAPES,
    *,
    epochs: int = 10,
    batch: int = 50,
    lr: float = 3e-3,
    seed: int = 0,
    seconds: float | None = None,
    shift: int = 0,
    progress: Callable[[float], None] | None = None,
    **widths: Any,
) -> ImageModel:
    """Train the network with Adam and a falling rate; the same seed gives the same weights.

    seconds   ends training early
    shift     each batch is moved by up to this many pixels, anew in each epoch
    progress  is told the share that is done
    """
    import torch
    from torch.nn.functional import cross_entropy

    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # batches this small lose more than they gain by a second one
    begin = untrained(images.shape[2], classes, channels=images.shape[1], seed=seed, **widths)
    scaled = ImageModel(
        **{**begin.__dict__, "mean": float(images.mean()), "std": float(images.std())}
    )
    # channels last: convolutions this small run in half the time
    net = _module(scaled).train().to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(scaled.network(images)["x"]), torch.from_numpy(labels)
    steps = epochs * -(-len(x) // batch)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    rng, done = np.random.default_rng(seed), 0
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), steps // epochs):
            part = x[rows]
            if shift:
                part = _moved(part, *rng.integers(-shift, shift + 1, 2))
            part = part.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(net(part), y[rows]).backward()
            optimizer.step()
            falling.step()
            done += 1
            if progress is not None:
                progress(done / steps)
        if seconds is not None and time.perf_counter() - started > seconds:
            break
    torch.set_num_threads(threads)
    trained = [p.detach().contiguous().numpy().copy() for p in net.parameters()]
    pairs = [{"weight": w, "bias": b} for w, b in zip(trained[::2], trained[1::2])]
    count = len(scaled.conv)
    return ImageModel(**{**scaled.__dict__, "conv": pairs[:count], "fc": pairs[count:]})


def _moved(x: Any, down: int, right: int) -> Any:
    """The images shifted; the edge is repeated."""
    import torch

    size = x.shape[2]
    rows, columns = ((torch.arange(size) - by).clamp(0, size - 1) for by in (down, right))
    return x[:, :, rows][:, :, :, columns]


def _module(model: ImageModel) -> Any:
    """The network as a torch module that owns copies of the weights."""
    import torch
    from torch import nn

    stock = {"conv": iter(model.conv), "fc": iter(model.fc)}
    parts: list[Any] = []
    for layer in model.layers:
        kind = layer["type"]
        if kind in stock:
            w = next(stock[kind])
            out, inner = w["weight"].shape[:2]
            part = (
                nn.Linear(inner, out)
                if kind == "fc"
                else nn.Conv2d(inner, out, layer["kernel"], layer["stride"], layer["padding"])
            )
            part.load_state_dict({k: torch.tensor(v) for k, v in w.items()})
            parts.append(part)
        elif kind == "maxpool":
            parts.append(nn.MaxPool2d(layer["kernel"], layer["stride"]))
        else:
            parts.append(nn.ReLU() if kind == "relu" else nn.Flatten())
    return nn.Sequential(*parts).eval()


def fitted(image: np.ndarray, model: ImageModel) -> Float[np.ndarray, "channels size size"]:
    """An image (height, width) or (height, width, channels) in 0..1 as the model wants it.

    It is averaged down (or enlarged, bilinear) to the model's size; a grey model gets the luminance.
    """
    from PIL import Image

    image = np.asarray(image, np.float32)
    planes = image[..., None] if image.ndim == 2 else image[..., :3]
    if planes.shape[2] == 3 and model.channels == 1:
        planes = (planes @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    planes = np.broadcast_to(planes, (*planes.shape[:2], model.channels))
    side = (model.size, model.size)
    resized = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(plane)).resize(side, Image.Resampling.BILINEAR)
        )
        for plane in planes.transpose(2, 0, 1)
    ]
    return np.clip(np.stack(resized), 0, 1)


def enlarged_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits at the digits model's size. Raises DatasetMissing."""
    found = digits()
    model = untrained(DIGITS_SIZE, [str(d) for d in range(10)])
    return np.stack([fitted(image[0], model) for image in found.images]), found.labels


def train_digits(seed: int = 0, progress: Callable[[float], None] | None = None) -> ImageModel:
    """The model that ships: four fifths of the digits, at 24 x 24 pixels."""
    images, labels = enlarged_digits()
    rows, _ = held_out(len(labels))
    return train(
        images[rows], labels[rows], [str(d) for d in range(10)], epochs=30, shift=2, seed=seed,
        progress=progress,
    )  # fmt: skip


def main() -> None:
    """`python -m attnlab.models.images train|report [--folder F] [--seed N]`."""
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.models.images", description=main.__doc__
    )
    parser.add_argument("command", choices=("train", "report"))
    parser.add_argument("--folder", type=Path, default=data_dir() / "digits_cnn")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "train":
        train_digits(given.seed).save(given.folder)
    model = load(given.folder)
    images, labels = enlarged_digits()
    for name, rows in zip(("training", "held out"), held_out(len(labels))):
        print(f"{name}: {model.accuracy(images[rows], labels[rows]):.4f} of {len(rows)} digits")


if __name__ == "__main__":
    main()
