"""LLMRec: identities over the training graph, side information of items and users, edges of a language model."""

from recbole_llm.model.general.llmrec.model import LLMRec

__all__ = ["LLMRec"]
