"""Scaling laws of mixtures: pure functions from measured losses to a fitted law, its errors, and answers.

    cmr.py       L(R) = alpha R^s + beta; increments in tokens; the critical ratio (2407.17467)
    dcpt.py      L(N, D, r), nine parameters (2406.01375)
    fitting.py   quality of a fit, multi-start, resampling for intervals
    hull.py      what was measured, and the refusal to leave it
    answers.py   what the laws are asked

Losses are nats per token, D counts tokens, N parameters, shares lie in [0, 1]. Nothing here reads a file.
"""
