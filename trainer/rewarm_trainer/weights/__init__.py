"""Models made from models, without training: averages, soups, interpolation, instruction residuals.

arithmetic, choice (pure) -> tensors (files, piece by piece) -> fit (do they belong together) -> merge (a folder)
"""
