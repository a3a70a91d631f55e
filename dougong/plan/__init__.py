"""The planner: which model, on which chip, in which format and policy, at what speed and cost.

Holds the arithmetic of the report and of `dougong plan`: every figure is a small function with its
formula and its source. May import only dougong.errors, dougong.config and dougong.formats: no
torch, and nothing that is slow to import.
"""
