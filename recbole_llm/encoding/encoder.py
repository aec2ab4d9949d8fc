"""What an encoder is: contents in, rows out, and an identity that says what the rows depend on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Content = str | Path  # a text, or the file of an image


class Encoder(ABC):
    """Encodes texts or images.

    Attributes:
        identity: encoder, revision, pooling, preprocessing: all that a row depends on beside its content. Known
            without loading the model, so that a run with nothing to encode takes no time.
        requests: batches that may be under way at once; 1 for a model on this machine.
        uploads: whether contents leave this machine.
    """

    identity: dict[str, str]
    requests: int = 1
    uploads: bool = False

    @abstractmethod
    def encode(self, contents: Sequence[Content]) -> np.ndarray:
        """One row a content. [n, F] float32.

        Raises:
            RecBoleLLMError: when the model cannot be loaded, or does not answer.
        """

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of some texts, as the encoder cuts them; a rule of thumb, four characters each, where it cannot."""
        return sum(-(-len(text) // 4) for text in texts)
