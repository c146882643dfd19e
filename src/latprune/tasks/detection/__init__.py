"""Detectors of torchvision's SSD family: what they learn from, and how well they find."""

from latprune.tasks.detection.augmentation import evaluation_transform, training_transform
from latprune.tasks.detection.detector import Detector, SingleShot
from latprune.tasks.detection.distillation import distillation
from latprune.tasks.detection.evaluation import evaluate
from latprune.tasks.detection.models import load_backbone, load_detector
from latprune.tasks.detection.ssd512 import ssd512_resnet50
from latprune.tasks.detection.voc import VocData, collate, open_voc, told_dropped

__all__ = [
    "Detector",
    "SingleShot",
    "VocData",
    "collate",
    "distillation",
    "evaluate",
    "evaluation_transform",
    "load_backbone",
    "load_detector",
    "open_voc",
    "ssd512_resnet50",
    "told_dropped",
    "training_transform",
]
