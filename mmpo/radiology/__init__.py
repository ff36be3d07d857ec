"""Radiology reports: references to earlier exams and their removal, findings by rules, reports and films as files.

At the level of `mmpo.data`: no torch, no model. The builder, the evaluator and the command line stand on it.
"""
