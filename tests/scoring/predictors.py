"""Random predictors."""

import torch

from rabtriever.scoring.predictor import Predictor


def random_predictor(hidden, units, kind="mlp", output_size=None):
    size = output_size or hidden
    predictor = Predictor(hidden, units, kind=kind, choice_direction=torch.randn(size), output_size=size).eval()
    for side, width in (("query", hidden), ("document", hidden), ("output", size)):
        predictor.fit_normalization(side, torch.randn(30, width) * 3 + 2)
    return predictor
