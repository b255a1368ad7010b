"""Small models with random weights, and texts of several lengths."""

from __future__ import annotations

import pytest
import torch
from small_models import TEXTS

from attnlab.models.bilstm import BiLSTM
from attnlab.models.bilstm import Configuration as BiLSTMConfiguration
from attnlab.models.classifier import Classifier
from attnlab.models.text_transformer import Configuration, TextTransformer
from attnlab.models.words import Vocabulary

VOCABULARY = Vocabulary.of(TEXTS)


def _loud(model: Classifier) -> Classifier:
    """Random weights large enough that the model's output moves."""
    for parameter in model.parameters():
        parameter.data *= 2.0
    return model.eval()


@pytest.fixture(scope="session")
def bilstm() -> Classifier:
    torch.manual_seed(0)
    return _loud(BiLSTM(VOCABULARY, ["bad", "good"], BiLSTMConfiguration(width=6, hidden=4)))


@pytest.fixture(scope="session")
def transformer() -> Classifier:
    torch.manual_seed(1)
    sizes = Configuration(width=8, layers=2, heads=2, hidden=12)
    return _loud(TextTransformer(VOCABULARY, ["bad", "middling", "good"], sizes))


@pytest.fixture(scope="session")
def deep() -> Classifier:
    torch.manual_seed(2)
    sizes = Configuration(width=8, layers=4, heads=2, hidden=12)
    return _loud(TextTransformer(VOCABULARY, ["bad", "good"], sizes))


@pytest.fixture(params=["bilstm", "transformer"])
def model(request: pytest.FixtureRequest) -> Classifier:
    return request.getfixturevalue(request.param)
