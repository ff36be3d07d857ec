"""The demo model's architecture: a LLaVA with 64 image tokens, small enough for two CPU cores and one git commit."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmpo.demo.drawing import SIZE

PATCH = 16
IMAGE_TOKENS = (SIZE // PATCH) ** 2


def demo_config(vocab_size: int, *, image_token_id: int, bos_id: int, eos_id: int, pad_id: int) -> LlavaConfig:
    """CLIP tower 6 x 192, two-layer projector, Llama decoder 5 x 256: about 7 million parameters.

    Features are taken from the tower's last layer (LLaVA-1.5 takes the last but one): at this size no layer can be
    spared.
    """
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        hidden_act="gelu",
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=192,
    )
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token_id,  # type: ignore[call-arg]
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )


def build_demo_model(config: LlavaConfig) -> LlavaForConditionalGeneration:
    """A freshly initialised model of `config`."""
    return LlavaForConditionalGeneration(config)
