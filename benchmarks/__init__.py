"""Compares speed, memory and readings with other programs; one command per file."""
