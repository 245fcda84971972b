"""Configurations x modes x seeds, trained, evaluated and put side by side: plan, runs, summary."""
