"""What moves a run's mixture while it trains: one protocol, a module for each rule, decisions in the phase log."""
