"""Corpora: from files to rows of tokens, the same for everyone who reads the same definitions. Never imports torch.

`prepare.prepare` makes (or finds) token shards and evaluation sets; `source.open_source` and `sets.open_set` read them.
"""
