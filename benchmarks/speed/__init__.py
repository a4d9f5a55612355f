"""How fast Rewarm is beside what people would use instead: one bench, a module per row.

    run.py --> rows/NAME.py --> Arm (a process of its own, perhaps in a peer's environment) --> arms/*.py
                   |
                   v
               Result: tables, bars, notes --> page.py --> docs/speed.md

Rows measure in rounds, all arms in turn, so that a machine whose speed drifts does not decide.
"""
