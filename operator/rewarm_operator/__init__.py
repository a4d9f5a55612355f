"""The operator of Rewarm: decides what should exist next, and nothing else. Never imports torch or the trainer."""
