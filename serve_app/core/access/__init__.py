"""Who may use the tiers, and how much of them: keys, quotas, and what replicas lease of a quota.

access_key.py     a key's name, tiers, weight, priority, limits
lease.py          what a replica and the ledger say to each other
token_bucket.py   a limit per minute that refills continuously
quota.py          one key's buckets and day: what may be leased, refused, and what is left
key_lease.py      one key's lease at a replica, and what of it is prepaid
lease_book.py     a replica's leases: reserve, settle, ask, report
replica_account.py what the ledger knows of one replica's leases
ledger_state.py   the ledger's decisions over all keys and replicas
"""
