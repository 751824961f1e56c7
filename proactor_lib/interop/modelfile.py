"""An Ollama Modelfile: the model's own chat template, its stop tokens, and the system text of a catalog."""

from proactor_lib import agent
from proactor_lib.artf.training.chat_template import frame
from proactor_lib.errors import UserError
from proactor_lib.params import Params
from proactor_lib.schema import Catalog


def render(tokenizer, catalog: Catalog, params: Params, file: str) -> str:
    """The Modelfile's text; `file`: the GGUF beside it. Its system text and one user's message give training's prompt.

    UserError for a chat template without a place for the system's message, and as `chat_template.frame`.
    """
    system = agent.system_text(catalog)
    before, after = frame(tokenizer, system, params.chat_template_args)
    opening, found, middle = before.partition(system.strip())
    if not found or '"""' in system or "{{" in before + after:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} with this catalog cannot be written as a Modelfile"
        )
    template = f"{opening}{{{{ .System }}}}{middle}{{{{ .Prompt }}}}{after}"
    # Ollama's own penalty is 1.1, in greedy decoding too: one that copies names and values would be another policy.
    settings = {"stop": f'"{tokenizer.eos_token}"', "temperature": 0, "repeat_penalty": 1,
                "num_ctx": params.max_context, "num_predict": params.max_completion_tokens}  # fmt: skip
    lines = [f"PARAMETER {name} {value}" for name, value in settings.items()]
    return "\n".join([f"FROM ./{file}", f'TEMPLATE """{template}"""', f'SYSTEM """{system.strip()}"""', *lines]) + "\n"
