"""Every patch is labelled with what a scene shows in it."""

from __future__ import annotations

from mmpo.demo.drawing import SIZE
from mmpo.demo.scene import SIDES, sample_scene
from mmpo.demo.things import THINGS
from tools.demo_models.architecture import PATCH
from tools.demo_models.tower_pretraining import BACKGROUND, patch_labels


def test_patches_are_labelled_with_what_covers_them() -> None:
    scene = sample_scene((0, 1, 8))
    labels = patch_labels([scene])
    side = SIZE // PATCH
    for item in scene.items:
        x, y, width, height = item.box
        patch = (y + height // 2) // PATCH * side + (x + width // 2) // PATCH
        thing = THINGS[labels.things[0, patch]]
        assert thing in scene.things  # its own, or what stands in front of it
        assert labels.counts[0, patch] == scene.count(thing) - 1
        assert item.thing in {THINGS[c] for c in labels.things[0] if c != BACKGROUND}
        if thing == item.thing:
            assert SIDES[labels.sides[0, patch]] in {one.side for one in scene.items if one.thing == thing}
    assert int((labels.centers == 1).sum()) == len(scene.items)
    assert (labels.colors >= 0).any() == any(item.color for item in scene.items)
    for thing in scene.things:
        ranks = labels.ranks[0][labels.things[0] == THINGS.index(thing)]
        assert sorted(set(ranks.tolist())) == list(range(scene.count(thing)))
