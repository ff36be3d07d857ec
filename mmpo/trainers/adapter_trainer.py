"""A trainer whose checkpoints and results hold the adapter, not the frozen weights below it, however many processes the
weights are cut up between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from peft import PeftModel
from torch import nn

from mmpo.errors import UserError
from mmpo.trainers.adapter_files import load_adapter, save_adapter
from mmpo.trainers.moving import MovingReference
from mmpo.trainers.regularizers.trainer import RegularizedTrainer
from mmpo.trainers.sharding import whole_trained_weights


class AdapterTrainer(RegularizedTrainer):
    """Saves and loads plain peft adapters: `PeftModel.from_pretrained` and `load_vlm(adapter=)` open them."""

    moving: MovingReference | None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter. Every process calls this, for where weights are sharded each holds a part."""
        weights = whole_trained_weights(self.scorer)
        if self.args.should_save:
            save_adapter(self._adapter_model(), Path(output_dir or self.checkpoint_root), weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # As `Trainer` does it, but for a copy of the whole model in every checkpoint.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")  # type: ignore[union-attr]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_adapter(self._adapter_model(), Path(resume_from_checkpoint))
        if self.moving is not None:
            self.moving.load(Path(resume_from_checkpoint))

    def _adapter_model(self) -> PeftModel:
        model: Any = self.scorer.model
        if not isinstance(model, PeftModel):
            raise UserError("the scorer's model has no adapter to train", hint="use mmpo.trainers.lora.add_lora first")
        return model
