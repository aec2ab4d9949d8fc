"""EmerGLLMRec: LLMRec with a graph of feature interactions of its own for every item."""

from recbole_llm.model.general.emerg.model import EmerGLLMRec

__all__ = ["EmerGLLMRec"]
