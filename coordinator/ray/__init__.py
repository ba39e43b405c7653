"""Coordinator replicas under Ray, and the services that they route to. Nothing else of the coordinator imports Ray.

Ray is imported inside functions: the import takes a second, and commands that only report an error do not need it.
"""
