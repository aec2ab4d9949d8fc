"""Run one configuration and keep its record; compare, ablate, tune and report are built on it."""

from recbole_llm.experiment.record import RunResult
from recbole_llm.experiment.run import load, load_results, run

__all__ = ["RunResult", "load", "load_results", "run"]
