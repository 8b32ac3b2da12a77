"""`cff-run watch`: frames in, records out, for months, and a fault where the answer is not known.

source -> queue -> worker -> record on disk -> verdict put out -> the file moved away
"""
