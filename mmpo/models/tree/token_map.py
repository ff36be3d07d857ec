"""The part of a picture that each of its tokens stands for, in every family (`mmpo.data.layouts.token_grid`)."""

from __future__ import annotations

import math

import numpy as np
from transformers.image_processing_utils import select_best_resolution

from mmpo.data.layouts.geometry import Box
from mmpo.data.layouts.token_grid import GridView, TokenMap
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import SEVERAL, ProcessedImages


def token_map(vlm: VLM, size: tuple[int, int], processed: ProcessedImages, index: int) -> TokenMap:
    """The map of picture `index` of `processed`, which had `size` (width, height). Raises UserError for a family whose
    tokens can't be placed; sequences of pictures don't need it."""
    ids = np.array(processed.placeholders[index])
    count = int((ids == vlm.image_token_id).sum())
    kind = vlm.family.model_type
    if SEVERAL in processed.tensors and processed.tensors[SEVERAL][index]:
        views = [_padded(size, math.isqrt(count))]  # LLaVA-OneVision; the last token is a line end
    elif kind in ("llava_next", "llava_next_video", "llava_onevision"):
        views = _next(vlm, size, count)
    elif vlm.family.grid_positions:
        merge = vlm.config.vision_config.spatial_merge_size
        _, high, wide = processed.tensors["image_grid_thw"][index].tolist()
        views = [_whole(size, high // merge, wide // merge)]
    elif kind in ("idefics3", "smolvlm"):
        views = _named_tiles(vlm, ids, size, count)
    elif kind == "internvl":
        views = _internvl(vlm, size, count)
    elif vlm.family.name == "Pixtral" or kind == "mistral3":
        rows = 1 + int((ids[:-1] != vlm.image_token_id).sum())  # a separator ends every row but the last
        views = [_whole(size, rows, count // rows)]
    else:
        views = [_single(vlm, size, count)]
    if any(view.tokens.size == 0 or view.tokens.max() >= count for view in views):
        raise UserError(f"{vlm.family.name}: {count} tokens of a {size[0]} x {size[1]} picture can't be placed on it")
    return TokenMap(count, size, tuple(views))


def _grid(first: int, rows: int, columns: int, *, extra: int = 0) -> np.ndarray:
    """Token numbers in reading order; `extra` tokens stand after each row."""
    return first + np.arange(rows)[:, None] * (columns + extra) + np.arange(columns)[None]


def _whole(size: tuple[int, int], rows: int, columns: int, first: int = 0) -> GridView:
    return GridView(_grid(first, rows, columns), Box(0, 0, *size))


def _padded(size: tuple[int, int], side: int, first: int = 0) -> GridView:
    """A square grid over a picture that was padded to a square, itself in the middle."""
    edge = max(size)
    x, y = (edge - size[0]) // 2, (edge - size[1]) // 2
    return GridView(_grid(first, side, side), Box(-x, -y, edge - x, edge - y))


def _single(vlm: VLM, size: tuple[int, int], count: int) -> GridView:
    """One square grid over a picture that was padded to a square, cropped in its middle, or stretched."""
    side = math.isqrt(count)
    first = count - side * side  # a class token, where the family keeps it
    if first not in (0, 1):
        raise UserError(f"{vlm.family.name}: {count} image tokens are no square grid", hint="use sequences only")
    processor = vlm.processor.image_processor
    width, height = size
    box = Box(0, 0, width, height)
    wanted = getattr(processor, "size", None) or {}
    if getattr(processor, "do_pad", False) and vlm.family.model_type == "llava":
        return _padded(size, side, first)
    if getattr(processor, "do_center_crop", False) and wanted.get("shortest_edge"):
        short = wanted["shortest_edge"]
        scale = short / min(size)
        sized = [short if edge == min(size) else int(edge * scale) for edge in size]
        edges: list[float] = []
        for length, full, crop in zip(
            sized, size, (processor.crop_size["width"], processor.crop_size["height"]), strict=True
        ):
            start = (length - crop) // 2
            edges += [start * full / length, (start + crop) * full / length]
        box = Box(edges[0], edges[2], edges[1], edges[3])
    return GridView(_grid(first, side, side), box)


def _next(vlm: VLM, size: tuple[int, int], count: int) -> list[GridView]:
    """The whole picture stretched to a square; then the tiles as one grid, without the padding, with row ends."""
    config = vlm.config
    edge = config.vision_config.image_size
    side = edge // config.vision_config.patch_size
    views = [_whole(size, side, side)]
    rest = count - side * side
    if rest <= 1:
        return views
    width, height = size
    high, wide = select_best_resolution((height, width), config.image_grid_pinpoints)
    rows, columns = side * (high // edge), side * (wide // edge)
    patch_down, patch_across = high / rows, wide / columns
    scale_x, scale_y = wide / width, high / height
    # The processor scales the picture and centres it on the tiles; the model then drops the rows or columns of padding.
    if scale_x < scale_y:
        new_width, new_height = wide, min(math.ceil(height * scale_x), high)
    else:
        new_width, new_height = min(math.ceil(width * scale_y), wide), high
    paste_x, paste_y = (wide - new_width) // 2, (high - new_height) // 2
    drop_rows = drop_columns = 0
    if width / height > columns / rows:
        drop_rows = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        drop_columns = (columns - int(round(width * (rows / height), 7))) // 2
    kept_rows, kept_columns = rows - 2 * drop_rows, columns - 2 * drop_columns
    box = Box(
        (drop_columns * patch_across - paste_x) * width / new_width,
        (drop_rows * patch_down - paste_y) * height / new_height,
        ((columns - drop_columns) * patch_across - paste_x) * width / new_width,
        ((rows - drop_rows) * patch_down - paste_y) * height / new_height,
    )
    if vlm.family.model_type == "llava_onevision":  # many tiles are shrunk to a number of tokens that is bounded
        most = int(str(config.vision_aspect_ratio).removeprefix("anyres_max_"))
        ratio = math.sqrt(kept_rows * kept_columns / (most * side**2))
        if ratio > 1.1:
            kept_rows, kept_columns = int(kept_rows // ratio), int(kept_columns // ratio)
    if kept_rows * (kept_columns + 1) != rest:
        raise UserError(f"{vlm.family.name}: {count} tokens of a {width} x {height} picture can't be placed on it")
    return [*views, GridView(_grid(side * side, kept_rows, kept_columns, extra=1), box)]


def _named_tiles(vlm: VLM, ids: np.ndarray, size: tuple[int, int], count: int) -> list[GridView]:
    """Tiles named by row and column, then the whole picture small; each tile a square of tokens."""
    per_tile = vlm.processor.image_seq_len
    side = math.isqrt(per_tile)
    names = vlm.tokenizer.convert_ids_to_tokens([int(i) for i in ids if i != vlm.image_token_id])
    places = [tuple(map(int, name[5:-1].split("_col_"))) for name in names if name.startswith("<row_")]
    whole = _whole(size, side, side, first=len(places) * per_tile)
    if not places:
        return [whole]
    tiles_down, tiles_across = max(row for row, _ in places), max(column for _, column in places)
    return [_tiled(size, tiles_down, tiles_across, side), whole]


def _tiled(size: tuple[int, int], tiles_down: int, tiles_across: int, side: int) -> GridView:
    """Tiles in reading order, each a square of tokens in reading order, as one grid over the whole picture."""
    tokens = np.arange(tiles_down * tiles_across * side * side).reshape(tiles_down, tiles_across, side, side)
    return GridView(tokens.transpose(0, 2, 1, 3).reshape(tiles_down * side, tiles_across * side), Box(0, 0, *size))


def _internvl(vlm: VLM, size: tuple[int, int], count: int) -> list[GridView]:
    """Tiles in the arrangement that fits the picture's shape, and a small picture if there are several."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    per_tile = vlm.processor.image_seq_length
    side = math.isqrt(per_tile)
    if count == per_tile:
        return [_whole(size, side, side)]
    processor = vlm.processor.image_processor
    tile = (processor.size["height"], processor.size["width"])
    across, down = get_optimal_tiled_canvas(size[::-1], tile, processor.min_patches, processor.max_patches)
    return [_tiled(size, down, across, side), _whole(size, side, side, first=across * down * per_tile)]
