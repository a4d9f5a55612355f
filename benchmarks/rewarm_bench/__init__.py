"""What the benchmarks share: real text on every machine, driving `rewarm run`, effects with intervals.

Scripts put `benchmarks/` on their path; nothing here is part of the product.
"""
