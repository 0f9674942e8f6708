"""Benchmarks: diffrt beside diffusers and every other way to run the same model, in one interleaved run.

    python -m benchmarks run smoke --out runs.jsonl
    python -m benchmarks report runs.jsonl --out report

`suites.py` says what is measured, `contenders/` who takes part, `rows.py` what a line of the result means.
"""
