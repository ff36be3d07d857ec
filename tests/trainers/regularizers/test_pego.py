from __future__ import annotations

import pytest
import torch

from mmpo.errors import UserError
from mmpo.trainers.regularizers import pego
from mmpo.trainers.regularizers.settings import PegoSettings
from tests.trainers.regularizers.hand_made import HandMade


@pytest.mark.parametrize("chunk", [4, 2**24])
def test_the_penalty_is_that_of_the_whole_product(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pego, "_CHUNK", chunk)  # 4: a row at a time
    model = HandMade()
    penalty = pego.pego_penalty(PegoSettings(lam=0.1), [model.matrix(), model.matrix()])
    slopes = torch.autograd.grad(penalty, model.parameters_)
    update = model.scale * model.b @ model.a
    expected = 0.1 * 2 * (model.base @ update.T).abs().sum()
    torch.testing.assert_close(penalty, expected)
    for own, other in zip(slopes, torch.autograd.grad(expected, model.parameters_), strict=True):
        torch.testing.assert_close(own, other)


def test_rows_at_right_angles_cost_nothing() -> None:
    model = HandMade()
    model.base[:, 3:] = 0.0
    model.a.data[:, :3] = 0.0
    assert pego.pego_penalty(PegoSettings(), [model.matrix()]).item() == 0.0


def test_only_layers_that_are_named() -> None:
    matrix = HandMade().matrix()
    assert pego.pego_matrices(PegoSettings(targets=["q_proj"]), [matrix]) == [matrix]
    with pytest.raises(UserError, match="no adapted layer is called v_proj"):
        pego.pego_matrices(PegoSettings(), [matrix])
