"""Several pictures in one prompt: sequences, grid collages, picture-in-picture (MIA-DPO, Liu et al. 2024,
arXiv:2410.17637). Pure geometry and text; no model, no torch.
"""

from mmpo.data.layouts.compose import Composed, Composer
from mmpo.data.layouts.geometry import Box, Layout, cells, grid_shape, inner_box

__all__ = ["Box", "Composed", "Composer", "Layout", "cells", "grid_shape", "inner_box"]
