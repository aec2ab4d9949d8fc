"""UR4RecMoE: a hierarchical mixture-of-experts retriever over an all-position SASRec backbone."""

from recbole_llm.model.sequential.ur4rec_moe.model import UR4RecMoE

__all__ = ["UR4RecMoE"]
