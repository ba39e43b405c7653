"""Trace-driven simulation: what a pair of models would reach under other policies, on other devices.

A trace is a recording of a real pair. Players play it as published systems and this engine would, for any time of a
verify pass, a draft pass and a round trip. docs/simulator.md describes each of them.
"""
