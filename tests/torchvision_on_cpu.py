"""A pytest plugin that lets a CUDA build of torchvision, the only one on PyPI, be imported beside a CPU build of torch.

    pip install --no-deps --target DIR torchvision==0.28.0       # the one that fits the torch of constraints.txt
    PYTHONPATH=DIR python -m pytest -p tests.torchvision_on_cpu tests/models/test_videos.py

The tests of families with a video input then run through their own processors. Its operators are compiled for CUDA, and
the import asks for two of them by name; the transforms that processors use need none. Not in an environment that is
used for more: transformers imports torchvision wherever it finds it, and without this plugin that fails.
"""

from __future__ import annotations

import torch

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
