"""The schema as a document, read from the database's own catalogue: docs/schema.md. A test keeps the two equal.

``python -m tools.migrate.describe`` writes it for DATABASE_URL.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from event_core.settings import PostgresSettings, load

DOCUMENT = Path(__file__).parents[2] / "docs" / "schema.md"

_TABLES = """
    select c.oid, n.nspname, c.relname, obj_description(c.oid), pg_get_partkeydef(c.oid), d.relname, obj_description(d.oid)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    left join pg_partitioned_table p on p.partrelid = c.oid
    left join pg_class d on d.oid = p.partdefid
    where c.relkind in ('r', 'p') and not c.relispartition and n.nspname = 'public' and c.relname <> 'alembic_version'
    order by c.relname
"""
_COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           coalesce(pg_get_expr(d.adbin, d.adrelid), ''), coalesce(col_description(a.attrelid, a.attnum), '')
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""
_INDEXES = """
    select replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') -- each partition has its part of them
    from pg_index where indrelid = %s order by not indisprimary, 1
"""

_VIEWS = """
    select c.oid, c.relname, coalesce(obj_description(c.oid), '')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'v' and n.nspname = 'analytics'
    order by c.relname
"""
_FUNCTIONS = """
    select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), coalesce(obj_description(p.oid), '')
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'analytics'
    order by p.proname, 2
"""

_HEAD = """# Schema

What the migrations in `event_core/sql/migrations/` make of an empty database, read from the database's own catalogue
(`make schema-docs` writes this file; `tests/migration/` keeps it true). Times are `timestamptz` in UTC.
"""


_ANALYTICS = """
## Views of analytics

What may be asked: the role `analytics_reader` reads these and the functions below, and nothing else. The API runs nothing
else either.
"""


def describe_schema(url: str) -> str:
    """The document for the database at ``url``."""
    parts = [_HEAD]
    with psycopg.connect(url) as connection:
        for oid, schema, table, comment, key, default, about_default in connection.execute(_TABLES).fetchall():
            parts.append(f"\n## {schema}.{table}\n\n{comment or ''}\n")
            if key:  # its partitions come and go, and have the same columns
                parts.append(f"\nPartitioned by `{key}`. The default partition is `{default}`: {about_default}\n")
            parts.append("\n| column | type | null | default | meaning |\n|---|---|---|---|---|\n")
            for name, kind, required, default, meaning in connection.execute(_COLUMNS, [oid]).fetchall():
                shown = f"`{default}`" if default else ""
                parts.append(f"| {name} | {kind} | {'no' if required else 'yes'} | {shown} | {meaning} |\n")
            parts.append("\n```sql\n")
            parts.extend(f"{definition};\n" for (definition,) in connection.execute(_INDEXES, [oid]).fetchall())
            parts.append("```\n")
        parts.append(_ANALYTICS)
        for oid, view, comment in connection.execute(_VIEWS).fetchall():
            parts.append(f"\n### analytics.{view}\n\n{comment}\n\n| column | type | meaning |\n|---|---|---|\n")
            for name, kind, _, _, meaning in connection.execute(_COLUMNS, [oid]).fetchall():
                parts.append(f"| {name} | {kind} | {meaning} |\n")
        parts.append("\n## Functions of analytics\n")
        for name, arguments, result, comment in connection.execute(_FUNCTIONS).fetchall():
            parts.append(f"\n- `analytics.{name}({arguments})` → `{result}`  \n  {comment}\n")
    return "".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(describe_schema(load(PostgresSettings).database_url), encoding="utf-8")
    print(f"{DOCUMENT.name} written")
