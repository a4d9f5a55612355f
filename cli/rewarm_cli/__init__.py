"""The command line: reads a manifest, asks the packages below to think or to act, and shows what they answer.

Decides nothing about training. Every heavy import waits until its command needs it: `rewarm --help` answers at once.
"""
