"""What a ContinualRun is: its fields, its validation and its resolution into an immutable snapshot.

Pure thinking on pydantic alone: no Kubernetes client, no torch, no I/O.
"""
