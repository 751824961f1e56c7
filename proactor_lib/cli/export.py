"""`proactor export`: a run's policy, or its annotated corpus, in forms that others load."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    form: Annotated[
        str, typer.Option(help="adapter (PEFT), merged (bfloat16), gguf; or dataset: the corpus with its windows.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not be there.")],
    kind: Annotated[str, typer.Option(help="Of a GGUF: f16, bf16, q8_0.")] = "f16",
    policy: Annotated[str | None, typer.Option(help="trained, sft, or an adapter's name; none: trained.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="The catalog that goes along; none: the run's.")] = None,
    license: Annotated[str | None, typer.Option(help="Of the base model's weights, where we do not know it.")] = None,
    data_license: Annotated[str | None, typer.Option(help="Of the conversations, where we do not know it.")] = None,
    push: Annotated[str | None, typer.Option(help="Upload to this repository of the hub too (private).")] = None,
) -> None:
    """Write a folder: the policy (or the corpus), its card, catalog and system message; prints its path.

    With a GGUF goes a Modelfile.
    """
    from proactor_lib.interop.export import Request
    from proactor_lib.interop.export import export as write
    from proactor_lib.run_folder import RunFolder

    folder = RunFolder.read(run)
    typer.echo(write(folder, out, Request(form, policy, kind, catalog, license, data_license), push))
