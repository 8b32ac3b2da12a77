"""Run other people's few-shot detectors on the splits that cff-eval uses.

PatchCore, PaDiM, WinCLIP and AnomalyDINO are anomalib's own code; SPADE, which anomalib lacks, is a
reference of ours. They live in an environment of their own, see `requirements.txt`, and hand over
predictions, which `cff-eval` judges like any other method.
"""
