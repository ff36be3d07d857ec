"""Finding common beginnings: every path survives, nothing is computed twice that need not be."""

from __future__ import annotations

import random

import pytest

from mmpo.models.tree.layout import Segment, path, validate_tree
from mmpo.models.tree.sharing import ResponsePath, Shared, share

IMAGE = 99
SIZES = {0: 5, 1: 5, 2: 3}


def prompt(*parts: int | str) -> list[int]:
    """`prompt(1, "A", 2)`: token 1, the placeholders of image 0, token 2."""
    return [
        token for part in parts for token in ([part] if isinstance(part, int) else [IMAGE] * SIZES["ABC".index(part)])
    ]


def scored(shared: Shared) -> list[tuple[list[Segment], int]]:
    return [(tree, n) for tree in shared.trees for n, segment in enumerate(tree) if segment.scored]


def spelled(shared: Shared, number: int) -> tuple[list[int], list[int], list[int]]:
    """Prompt tokens, images and response of a scored segment, read off its path."""
    tree, node = scored(shared)[number]
    above = path(tree, node)[:-1]
    tokens = [token for step in above for token in tree[step].ids]
    return tokens, [image for step in above for image in tree[step].images], list(tree[node].ids)


def total(shared: Shared) -> int:
    return sum(len(segment.ids) for tree in shared.trees for segment in tree)


def test_a_pair_is_one_tree_with_two_leaves() -> None:
    p = prompt(1, "A", 2, 3)
    shared = share([ResponsePath(p, [7, 8], [0]), ResponsePath(p, [9], [0])], IMAGE, SIZES)
    assert [len(tree) for tree in shared.trees] == [3]
    assert shared.leaf == [0, 1] and total(shared) == len(p) + 3


def test_questions_about_one_image_share_it() -> None:
    paths = [ResponsePath(prompt(1, "A", 2, q), [7], [0]) for q in (10, 11, 12)]
    shared = share(paths, IMAGE, SIZES, least=4)
    (tree,) = shared.trees
    assert list(tree[0].ids) == prompt(1, "A", 2) and tree[0].images == [0]
    assert [list(s.ids) for s in tree if not s.scored] == [prompt(1, "A", 2), [10], [11], [12]]


def test_other_images_with_equal_tokens_are_not_shared() -> None:
    a, b = ResponsePath(prompt(1, "A", 2), [7], [0]), ResponsePath(prompt(1, "B", 2), [7], [1])
    shared = share([a, b], IMAGE, SIZES, least=1)
    assert [tree[0].images for tree in shared.trees] == [[]], "the beginning they share ends before the image"
    assert spelled(shared, shared.leaf[0])[1] == [0] and spelled(shared, shared.leaf[1])[1] == [1]
    assert len(share([a, b], IMAGE, SIZES, least=4).trees) == 2, "one token is not worth a branch"


def test_nine_pairs_of_three_and_three_have_six_responses() -> None:
    p = prompt(1, "A", 2)
    chosen, rejected = [[10, k] for k in range(3)], [[20, k] for k in range(3)]
    paths = [ResponsePath(p, r, [0]) for c in chosen for d in rejected for r in (c, d)]
    shared = share(paths, IMAGE, SIZES)
    assert len(paths) == 18 and len(scored(shared)) == 6
    assert all(spelled(shared, shared.leaf[i]) == (p, [0], paths[i].response) for i in range(18))


def test_a_prompt_that_another_one_continues() -> None:
    short, long = ResponsePath(prompt("A", 2), [7], [0]), ResponsePath(prompt("A", 2, 3, 4), [8], [0])
    shared = share([long, short], IMAGE, SIZES, least=2)
    assert len(shared.trees) == 1 and total(shared) == len(long.prompt) + 2


def test_a_perturbed_prompt_shares_the_image_only() -> None:
    clean, other = prompt(1, "A", 20, 21, 22, 23), prompt(1, "A", 20, 88, 22, 23)
    shared = share([ResponsePath(p, r, [0]) for p in (clean, other) for r in ([7], [8])], IMAGE, SIZES, least=4)
    assert len(shared.trees) == 1 and total(shared) == len(prompt(1, "A", 20)) + 3 + 3 + 4


@pytest.mark.parametrize("least", [1, 3, 6, 64])
@pytest.mark.parametrize("seed", range(20))
def test_every_path_can_be_read_off_its_tree(seed: int, least: int) -> None:
    rng = random.Random(seed)
    paths = []
    for _ in range(rng.randint(1, 14)):
        images = [rng.randrange(3) for _ in range(rng.randint(0, 3))]
        parts: list[int | str] = [rng.randint(1, 2) for _ in range(rng.randint(1, 3))]
        for image in images:
            parts += ["ABC"[image], *(rng.randint(1, 2) for _ in range(rng.randint(0, 2)))]
        paths.append(ResponsePath(prompt(*parts), [rng.randint(1, 3) for _ in range(rng.randint(1, 3))], images))
    shared = share(paths, IMAGE, SIZES, least=least)
    for i, wanted in enumerate(paths):
        assert spelled(shared, shared.leaf[i]) == (list(wanted.prompt), list(wanted.images), list(wanted.response))
    for tree in shared.trees:
        validate_tree(tree)
        for node, segment in enumerate(tree):
            siblings = [s for s in tree if s.parent == segment.parent and s is not segment and not s.scored]
            if least == 1 and not segment.scored and node:
                heads = {(s.ids[0], s.images[0] if s.images and s.ids[0] == IMAGE else None) for s in siblings}
                assert (segment.ids[0], segment.images[0] if segment.ids[0] == IMAGE else None) not in heads
    assert total(shared) <= sum(len(p.prompt) + len(p.response) for p in paths)


def test_placeholders_and_images_must_agree() -> None:
    with pytest.raises(ValueError, match="5 image tokens, its 2 images 10"):
        share([ResponsePath(prompt("A"), [7], [0, 1])], IMAGE, SIZES)
