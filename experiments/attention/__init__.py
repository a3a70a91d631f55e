"""The attention experiment: what window, MLA, DSA and CSA/HCA make of the same transformer.

`python -m experiments.attention` trains and measures every kind, one after the other, and goes on
where it was stopped. README.md says what was found and what a model of this size cannot show.
"""
