"""From a dataset's aligned features to the whitened facets of UR4RecMoE's experts."""

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import feature_of, joined_features
from recbole_llm.model.layers import whiten

MODALITIES = {"user": "user_facets", "description": "item_facets", "visual": "visual_facets"}


def modalities(config, dataset) -> tuple[dict[str, list[tuple[Tensor, Tensor]]], dict[str, list[str]]]:
    """Whitened facets by modality, one an expert; ``moe: flat`` joins a modality's facets into one expert's.

    Returns:
        {modality: [(features [N, F'] float32, present [N] bool) of each expert]}; {modality: names of its experts}.
    Raises:
        ConfigError: if a facet is not loaded, or facets and experts do not fit together.
    """
    found, expert_names = {}, {}
    for modality, key in MODALITIES.items():
        names = _names(config, modality)
        if not names:
            continue
        parts = [feature_of(dataset, name) for name in names]
        if config["moe"] == "flat":
            parts = [(np.concatenate([x for x, _ in parts], 1), np.any([p for _, p in parts], 0))]
            names = [modality]
        elif config["moe"] != "hierarchical":
            raise ConfigError(f"moe is '{config['moe']}'; choose hierarchical or flat")
        else:
            repeat, rest = divmod(config["num_sub_experts"], len(parts))
            if rest or not repeat:
                raise ConfigError(
                    f"{key} names {len(parts)} facets for num_sub_experts: {config['num_sub_experts']}; "
                    "name one facet for each sub-expert, or a number of facets that divides it"
                )
            # one embedding for several experts: each reads it through its own learned views
            parts = [part for part in parts for _ in range(repeat)]
            if repeat > 1:
                names = [f"{name}_{k + 1}" for name in names for k in range(repeat)]
                if modality == "visual" and len(config["visual_experts"] or []) == len(parts):
                    names = config["visual_experts"]
        found[modality] = [
            (torch.from_numpy(whiten(x, p, config["whiten"], config["facet_dim"])), torch.from_numpy(p))
            for x, p in parts
        ]
        expert_names[modality] = list(names)
    if not set(found) - {"user"}:
        raise ConfigError("UR4RecMoE needs item facets: set item_facets or visual_facets to features of the dataset")
    return found, expert_names


def item_text(config, dataset) -> tuple[Tensor, Tensor]:
    """Whitened concatenation of all facets of all modalities: unit rows [N, F'] float32, and present [N] bool."""
    names = dict.fromkeys(name for modality in MODALITIES for name in _names(config, modality))
    return joined_features(dataset, list(names), "pca", config["item_text_dim"] or 128)


def _names(config, modality: str) -> list[str]:
    off = modality == "visual" and not config["use_clip"]
    return [] if off else config[MODALITIES[modality]] or []
