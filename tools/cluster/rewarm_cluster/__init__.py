"""A real Kubernetes from Go modules and Debian's packages: for tests, benchmarks and for trying Rewarm on one machine.

Standard library only. `python -m rewarm_cluster --help` with tools/cluster on PYTHONPATH, or `make cluster-up`.
"""
