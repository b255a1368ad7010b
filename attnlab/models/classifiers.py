"""Text classifiers by name: load, train on any labelled texts, save.

    model = load("bilstm")                       # or "transformer", "bert", a folder, a hub's name
    model = train("transformer", rows, seed=0, seconds=60)
    save(model, "my-model"); load("my-model")

`python -m attnlab.models.classifiers fit FILE --out FOLDER` trains on a file of labelled texts,
`… train` trains the shipped weights anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from attnlab.contract import InputError, suggest
from attnlab.models.classifier import Classifier
from attnlab.models.classifier_training import KINDS, Labelled, Progress, accuracy, build, train
from attnlab.models.words import Vocabulary, WordClassifier, normal, tokenize

__all__ = ["KINDS", "Labelled", "Progress", "accuracy", "build", "load", "save", "train"]


PHRASES = 3000  # of opinion words, beside the reviews


def load(name: str | Path) -> Classifier:
    """A classifier in evaluation mode.

    name: "bilstm" and "transformer", the shipped ones; "bert", the pretrained encoder whose head is
    fitted on the embedded reviews once and kept in the user's cache; a folder written by `save`; a
    folder of a Hugging Face model, or its name on the hub.

    InputError for a name that is none of these, ValueError for a folder that is not a model's,
    ModuleNotFoundError, naming the extra to install, for a model that needs one.
    """
    from attnlab.paths import data_dir

    text, folder = str(name), Path(name).expanduser()
    if text == "bert":
        return _default_bert()
    if text in KINDS:
        folder = data_dir() / "classifiers" / text
    if (folder / "model.json").is_file():
        return _read(folder)
    if (folder / "config.json").is_file():
        return _hugging_face(folder)
    if folder.is_dir():
        raise InputError(f"{folder} holds no model: neither model.json nor config.json is there")
    hint = suggest(text, KINDS)
    if folder.suffix or (hint and "/" not in text) or not ("/" in text or "-" in text):
        raise InputError(
            f"model {text!r} is none of {', '.join(KINDS)}, no folder and no hub name{hint}"
        )
    return _hugging_face(text)


def save(model: Classifier, folder: str | Path) -> None:
    """Write model.json, weights.npz (float16) and vocabulary.txt, what `load` reads.

    Of a BERT only the head is written, and the name of the folder that holds its encoder.
    InputError for a model that this project did not train.
    """
    from attnlab.models.bert import Bert, pretrained_folder

    folder = Path(folder)
    about: dict[str, object]
    precision: type
    if isinstance(model, WordClassifier):
        configuration = asdict(model.configuration)  # type: ignore[call-overload]
        about = {"kind": model.kind, "labels": model.labels, "configuration": configuration}
        weights, precision = model.state_dict(), np.float16
    elif isinstance(model, Bert):
        shipped = model.source == pretrained_folder()
        source = "pretrained" if shipped else str(model.source.resolve())
        about = {"kind": model.kind, "labels": model.labels, "encoder": source}
        weights, precision = model.head.state_dict(), np.float32
    else:
        raise InputError(f"save writes models of the kinds {', '.join(KINDS)}, not {type(model)}")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {k: w.detach().numpy().astype(precision) for k, w in weights.items()}
    np.savez_compressed(folder / "weights.npz", **arrays)
    if isinstance(model, WordClassifier):
        model.vocabulary.save(folder / "vocabulary.txt")
    (folder / "model.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _read(folder: Path) -> Classifier:
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            weights = {k: torch.from_numpy(arrays[k].astype(np.float32)) for k in arrays.files}
        if about["kind"] == "bert":
            from attnlab.models.bert import Bert, pretrained_folder

            shipped = about["encoder"] == "pretrained"
            bert = Bert(pretrained_folder() if shipped else about["encoder"], about["labels"])
            bert.head.load_state_dict(weights)
            return bert
        vocabulary = Vocabulary.load(folder / "vocabulary.txt")
        model = build(about["kind"], vocabulary, about["labels"], about["configuration"])
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: not a saved classifier ({error})") from error
    return model.eval()


def _default_bert() -> Classifier:
    """The pretrained encoder; its head is fitted on the embedded reviews once, then cached."""
    from zlib import crc32

    from attnlab.datasets.opinions import phrases
    from attnlab.datasets.reviews import reviews
    from attnlab.paths import cache_dir, data_dir

    corpus = crc32((data_dir() / "reviews" / "reviews.jsonl").read_bytes())
    folder = cache_dir() / f"bert-head-{corpus:08x}"
    if (folder / "model.json").is_file():
        return _read(folder)
    extra = phrases(PHRASES // 4)
    model = train("bert", reviews("train"), validation=reviews("validation"), extra=extra)
    save(model, folder)
    return model


def _hugging_face(name: str | Path) -> Classifier:
    from attnlab.models.huggingface import load as load_hugging_face

    return load_hugging_face(name)


def main() -> None:
    """`python -m attnlab.models.classifiers fit | vectors | train | report`."""
    from attnlab.datasets.labelled import FORMATS
    from attnlab.paths import data_dir

    here = data_dir() / "classifiers"
    parser = argparse.ArgumentParser(prog="python -m attnlab.models.classifiers")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    command = commands.add_parser("fit", help="train a classifier on a file of labelled texts")
    command.add_argument("file", type=Path)
    command.add_argument("--model", choices=KINDS, default="bilstm")
    command.add_argument("--format", choices=["auto", *FORMATS], default="auto")
    command.add_argument("--out", type=Path, required=True, help="the folder to write, for load()")
    command.add_argument("--seconds", type=float, default=60.0)
    command.add_argument("--seed", type=int, default=0)
    commands.add_parser("vectors", help="make the word vectors anew, with the pretrained encoder")
    command = commands.add_parser("train", help="train the shipped classifiers anew")
    command.add_argument("--out", type=Path, default=here)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--threads", type=int, default=1)
    commands.add_parser("report", help="the shipped classifiers' accuracy on held-out texts")
    options = parser.parse_args()
    if options.command == "fit":
        try:
            fit(
                options.file,
                options.model,
                options.out,
                options.format,
                options.seconds,
                options.seed,
            )
        except (InputError, OSError, ValueError, ModuleNotFoundError) as error:
            parser.exit(2, f"{error}\n")
    elif options.command == "report":
        report()
    elif options.command == "vectors":
        make_vectors(here)
    else:
        torch.set_num_threads(options.threads)
        train_shipped(options.out, options.seed)
        report(options.out)


def fit(file: Path, kind: str, out: Path, format: str, seconds: float, seed: int) -> None:
    """Train on a user's file, print accuracy on a held-out tenth, and save."""
    from attnlab.datasets.labelled import Row, read

    found = list(read(file, format))
    rows = [row for row in found if isinstance(row, Row)]
    bad = [row for row in found if not isinstance(row, Row)]
    for row in bad[:5]:
        print(f"{file}:{row.line}: {row.reason}")
    print(f"{len(rows)} texts, {len(bad)} malformed lines")
    model = train(kind, rows, seed=seed, seconds=seconds, progress=_show(kind))
    save(model, out)
    print(f"the classifier is in {out}")


def make_vectors(folder: Path) -> None:
    """The word vectors that ship: of opinion words, of the reviews' words, of common ones."""
    from attnlab.datasets.opinions import opinions
    from attnlab.datasets.reviews import reviews
    from attnlab.models import word_vectors

    known = [o.text for o in opinions()]
    known += [normal(t.text) for r in reviews() for t in tokenize(r.text)]
    word_vectors.save(word_vectors.make(known), folder / "vectors.npz")


def train_shipped(out: Path, seed: int) -> None:
    """The two classifiers that ship, from the reviews and from phrases of opinion words."""
    from attnlab.datasets.opinions import phrases
    from attnlab.datasets.reviews import reviews

    for kind in ("bilstm", "transformer"):
        model = train(
            kind,
            reviews("train"),
            validation=reviews("validation"),
            extra=phrases(PHRASES, seed=seed),
            seed=seed,
            seconds=600,  # some 20 on an idle core; a busy machine shall not cut it short
            progress=_show(kind),
        )
        save(model, out / kind)


def _show(kind: str) -> Callable[[Progress], None]:
    def show(p: Progress) -> None:
        if kind == "bert":
            print(f"bert: {p.done:.0%} of the texts read, {p.seconds:.0f} s", end="\r")
            return
        print(
            f"{kind}: epoch {p.epoch}, {p.seconds:.0f} s, loss {p.loss:.3f}, validation "
            f"{p.validation:.3f}, accuracy {p.accuracy:.3f}"
        )

    return show


def report(folder: Path | None = None) -> None:
    """Prints accuracy on the reviews' splits and, where they lie beside a checkout, on SST."""
    from attnlab.datasets.files import DatasetMissing
    from attnlab.datasets.labelled import Row, read
    from attnlab.datasets.reviews import reviews
    from attnlab.paths import data_dir, shared_data

    texts: dict[str, list] = {s: reviews(s) for s in ("train", "validation", "test")}  # type: ignore[arg-type]
    try:
        file = (shared_data() or Path()) / "sst" / "dev.txt"
        texts["SST dev"] = [row for row in read(file, "sst") if isinstance(row, Row)]
    except DatasetMissing:
        pass
    for kind in KINDS:
        try:
            model = load(
                "bert" if kind == "bert" else (folder or data_dir() / "classifiers") / kind
            )
        except ModuleNotFoundError as error:
            print(f"{kind:12} {error}")
            continue
        shares = (
            f"{name} {accuracy(model, rows):.3f} of {len(rows)}" for name, rows in texts.items()
        )
        print(f"{kind:12}", ", ".join(shares))


if __name__ == "__main__":
    main()
