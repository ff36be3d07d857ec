"""The states that a diagnosis asks for are those that predict each token, of both models, in the shared layout too."""

from __future__ import annotations

import pytest
import torch

from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.statistics import PREDICTOR_STATES
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from tests.tiny import add_lora, tiny_llava
from tests.trainers.material import make_pairs


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_states_predict_the_tokens(sharing: str) -> None:
    vlm = add_lora(tiny_llava(), spread=0.3)
    store = ImageStore(vlm, 2**24)
    encoded = encode_pairs(vlm, make_pairs(4), store)
    batch = PairCollator(store)(encoded.rows)["batch"]
    vlm.model.eval()
    with torch.no_grad():
        scorer = PairScorer(vlm, sharing=sharing, further=(PREDICTOR_STATES,))  # type: ignore[arg-type]
        found = scorer(batch)
        for side in (found.chosen, found.rejected):
            for name, logps in (("predictor_states", side.policy), ("reference_predictor_states", side.reference)):
                states = side.more[name]
                assert states.shape[:2] == side.mask.shape and logps is not None
                for row in range(len(side.mask)):
                    n = int(side.mask[row].sum())
                    ids = (batch.chosen_ids if side is found.chosen else batch.rejected_ids)[row]
                    again = vlm.head(states[row, :n]).float().log_softmax(-1)[torch.arange(n), ids]
                    assert torch.allclose(again, logps[row, :n], atol=1e-4)
        states, before = (found.chosen.more[name] for name in ("predictor_states", "reference_predictor_states"))
        assert not torch.allclose(states, before, atol=1e-2)
