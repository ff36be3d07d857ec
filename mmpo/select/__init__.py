"""Choosing among preference pairs, between building and training.

    select:
      by:
        - dual_margin: {keep: 0.5}
        - length_balance: {}

A step of `by` (a selector, `registry.py`) sees a table of numbers of the pairs that the step before it left, and says
which it drops and why, how it ranks them, or in which order they are learnt. `margins.py` and `lengths.py` are the
rules as pure functions, `chain.py` applies steps, `scan.py`, `logps.py` and `scoring.py` make the table, `run.py` does
a whole selection.
"""
