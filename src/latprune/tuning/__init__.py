"""TEACH the small network."""

from latprune.distances import distillation
from latprune.tuning.batchnorm import recalibrate
from latprune.tuning.loop import Tuned, TuneProgress, tune
from latprune.tuning.losses import cross_entropy
from latprune.tuning.precision import Precision
from latprune.tuning.recipe import Recipe
from latprune.tuning.reconstruction import Reconstructed, reconstruct
from latprune.tuning.training import Epoch

__all__ = [
    "Epoch",
    "Precision",
    "Recipe",
    "Reconstructed",
    "TuneProgress",
    "Tuned",
    "cross_entropy",
    "distillation",
    "recalibrate",
    "reconstruct",
    "tune",
]
