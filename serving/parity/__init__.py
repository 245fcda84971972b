"""Served requests, logged and replayed: is what was served what was trained?"""
