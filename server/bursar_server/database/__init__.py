"""The way to Postgres: pool, named queries, schema, migrations.

It owns connections and the shape of the tables. It refuses to know what the rows mean: every
domain keeps the SQL on its own tables in its own `queries.sql`.
"""
