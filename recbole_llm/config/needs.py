"""What RecBole's built-in models need in order to just run, and what of them cannot."""

from collections.abc import Mapping
from typing import Any

from recbole_llm.errors import ConfigError
from recbole_llm.registry import default_protocol, resolve_model

# models that RecBole trains in several runs, each of which starts from the file of the one before
_STAGE_BY_STAGE = {"S3Rec", "RaCT"}
# read side information of the items by these settings
_ITEM_COLUMN_KEYS = ("selected_features", "item_attribute")
# never look at a sampled negative: with sampling on, their pointwise rows would take negatives for purchases
_NO_NEGATIVES = {
    "CDAE", "DiffRec", "ENMF", "LDiffRec", "MacridVAE", "MultiDAE", "MultiVAE", "NCEPLRec", "RaCT", "RecVAE",
}  # fmt: skip


def required_settings(model_class: type, dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without which a built-in model of RecBole does not run or silently trains on the wrong rows.

    They are RecBole's quick_start_config files, less what the protocol decides here, plus what its documentation leaves
    to the user (no negative sampling under cross-entropy, columns of ml-100k for the models with side information).

    Args:
        model_class: a class from `resolve_model`.
        dataset: name of the dataset; ml-100k has columns that others lack.
        settings: everything else merged, for the keys that decide (``loss_type``, ``selected_features``, ...).

    Returns:
        Top-level settings for the layer between RecBole's model YAML and ours; the user's own still override them.
    """
    name, family = model_class.__name__, model_class.type.name
    needs: dict[str, Any] = {"protocol": default_protocol(model_class)}
    if family == "SEQUENTIAL":
        needs["repeatable"] = True
        # RecBole demands it only where the class has no input_type; RepeatNet and SINE would train on the negatives
        if settings.get("loss_type") in ("CE", "NLL"):
            needs["train_neg_sample_args"] = None
        columns = [column for key in _ITEM_COLUMN_KEYS for column in _as_list(settings.get(key))]
        if columns:
            needs["load_col"] = {"item": [settings["ITEM_ID_FIELD"], *columns]}
        if name in ("DIN", "DIEN") and dataset == "ml-100k":
            needs["load_col"] = {
                "user": ["user_id", "age", "gender", "occupation"],
                "item": ["item_id", "release_year"],
            }
        if name in ("GRU4RecKG", "KSR"):
            needs |= {"load_col": {"ent": ["ent_id", "ent_emb"]}, "additional_feat_suffix": ["ent"]}
    elif family in ("CONTEXT", "DECISIONTREE"):
        needs["train_neg_sample_args"] = None
        if dataset == "ml-100k":
            needs["threshold"] = {"rating": 4}
            needs["load_col"] = {
                "user": ["user_id", "age", "gender", "occupation"],
                "item": ["item_id", "release_year", "class"],
            }
    elif family == "KNOWLEDGE":
        needs["load_col"] = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
        needs |= {"kg_reverse_r": False, "entity_kg_num_interval": "[0,inf)", "relation_kg_num_interval": "[0,inf)"}
    elif family == "TRADITIONAL" or name in _NO_NEGATIVES:
        needs["train_neg_sample_args"] = None
    if name == "NCL":
        needs["num_clusters"] = 100  # RecBole's 1000 exceeds the 943 users of ml-100k
    return needs


def check_runnable(model_class: type, settings: Mapping[str, Any]) -> None:
    """Refuse configurations of built-in models that could only fail late.

    Raises:
        ConfigError: for a fine-tuning stage without the file of the stage before it, or fast_graph of a model that has
            none.
    """
    name = model_class.__name__
    if settings.get("fast_graph"):
        resolve_model(name, fast_graph=True)
        if name == "SGL" and settings.get("type") == "RW":
            raise ConfigError(
                "fast_graph serves SGL with one graph a view: set type to ED or ND, or fast_graph to false"
            )
    if name in _STAGE_BY_STAGE and settings.get("train_stage") == "finetune" and not settings.get("pre_model_path"):
        raise ConfigError(f"{name} with train_stage 'finetune' starts from a pretrained file: set pre_model_path")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
