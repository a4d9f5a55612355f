"""Grafana dashboards of Rewarm, built with Grafana's own typed SDK. Decides queries and layout; reads no data."""
