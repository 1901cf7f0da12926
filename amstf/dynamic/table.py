"""A dynamic table as a program sees it: which server has which id. Why so: docs/design."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from amstf import compat, ops
from amstf.dynamic.options import Admission, TableLimit, TableOptions
from amstf.errors import ConfigError
from amstf.store import NUM_BUCKETS
from amstf.strategy import AdvancedModelServerStrategy

_PAGE_BYTES = 64 << 20  # Large for a disk, small beside what a server has.
_LOCAL = "CPU:0"
# 2^64 divided by the golden ratio, as a signed number.
_MULTIPLIER = -7046029254386353131
_SHIFT = 40

# By the unique id of an anchor.
_tables: weakref.WeakValueDictionary[str, DynamicTable] = weakref.WeakValueDictionary()


def bucket_of(ids: Any) -> Any:
    """Returns the bucket of each id, 0 to 1,023; for numpy arrays and tensors of int64.

    Not the low bits, as for images: ids of other systems may have all the same ones.

    Example:
        >>> bucket_of(tf.constant([0, 1024, -1], tf.int64)).numpy().tolist()
        [0, 741, 134]
    """
    ids = tf.cast(ids, tf.int64)
    hashed = ids * tf.constant(_MULTIPLIER, tf.int64)
    shifted = tf.bitwise.right_shift(hashed, tf.constant(_SHIFT, tf.int64))
    return tf.bitwise.bitwise_and(shifted, tf.constant(NUM_BUCKETS - 1, tf.int64))


def table_of(anchor: tf.Variable) -> DynamicTable | None:
    """Returns the table whose anchor a variable is; None for an ordinary variable."""
    return _tables.get(compat.unique_id(anchor))


@dataclasses.dataclass(frozen=True)
class SavedState:
    """How far a table was when a checkpoint was written.

    Attributes:
        generation: Changes when the table is cleared: the next checkpoint must then be a full one.
        clocks: Of each server.
        evicted: Rows that had died on each.
        token: In the checkpoint; another one of the same name has another.
        checkpoint: Name of the checkpoint.
    """

    generation: int
    clocks: tuple[int, ...]
    evicted: tuple[int, ...]
    token: str
    checkpoint: str = ""

    @classmethod
    def of(cls, table: DynamicTable) -> SavedState:
        """Returns how far a table is now."""
        counters = table.counters_by_server()
        clocks, evicted = (
            tuple(each[name] for each in counters) for name in ("clock", "rows_evicted")
        )
        return cls(table.generation, clocks, evicted, uuid.uuid4().hex)

    def has_deaths(self, counters: Sequence[Mapping[str, int]]) -> bool:
        """Whether rows have died since."""
        return self.evicted != tuple(each["rows_evicted"] for each in counters)


class DynamicTable(compat.Trackable):
    """Rows that are born as their ids appear, on the servers or in this process.

    Where they are is decided by the strategy in whose scope the table is made: on the parameter
    servers under a ParameterServerStrategy, each id on the server of its bucket; in this process
    without one. `tf.train.Checkpoint` saves and restores it, with any number of servers.

    Args:
        options: How rows begin, which ids get one, how many there may be.
        servers: Indices of the parameter servers that hold rows; None means all of them.

    Raises:
        ConfigError: If the cluster lacks one of the servers.

    Example:
        >>> from amstf.dynamic import TableOptions
        >>> table = DynamicTable(TableOptions(width=2, initializer="ones"))
        >>> table.lookup(tf.constant([7, 9, 7], tf.int64), training=True).numpy().tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
        >>> table.counters()["rows"]
        2
    """

    def __init__(self, options: TableOptions, servers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.options = options
        self._devices = _devices(servers)
        self.generation = 0
        # While IncrementalCheckpoints writes one: what it is of, and what it adds to.
        self.saving: SavedState | None = None
        self.base: SavedState | None = None
        self.restores_slots = True
        self._name = self._new_name()

    def _new_name(self) -> str:
        # Another program's table is another one, also if it has the same servers.
        name = f"amstf_dynamic_{uuid.uuid4().hex[:16]}"
        if self.is_local:
            # A process may make many; servers end with their program.
            end = weakref.finalize(self, _destroy, name, self.options.attributes(), _LOCAL)
            end.atexit = False
        return name

    @property
    def num_servers(self) -> int:
        """Servers that hold rows; 1 without a cluster."""
        return len(self._devices)

    @property
    def is_local(self) -> bool:
        """Whether the rows are in this process."""
        return self._devices == (_LOCAL,)

    @contextlib.contextmanager
    def on_server(self, server: int) -> Iterator[tf.Tensor]:
        """Puts what is done in the block on a server; gives the handle of its part of the table."""
        with tf.device(self._devices[server]):
            yield ops.dynamic_table(**self.options.attributes(), shared_name=self._name)

    def own(self, anchor: tf.Variable) -> None:
        """Makes a variable the anchor of the table: gradients for it update rows."""
        _tables[compat.unique_id(anchor)] = self

    def follow(self, other: DynamicTable) -> None:
        """Makes this table another one: from now on both read and change the same rows.

        For a copy of a model in this process that predicts with the rows of the one on servers.

        Raises:
            ConfigError: If its rows have another width.
        """
        if self.options.width != other.options.width:
            raise ConfigError(
                f"a table of width {self.options.width} cannot follow one of width "
                f"{other.options.width}"
            )
        self.options, self._devices, self._name = other.options, other._devices, other._name

    def limit_to(self, limit: TableLimit) -> None:
        """Gives each server's part another limit than that of the options; while there are no rows.

        Raises:
            ConfigError: If the table has rows.
        """
        self._choose(limit=limit)

    def admit_by(self, admission: Admission) -> None:
        """Admits ids by other rules than those of the options; while there are no rows.

        Raises:
            ConfigError: If the table has rows.
        """
        self._choose(admission=admission)

    def _choose(self, **options: Any) -> None:
        if rows := self.counters()["rows"]:
            raise ConfigError(
                f"the table has {rows:,} rows; choose its {', '.join(options)} before it gets some"
            )
        self.generation += 1
        name, attributes = self._name, self.options.attributes()
        # They are attributes of the op that makes a server's part.
        self.options = dataclasses.replace(self.options, **options)
        self._name = self._new_name()
        for device in self._devices:
            _destroy(name, attributes, device)

    def lookup(self, ids: tf.Tensor, training: Any, sights: tf.Tensor | None = None) -> tf.Tensor:
        """Looks up the rows of ids; in training it sees the ids and admits them.

        Args:
            ids: int64 [n]; each should come once, since each crosses to its server.
            training: Whether ids are seen, bool scalar.
            sights: How often each occurs in the batch, int32 [n]; by default once.

        Returns:
            Rows, float32 [n, D].
        """
        if self.num_servers == 1:
            with self.on_server(0) as table:
                return ops.dynamic_lookup(table, ids, training, sights)
        sights = tf.ones_like(ids, tf.int32) if sights is None else sights
        owners = self._owners(ids)
        rows = []
        for server, (part, part_sights) in enumerate(self._split(owners, ids, sights)):
            with self.on_server(server) as table:
                rows.append(ops.dynamic_lookup(table, part, training, part_sights))
        positions = tf.dynamic_partition(tf.range(tf.size(ids)), owners, self.num_servers)
        stitched = tf.dynamic_stitch(positions, rows)
        return tf.ensure_shape(
            tf.reshape(stitched, [-1, self.options.width]), [None, self.options.width]
        )

    def apply(
        self,
        gradient: tf.IndexedSlices,
        rule: str,
        settings: Sequence[Any],
        step: Any,
    ) -> None:
        """Updates rows with one step of an optimizer; see `amstf.ops.dynamic_apply`.

        Args:
            gradient: Values float32 [n, D] and ids int64 [n].
            rule: The optimizer.
            settings: Its settings, scalars.
            step: Number of the step, from 1.
        """
        # An optimizer updates a variable where it is; the rows are elsewhere.
        with compat.outside_colocation(), tf.device(None):
            step = tf.cast(step, tf.int64)
            settings = [tf.cast(value, tf.float32) for value in settings]
            ids = tf.cast(gradient.indices, tf.int64)
            for server, (part, values) in enumerate(
                self._split(self._owners(ids), ids, gradient.values)
            ):
                with self.on_server(server) as table:
                    ops.dynamic_apply(table, part, values, rule, settings, step)

    def counters(self) -> dict[str, int]:
        """Sums over the servers; names in `amstf.ops.DYNAMIC_COUNTER_NAMES`."""
        per_server = self.counters_by_server()
        return {name: sum(one[name] for one in per_server) for name in per_server[0]}

    def counters_by_server(self) -> list[dict[str, int]]:
        """Reads what each server holds and has done."""
        values = [ops.dynamic_counters(table).numpy() for _, table in self._tables()]
        names = ops.DYNAMIC_COUNTER_NAMES
        return [dict(zip(names, map(int, value), strict=True)) for value in values]

    def evict(self, policy: str, limit: float) -> int:
        """Removes rows.

        Args:
            policy: "unseen_steps": rows that were in none of the last `limit` training lookups of
                their server. "unseen_since": not seen since second `limit` of 1970. "small_norm":
                rows whose L2 norm is below `limit`. "least_recent", "least_frequent": those seen
                longest ago, or least often, until each server has at most `limit` rows.
            limit: See there.

        Returns:
            How many rows were removed.

        Raises:
            ConfigError: If there is no such policy, or the limit is negative.

        Example:
            >>> from amstf.dynamic import TableOptions
            >>> table = DynamicTable(TableOptions(width=2, initializer="ones"))
            >>> _ = table.lookup(tf.constant([7, 9], tf.int64), training=True)
            >>> table.evict("small_norm", 1.5)
            2
        """
        if policy not in ops.EVICTION_POLICIES:
            raise ConfigError(f"policy is {policy!r}; use {', '.join(ops.EVICTION_POLICIES)}")
        if not limit >= 0:
            raise ConfigError(f"limit is {limit!r}; wanted 0 or more")
        return sum(
            int(ops.dynamic_evict(table, policy, limit).numpy()) for _, table in self._tables()
        )

    @contextlib.contextmanager
    def without_slots(self) -> Iterator[None]:
        """Lets checkpoints that are restored in the block give rows their weights alone.

        The first update makes the optimizer's slots, as for rows that were just born.
        """
        self.restores_slots = False
        try:
            yield
        finally:
            self.restores_slots = True

    def clear(self, clock: int = 0) -> None:
        """Forgets all rows, and which optimizer they had; sets the clock of each server."""
        self.generation += 1
        for _, table in self._tables():
            ops.dynamic_clear(table, clock)

    def pages(self) -> Iterator[tuple[int, ops.DynamicRows]]:
        """Copies all rows, in parts of about 64 MiB, each with the index of its server.

        A part is on its server when it is given: `.numpy()` brings it here.
        """
        for server, table in self._tables():
            size = int(ops.dynamic_counters(table)[1].numpy())
            pages = min(ops.MAX_PAGES, 1 + size // _PAGE_BYTES)
            for page in range(pages):
                with tf.device(self._devices[server]):
                    rows = ops.dynamic_export(table, page, pages)
                yield server, rows

    def take(self, server: int, rows: ops.DynamicRows) -> None:
        """Takes those of some rows that belong to a server, in place of its own of the same ids.

        Call it with rows that are on that server, and none of them crosses.
        """
        with self.on_server(server) as table:
            mine = self.owns(server, rows.ids)
            ids, values, seen = (tf.boolean_mask(part, mine) for part in rows[:3])
            ops.dynamic_import(table, rows._replace(ids=ids, values=values, seen=seen))

    def owns(self, server: int, ids: tf.Tensor) -> tf.Tensor:
        """Which of some ids [n] belong to a server, bool [n]."""
        return tf.equal(self._owners(ids), server)

    def _tables(self) -> Iterator[tuple[int, tf.Tensor]]:
        for server in range(self.num_servers):
            with self.on_server(server) as table:
                yield server, table

    def _owners(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(bucket_of(ids) % self.num_servers, tf.int32)

    def _split(self, owners: tf.Tensor, *tensors: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
        """For each server, the parts of tensors [n, ...] whose owner it is."""
        if self.num_servers == 1:
            return [tensors]
        parts = [tf.dynamic_partition(tensor, owners, self.num_servers) for tensor in tensors]
        return list(zip(*parts, strict=True))


def _devices(servers: Sequence[int] | None) -> tuple[str, ...]:
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return (_LOCAL,)
    num_servers = compat.num_parameter_servers(strategy)
    if isinstance(strategy, AdvancedModelServerStrategy) and servers is not None:
        servers = strategy.ams.group(servers).indices
    indices = tuple(range(num_servers) if servers is None else servers)
    if not indices or not all(0 <= index < num_servers for index in indices):
        raise ConfigError(
            f"servers is {list(indices)}, but the cluster has parameter servers 0 to "
            f"{num_servers - 1}"
        )
    return tuple(f"/job:ps/replica:0/task:{index}/device:CPU:0" for index in indices)


def _destroy(name: str, attributes: dict[str, Any], device: str) -> None:
    with tf.init_scope(), tf.device(device):
        handle = ops.dynamic_table(**attributes, shared_name=name)
        tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=True)
