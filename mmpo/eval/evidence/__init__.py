"""Descriptions of photos that nobody annotated, judged by the sources of evidence that pairs are made with."""
