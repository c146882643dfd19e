"""Close the loop: plan, cut, time the real small network beside the dense one, correct, plan again.

The layers' times do not quite add up to a network's: what is missing is measured on the network
itself and goes into the next plan, and into the table for the next time.
"""

from latprune.fitting.care import AIM
from latprune.fitting.loop import Fitted, fit
from latprune.fitting.refining import refine

__all__ = ["AIM", "Fitted", "fit", "refine"]
