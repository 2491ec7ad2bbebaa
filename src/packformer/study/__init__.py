"""Answers from finished runs: variants compared over seeds, with their uncertainty.

Reads what runs left in their folders, without torch, and makes a page and a table of it.
"""
