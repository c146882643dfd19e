"""What the command line can train and judge."""

from latprune.tasks.classification import evaluate
from latprune.tasks.data import ImageData, open_images
from latprune.tasks.models import load_model, load_weights
from latprune.tasks.preprocessing import Preprocessing, preprocessing_for

__all__ = [
    "ImageData",
    "Preprocessing",
    "evaluate",
    "load_model",
    "load_weights",
    "open_images",
    "preprocessing_for",
]
