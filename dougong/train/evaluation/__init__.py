"""What a trained model can do, measured: `suites.evaluate`, behind `dougong eval`.

Texts, names, operands and tools are held out of training. Answers are greedy and a suite draws its
tasks from a seed of its own, so the same model gives the same figures, whatever else is asked for.
"""
