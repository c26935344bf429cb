"""Checks of whole runs that are too slow for the tests: kills, thousands of steps, planned against measured memory."""
