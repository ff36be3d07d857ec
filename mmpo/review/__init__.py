"""The page on which people review pairs, answers and claims; what they decided is applied by `apply.py`."""
