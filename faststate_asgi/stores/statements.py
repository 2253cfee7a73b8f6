"""The package's own tables, and the SQL on them in the two dialects. Nothing here connects to anything."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    bindparam,
    text,
)

COMMIT_IDS_S = 600.0
CHANGES_S = 60.0
PURGE_LOCK = 4_660_046_610_375_530_309
"""A number that no other program locks."""
LEASES_S = 86400.0

metadata = MetaData()
"""The tables of the package."""

_state = Table(
    "faststate_state",
    metadata,
    Column("key", String(2048), primary_key=True),
    Column("session_id", String(256), index=True),
    Column("version", String(64), nullable=False),
    Column("data", Text, nullable=False),
    Column("shape", String(64), nullable=False),
    Column("expires_at", Double, index=True),
)
_lease = Table(
    "faststate_lease",
    metadata,
    Column("key", String(2048), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
)
_answer = Table(
    "faststate_answer",
    metadata,
    Column("name", String(512), primary_key=True),
    Column("owner", String(256), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary),
    Column("expires_at", Double, nullable=False, index=True),
    Index("faststate_answer_owner", "owner", "expires_at"),
)
_record = Table(
    "faststate_record",
    metadata,
    Column("name", String(512), primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)
_row = Table(
    "faststate_row",
    metadata,
    Column("key", String(2048), primary_key=True),
    Column("version", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)
_commit = Table(
    "faststate_commit",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", Double, nullable=False, index=True),
)
_change = Table(
    "faststate_change",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("origin", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("at", Double, nullable=False, index=True),
    sqlite_autoincrement=True,
)


class Statements:
    """The SQL of one dialect; the clock is the database's own."""

    def __init__(self, now: str) -> None:
        def sql(template: str) -> TextClause:
            return text(template.replace("NOW", now))

        def of_many(template: str, name: str) -> TextClause:
            return sql(template).bindparams(bindparam(name, expanding=True))

        alive = "(expires_at IS NULL OR expires_at > NOW)"
        # SQLite takes any bytes as text: bytes that are none must fail where their state is loaded, not all that is read.
        data = "data" if "epoch" in now else "CAST(data AS BLOB)"
        self.read = of_many(
            f"SELECT key, version, {data}, shape FROM faststate_state WHERE key IN :keys AND {alive}",
            "keys",
        )
        self.take = sql(
            "INSERT INTO faststate_lease (key, fence, holder, expires_at) VALUES (:key, 1, :holder, NOW + :lease_s) "
            "ON CONFLICT (key) DO UPDATE SET fence = faststate_lease.fence + 1, holder = excluded.holder, "
            "expires_at = excluded.expires_at "
            "WHERE faststate_lease.expires_at <= NOW OR faststate_lease.holder = excluded.holder RETURNING fence"
        )
        # The holder's name is random and new each time; each key of a lease has a fence of its own.
        held = "WHERE key = :key AND holder = :holder RETURNING key"
        self.renew = sql(f"UPDATE faststate_lease SET expires_at = NOW + :lease_s {held}")
        self.release = sql(f"UPDATE faststate_lease SET holder = '', expires_at = 0 {held}")
        self.begin_commit = sql(
            "INSERT INTO faststate_commit (id, at) VALUES (:id, NOW) ON CONFLICT (id) DO NOTHING RETURNING id"
        )
        ttl = "CASE WHEN :ttl_s IS NULL THEN NULL ELSE NOW + :ttl_s END".replace(":ttl_s", "CAST(:ttl_s AS REAL)")
        if "epoch" in now:
            ttl = ttl.replace("REAL", "double precision")
        self.insert = sql(
            "INSERT INTO faststate_state (key, session_id, version, data, shape, expires_at) "
            f"VALUES (:key, :session_id, :version, :data, :shape, {ttl}) "
            "ON CONFLICT (key) DO UPDATE SET version = excluded.version, data = excluded.data, "
            "shape = excluded.shape, expires_at = excluded.expires_at "
            "WHERE faststate_state.expires_at IS NOT NULL AND faststate_state.expires_at <= NOW RETURNING key"
        )
        self.update = sql(
            f"UPDATE faststate_state SET version = :version, data = :data, shape = :shape, expires_at = {ttl} "
            "WHERE key = :key AND version = :before RETURNING key"
        )
        self.is_sqlite = "epoch" not in now
        self.marks = of_many("SELECT key, version, digest FROM faststate_row WHERE key IN :keys", "keys")
        self.put_mark = sql(
            "INSERT INTO faststate_row (key, version, digest) VALUES (:key, :version, :digest) "
            "ON CONFLICT (key) DO UPDATE SET version = excluded.version, digest = excluded.digest"
        )
        self.drop_mark = sql("DELETE FROM faststate_row WHERE key = :key")
        self.delete = sql("DELETE FROM faststate_state WHERE key = :key AND version = :before RETURNING key")
        self.touch = sql("UPDATE faststate_state SET expires_at = NOW + :ttl_s WHERE key = :key AND expires_at > NOW")
        self.session = sql("SELECT key, version FROM faststate_state WHERE session_id = :session_id")
        self.count = sql(
            f"SELECT (SELECT count(*) FROM faststate_state WHERE {alive}) + (SELECT count(*) FROM faststate_row)"
        )
        self.recall = of_many(
            "SELECT name, digest, status, headers, body FROM faststate_answer WHERE name IN :names AND expires_at > NOW",
            "names",
        )
        self.keep = sql(
            "INSERT INTO faststate_answer (name, owner, digest, status, headers, body, expires_at) "
            "VALUES (:name, :owner, :digest, :status, :headers, :body, NOW + :ttl_s) ON CONFLICT (name) DO UPDATE SET "
            "owner = excluded.owner, digest = excluded.digest, status = excluded.status, headers = excluded.headers, "
            "body = excluded.body, expires_at = excluded.expires_at"
        )
        self.trim = sql(
            "DELETE FROM faststate_answer WHERE name IN (SELECT name FROM faststate_answer WHERE owner = :owner "
            "ORDER BY expires_at DESC LIMIT 1000000 OFFSET :keep)"
        )
        self.records = of_many(
            "SELECT name, value FROM faststate_record WHERE name IN :names AND expires_at > NOW", "names"
        )
        self.put_record = sql(
            "INSERT INTO faststate_record (name, value, expires_at) VALUES (:name, :value, NOW + :ttl_s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
        )
        self.drop_record = sql("DELETE FROM faststate_record WHERE name = :name")
        self.log_change = sql("INSERT INTO faststate_change (origin, message, at) VALUES (:origin, :message, NOW)")
        self.notify = sql("SELECT pg_notify(:channel, :message)")
        # SQLite has one writer anyway.
        self.purge_lock = None if self.is_sqlite else sql(f"SELECT pg_try_advisory_xact_lock({PURGE_LOCK})")
        self.purge = [
            # The age is asked twice: a row that was written again meanwhile is looked at again by the outer condition only.
            sql(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} "
                f"WHERE {column} <= NOW - {age_s} LIMIT :limit) AND {column} <= NOW - {age_s}"
            )
            for table, key, column, age_s in (
                ("faststate_state", "key", "expires_at", 0),
                ("faststate_answer", "name", "expires_at", 0),
                ("faststate_record", "name", "expires_at", 0),
                ("faststate_commit", "id", "at", COMMIT_IDS_S),
                ("faststate_change", "id", "at", CHANGES_S),
                ("faststate_lease", "key", "expires_at", LEASES_S),
            )
        ]


SQLITE = Statements("((julianday('now') - 2440587.5) * 86400.0)")
POSTGRES = Statements("CAST(extract(epoch from clock_timestamp()) AS double precision)")
