"""The knobs of the model servers, in one frozen dataclass."""

from __future__ import annotations

import dataclasses

from amstf.errors import ConfigError

SERVERS = "servers"
WORKERS = "workers"


@dataclasses.dataclass(frozen=True)
class AmsConfig:
    """How a cluster embeds images.

    Attributes:
        placement: Where the embedding model E runs. "servers": on the servers that hold the images;
            only embeddings and their gradients cross (AMS, arXiv 1711.06505 section 4). "workers":
            raw features are pulled to the worker that asks (the paper's store-in-server, for
            comparison).
        image_servers: Indices of the parameter servers that hold images; None means all of them.

    Raises:
        ConfigError: If a value makes no sense.

    Example:
        >>> AmsConfig(image_servers=(0, 2)).placement
        'servers'
    """

    placement: str = SERVERS
    image_servers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.placement not in (SERVERS, WORKERS):
            raise ConfigError(f"placement is {self.placement!r}; use {SERVERS!r} or {WORKERS!r}")
        if self.image_servers is not None:
            servers = tuple(self.image_servers)
            object.__setattr__(self, "image_servers", servers)
            if not servers or len(set(servers)) != len(servers) or min(servers) < 0:
                raise ConfigError(
                    f"image_servers is {servers}; name at least one parameter server, each once, "
                    "by its index from 0"
                )
