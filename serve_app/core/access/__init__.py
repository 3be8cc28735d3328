"""Who may use the tiers, and how much of them: keys, quotas, and what replicas lease of a quota.

access_key.py   a key's name, tiers, weight, priority, limits
lease.py        what a replica holds of a key's quota, and what it reports of it
"""
