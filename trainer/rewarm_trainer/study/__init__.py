"""`rewarm study`: child runs on a grid, one law from what they measured, and citations of it by later runs.

run.py       the whole of a study in one reading
children.py  child processes: bounded, resumed, stopped together
child.py     one child process: one run, as `rewarm run` does it
gather.py    from the reports of finished runs to measurements
artefact.py  study.json: measurements, laws, answers
picture.py   curves, fit and choice
told.py      what a fit on a cluster says of it, in short
citation.py  `replay.ratio: {fromStudy: ...}`: a ratio from a finished study, and the refusals
"""
