"""The parts of `benchmarks/training.py`: models, layouts, the sides that are compared, and how they are measured."""
