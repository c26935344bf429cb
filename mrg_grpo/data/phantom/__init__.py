"""The phantom: chest X-ray studies made up by a program, so that the whole loop runs with no download.

Here: cases, their pictures and reports, and a reader of those reports that is no model. Not here: real data sets
(data/), the labeler's grammar (experiments/embedded). May import: labels, errors and data/study.py.
"""
