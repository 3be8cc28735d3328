"""Keys and quotas on disk: SQLite by default, PostgreSQL by URL. Knows neither HTTP nor Ray.

credentials.py  a key's secret: made, hashed, verified; the pepper
database.py     where it lies: tables, schema version, and errors that say what to do
key_store.py    keys: add, list, change, revoke, rotate
ledger.py       what is leased and spent of each key's quota, committed before it is answered
ledger_owner.py which process the ledger is, and that a second service is refused
ledger_rows.py  the ledger's state as rows
usage.py        what was served, by day, key, tier and model
commands.py     the options of `tierserve keys`
key_commands.py what they do
"""
