"""Everything a measurement imports, for the server that measurements are forked from."""

import datasets
import trl
from trl import DPOTrainer

import benchmarks.speed.measure

__all__ = ["DPOTrainer", "benchmarks", "datasets", "trl"]
