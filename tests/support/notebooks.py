"""Notebooks of a cell or two, written for a test; and the project's own without a kernel."""

import nbformat
from proactor_lib import notebook


def write_notebook(path, *cells, parameters="x = 1\nout = None"):
    """A notebook with a parameters cell and these code cells."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    node = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)
    return path


def run_here(path, given):
    """The notebook in this process, which spares a kernel and its imports: the text that it shows, and its pictures."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.pylabtools import select_figure_formats
    from IPython.display import display
    from IPython.utils.capture import capture_output
    from traitlets.config import Config

    notebook.check_parameters(path, given)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    select_figure_formats(shell, {"png"})
    texts, pictures = [], 0
    try:
        for cell in (c for c in nbformat.read(path, 4).cells if c.cell_type == "code"):
            with capture_output() as shown:
                result = shell.run_cell(cell.source)
                result.raise_error()
                if result.result is not None:
                    display(result.result)  # the shell itself shows its text alone
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(given)
            texts += [
                shown.stdout,
                *(o.data[kind] for o in shown.outputs for kind in o.data if kind.startswith("text/")),
            ]
            pictures += sum("image/png" in o.data for o in shown.outputs)
    finally:
        InteractiveShell.clear_instance()
    return "".join(texts), pictures
