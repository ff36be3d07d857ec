from __future__ import annotations

import pytest
import torch

from mmpo.models.tree.layout import Segment, depth_first, pack, path, response_tree, unshared, visibility

DEEP = [
    Segment([1, 2, 3]),  # image
    Segment([4, 5], 0),  # question A
    Segment([6], 0),  # question B
    Segment([7, 8], 1, scored=True),  # A's first sample
    Segment([9], 1, scored=True),
    Segment([10, 11], 2, scored=True),  # B's sample
]


def test_pair_is_prefix_chosen_rejected() -> None:
    layout = pack([response_tree([1, 2, 3], [[4, 5], [6]])])
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert layout.predictors.tolist() == [2, 3, 2]  # the prefix's last token predicts both first tokens
    assert layout.targets.tolist() == [4, 5, 6]
    assert layout.lengths == [2, 1]


def test_deep_tree_is_laid_out_depth_first_and_scored_in_segment_order() -> None:
    assert depth_first(DEEP) == [0, 1, 3, 4, 2, 5]
    layout = pack([DEEP])
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5, 7, 8, 9, 6, 10, 11]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 5, 3, 4, 5]]
    assert layout.targets.tolist() == [7, 8, 9, 10, 11]
    assert layout.predictors.tolist() == [4, 5, 4, 8, 9]
    assert path(DEEP, 5) == [0, 2, 5]


def test_positions_start_at_the_family_base_and_trees_follow_without_padding() -> None:
    layout = pack([response_tree([1], [[2]]), response_tree([3, 4], [[5], [6]])], position_base=1)
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert layout.position_ids.tolist() == [[1, 2, 1, 2, 3, 3]]
    assert layout.predictors.tolist() == [0, 3, 3]


def test_unshared_rows_are_padded_paths() -> None:
    layout = unshared([DEEP], pad_id=99)
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5, 7, 8], [1, 2, 3, 4, 5, 9, 99], [1, 2, 3, 6, 10, 11, 99]]
    assert layout.attention_mask.tolist() == [[1] * 7, [1] * 6 + [0], [1] * 6 + [0]]
    assert layout.predictors.tolist() == [4, 5, 11, 17, 18]
    assert layout.targets.tolist() == pack([DEEP]).targets.tolist()


def test_images_follow_the_rows() -> None:
    tree = [
        Segment([1], images=[3]),
        Segment([2], 0, scored=True),
        Segment([5], 0, images=[1]),
        Segment([6], 2, scored=True),
    ]
    assert pack([tree]).image_order == [3, 1]
    assert unshared([tree]).image_order == [3, 3, 1]


def test_visibility_is_ancestors_and_own_past() -> None:
    allowed = visibility(response_tree([1, 2], [[3], [4, 5]]))
    assert allowed.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([Segment([1]), Segment([], 0, scored=True)], "empty"),
        ([Segment([1], 0)], "root"),
        ([Segment([1]), Segment([2])], "root"),
        ([Segment([1]), Segment([2], 1)], "does not come before"),
        ([Segment([1], scored=True)], "can't be scored"),
    ],
)
def test_malformed_trees_are_refused(tree: list[Segment], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack([tree])


def test_nothing_to_lay_out() -> None:
    with pytest.raises(ValueError, match="nothing to pack"):
        pack([])
    with pytest.raises(ValueError, match="nothing to score"):
        unshared([[Segment([1])]])


def test_plan_moves_with_the_batch() -> None:
    moved = pack([DEEP]).to("cpu")
    assert moved.plan is not None and sum(moved.plan.query_splits) == moved.input_ids.numel()
    assert torch.equal(moved.predictors, pack([DEEP]).predictors)
