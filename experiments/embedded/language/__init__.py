"""Radiology language with labels by construction: what the embedded labeler learns from.

grammar.py    `[a|b]` choices and `{slot}` references -> text
slots.py      shared fillers: sides, places, severities, change over time, hedges, XXXX masks
findings.py   statements that affirm or doubt a condition
normal.py     statements that deny conditions, one by one and in lists
other.py      statements that name none of the 13 conditions
names.py      what each condition can be called
claims.py     every name in every frame: stated, denied or doubted, alone or together
compose.py    statements -> reports with 14 labels, and the noise of real text
"""
