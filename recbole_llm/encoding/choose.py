"""From options to an encoder."""

from dataclasses import dataclass

from recbole_llm.encoding.encoder import Encoder
from recbole_llm.encoding.find import DEFAULT_ENCODER, find_model
from recbole_llm.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What to encode with.

    Attributes:
        encoder: packaged, folder, hub name, or an endpoint's model. api_base: the endpoint's address; "": none.
        dimensions, requests: see ``EndpointEncoder``. download: whether a hub model may be fetched.
        allow_upload: whether texts about users may leave this machine.
    """

    encoder: str = DEFAULT_ENCODER
    api_base: str = ""
    dimensions: int | None = None
    requests: int = 4
    download: bool = False
    allow_upload: bool = False


def make_encoder(options: Options, kind: str, about_users: bool) -> Encoder:
    """The encoder of some options.

    Args:
        kind: "text" or "image".
        about_users: whether the contents say something of people.
    Raises:
        ConfigError: for options that do not go together, or a model that is not there.
        MissingDependencyError: naming the extra to install.
    """
    if options.requests < 1:
        raise ConfigError(f"--requests must be at least 1, not {options.requests}")
    if options.api_base:
        from recbole_llm.encoding.endpoint import EndpointEncoder

        if kind == "image":
            raise ConfigError("an endpoint takes texts; encode images with a CLIP model on this machine (--encoder)")
        encoder = EndpointEncoder(
            options.encoder, options.api_base, dimensions=options.dimensions, requests=options.requests
        )
        if encoder.uploads and about_users and not options.allow_upload:
            raise ConfigError(
                f"these texts are about users, and {options.api_base} is not on this machine; say --allow-upload if "
                "they may go there"
            )
        return encoder
    if options.dimensions is not None:
        raise ConfigError("--dimensions is for endpoints; name one with --api-base")
    from recbole_llm.encoding.models import ClipEncoder, SentenceEncoder

    model = find_model(options.encoder, options.download)
    if model.is_clip:
        return ClipEncoder(model, kind)
    if kind == "image":
        raise ConfigError(f"encoder '{options.encoder}' reads no images; name a CLIP model or its folder")
    return SentenceEncoder(model)
