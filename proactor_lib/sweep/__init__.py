"""Sweeps: one notebook, many parameters, each cell a papermill process that Ray places.

definition.py reads a sweep file and draws its points, cells.py makes checked cells of them, runner.py places cells,
worker.py executes one, live.py shows how far they are. Their folder and the table of them are in sweep_folder/.
"""
