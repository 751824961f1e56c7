"""The reward lab: what each reward pays to policies whose worth is known, before a GPU-week is spent on it [ours].

scoring.py makes groups of outputs and scores them, fixed.py probes the rewards with fixed policies, samples.py with K
samples of a real model, ablation.py compares trainings, figures.py draws it all.
"""
