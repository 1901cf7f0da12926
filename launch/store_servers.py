"""Which parameter servers hold which image store: `--store_servers=user_images:0,ad_images:1`."""

from __future__ import annotations

from collections.abc import Sequence

from amstf.config import AmsConfig
from amstf.errors import ConfigError


def servers_of(settings: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Reads the servers of image stores.

    Args:
        settings: Each "store:index"; a store that several servers hold stands several times.

    Returns:
        Store -> indices of its servers.

    Raises:
        ConfigError: If one is of another form, or a store has a server twice.

    Example:
        >>> servers_of(["user_images:0", "ad_images:1", "ad_images:2"])
        {'user_images': (0,), 'ad_images': (1, 2)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for setting in settings:
        store, _, index = setting.rpartition(":") if isinstance(setting, str) else ("", "", "")
        if not store or not index.isdecimal() or not index.isascii() or len(index) > 4:
            raise ConfigError(
                f"store_servers has {setting!r}; wanted STORE:SERVER, the name of an image store "
                "and the index of a parameter server, such as ad_images:1"
            )
        found[store] = (*found.get(store, ()), int(index))
    for store, indices in found.items():
        try:
            AmsConfig(image_servers=indices)
        except ConfigError as error:
            raise ConfigError(f"store_servers, {store!r}: {error}") from None
    return found


def check_are_in_cluster(settings: Sequence[str], num_servers: int) -> None:
    """Raises ConfigError if a cluster of so many parameter servers lacks one that is named."""
    for store, indices in servers_of(settings).items():
        if max(indices) >= num_servers:
            raise ConfigError(
                f"--store_servers has {store}:{max(indices)}, and the cluster has {num_servers} "
                f"parameter servers, 0 to {num_servers - 1}; start more, or leave it empty "
                "(--store_servers=) for all to hold each store"
            )
