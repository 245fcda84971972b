"""Compiled programs from encoded queries to ranked ads."""
