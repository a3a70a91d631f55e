"""Training: data, losses, optimizers, the loop, and what a trained model can do.

Imports errors, config, formats, kernels, model, checkpoint and chat.
"""
