"""Errors a user can mend: each message says what, where and the way out.

The command line prints ``str(error)`` and exits with code 2; a traceback is shown only with ``--debug``.
"""


class RecBoleLLMError(Exception):
    """Base class of every error whose cause lies in what the user gave."""


class ConfigError(RecBoleLLMError):
    """An unknown key, a value of the wrong type or range, or settings that contradict each other."""


class DataError(RecBoleLLMError):
    """A dataset, an atomic file or one of its columns is missing or malformed."""


class FeatureError(RecBoleLLMError):
    """A feature file is missing, corrupted, truncated or does not fit the dataset."""


class MissingFeatureError(FeatureError):
    """Tokens of the dataset have no row in the feature file and the policy is ``missing: error``."""


class CheckpointError(RecBoleLLMError):
    """A checkpoint is missing, truncated or belongs to another model, split or feature table."""


class SplitMismatchError(DataError):
    """Something made from the training rows of one split is used under another, where it may know held-out rows."""


class MissingDependencyError(RecBoleLLMError):
    """A package that this command needs is not installed; the message names the pip command."""


class TrainingError(RecBoleLLMError):
    """Training cannot go on, for example because a loss or a gradient is not finite."""
