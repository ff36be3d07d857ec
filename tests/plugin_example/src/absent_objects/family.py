"""ViP-LLaVA, which transformers has and mmpo knows nothing of: with a record its pairs share their beginnings."""

from mmpo.models.families.records import FAMILIES, Family

VIPLLAVA = Family("ViP-LLaVA", "vipllava", features="tensor")

FAMILIES.add(VIPLLAVA.model_type, VIPLLAVA)
