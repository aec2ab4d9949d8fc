"""LLMKGNews: articles by identity, text and knowledge graph."""

from recbole_llm.model.sequential.llmkg_news.model import LLMKGNews

__all__ = ["LLMKGNews"]
