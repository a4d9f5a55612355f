"""From a snapshot to a trained, evaluated and registered model.

Importing this package imports nothing heavy: planning and preparation run without torch.
"""
