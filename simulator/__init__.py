"""Trace-driven simulation: what a pair of models would reach under other policies, on other devices.

A trace holds what a real pair said; the players play it as published systems and this engine would, for any time of a
verify pass, a draft pass and a round trip. docs/simulator.md says what each of them does.
"""
