"""Fault campaigns: what dies, when, and what is lost by it. `run.py` says how to start them.

Each module injects one kind of fault into real runs and hands back a `tally.Tally`; `world` has the runs, `s3_proxy`
the proxy before the S3 server. The operator's campaign has a stage of its own: `operator_stage`, `operator_cases`,
`operator_faults`.
"""
