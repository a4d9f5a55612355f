"""Fault campaigns: what dies, when, and what is lost by it. `run.py` says how to start them.

Each module injects one kind of fault into real runs and hands back a `tally.Tally`; `world` has the runs, `s3_faults`
the proxy before the S3 server.
"""
