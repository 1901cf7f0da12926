"""Tables of ids without a vocabulary in a run: their rules, and what a report says of them."""

from __future__ import annotations

from typing import Any

import tf_keras as keras

from amstf import Admission, TableLimit
from amstf.errors import ConfigError
from amstf.layers import dynamic_embeddings, evict_rows, named_dynamic_embeddings
from launch.dynamic_rules import admission_of, evictions_of
from launch.run_directory import RunConfig

_MIB = 1 << 20
# Bytes of a row besides its floats: what is known of it, its place in the index.
_OVERHEAD = 32
# The weights and Adam's two slots, 4 bytes each.
_BYTES_PER_FLOAT = 12
# A table of 64 shards takes memory in pieces of 32 KiB.
_LEAST = 4 * _MIB


def set_up(model: keras.Model, config: RunConfig) -> None:
    """Gives the tables of a model the admission and the limit of a run.

    Args:
        model: A model whose tables have no rows yet.
        config: The run.

    Raises:
        ConfigError: If the model has no tables for what is asked, or the limit is too low.
    """
    layers = dynamic_embeddings(model)
    asked = [name for name in ("admission", "eviction") if getattr(config, name)]
    if asked and not layers:
        raise ConfigError(
            f"{' and '.join(f'--{name}' for name in asked)} is about tables of dynamic fields, and "
            "the data set has none that the model sees; leave it out, or prepare the data set "
            "with --dynamic"
        )
    if config.admission:
        admission = Admission(**admission_of(config.admission))
        for layer in layers:
            layer.table.admit_by(admission)
    limit(model, config.dynamic_memory)


def evict(model: keras.Model, config: RunConfig) -> int:
    """Removes the rows that die by the rules of a run; returns how many."""
    limits = evictions_of(config.eviction)
    return sum(evict_rows(model, policy, limit) for policy, limit in limits.items())


def limit(model: keras.Model, mebibytes: int) -> None:
    """Limits the memory that the tables of a model may take together on each server.

    Each table may have as many rows as the others, whatever their widths. One that is full gives a
    new id the row of another, not seen for long.

    Args:
        model: A model whose tables have no rows yet.
        mebibytes: The limit in MiB; 0 is none.

    Raises:
        ConfigError: If it is less than the tables need to begin with.
    """
    tables = [layer.table for layer in named_dynamic_embeddings(model).values()]
    if not mebibytes or not tables:
        return
    sizes = [_OVERHEAD + _BYTES_PER_FLOAT * table.options.width for table in tables]
    shares = [mebibytes * _MIB * size // sum(sizes) for size in sizes]
    filters = [table.options.attributes()["filter_bytes"] for table in tables]
    needed = [_LEAST + size for size in filters]
    if any(share < least for share, least in zip(shares, needed, strict=True)):
        least = max(
            -(-need * sum(sizes) // (size * _MIB)) for need, size in zip(needed, sizes, strict=True)
        )
        raise ConfigError(
            f"--dynamic_memory={mebibytes} is too little for {len(tables)} dynamic tables; give "
            f"them {least} MiB or more, or 0 for no limit"
        )
    for table, share in zip(tables, shares, strict=True):
        table.limit_to(TableLimit(bytes=share))


def counters(model: keras.Model) -> dict[str, dict[str, Any]]:
    """Returns name -> the limit in bytes, or None, and what each server counted, for a report."""
    return {
        name: {
            "limit_bytes": layer.options.limit.bytes,
            "servers": layer.table.counters_by_server(),
        }
        for name, layer in named_dynamic_embeddings(model).items()
    }


def sentence(tables: dict[str, dict[str, Any]]) -> str:
    """Returns the counters of all tables in a few words.

    Example:
        >>> server = {"rows": 1200, "bytes": 3_000_000, "ids_refused": 7, "rows_evicted": 0}
        >>> sentence({"table_user": {"servers": [server, server]}})
        'dynamic tables: 2,400 rows in 1 table, 6.0 MB; 0 rows evicted, 14 ids refused'
    """
    each = [server for table in tables.values() for server in table["servers"]]
    rows, size, evicted, refused = (
        sum(server[name] for server in each)
        for name in ("rows", "bytes", "rows_evicted", "ids_refused")
    )
    return (
        f"dynamic tables: {rows:,} rows in {len(tables)} table{'s' if len(tables) > 1 else ''}, "
        f"{size / 1e6:,.1f} MB; {evicted:,} rows evicted, {refused:,} ids refused"
    )
