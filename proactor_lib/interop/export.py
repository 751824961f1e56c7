"""A run in forms that others load: its policy as a PEFT adapter, merged weights or GGUF, or its annotated corpus."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proactor_lib import agent, datasets, models
from proactor_lib.artf.training.adapter import copy_adapter
from proactor_lib.artf.training.job import Job
from proactor_lib.errors import UserError
from proactor_lib.evaluate.policy_set import PolicySet
from proactor_lib.evaluate.results import focus
from proactor_lib.files import disk_failed, read_json, read_text, write_json
from proactor_lib.interop import corpus, model_card, modelfile
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Catalog
from proactor_lib.service.source import EXPORT, Exported, readiness

FORMS = ("adapter", "merged", "gguf", "dataset")
SHARD = "5GB"  # the largest file of merged weights
BASE_LICENSES = {models.EMBEDDED: "apache-2.0", models.TINY: "apache-2.0"}
SYSTEM = "system.txt"  # the system's message: the instructions with the catalog
TEXTS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")  # what stands beside a model's weights


@dataclass(frozen=True)
class Request:
    """What is exported. `licenses`: of the weights and of the data, where the caller knows them."""

    form: str = "adapter"
    policy: str | None = None  # none: the run's policy in focus
    kind: str = "f16"  # of a GGUF
    catalog: Path | None = None  # none: the run's
    weights_license: str | None = None
    data_license: str | None = None


def export(run: RunFolder, out: Path, request: Request, push: str | None = None) -> Path:
    """Write the folder `out`, whole or not at all; `push`: then upload it to that repository of the hub, private.

    UserError: a form that there is not, a folder that is there, a run without that adapter, a disk that is full, a push
    without a licence of the data.
    """
    if request.form not in FORMS:
        raise UserError(f"--form {request.form!r}; accepted: {', '.join(FORMS)}")
    licenses = _licenses(run, request)
    if push and licenses[1] is None:
        raise UserError(f"--push {push}: the licence of the data ({run.params.dataset}) is not known; name it with "
                        "--data-license, or export without --push")  # fmt: skip
    if request.form == "dataset":
        with _whole(out) as folder:
            corpus.write(folder, run, licenses[1])
    else:
        adapter = _adapter(run, request.policy)
        with _whole(out) as folder:
            _Export(run, request, adapter, folder).write(licenses)
    if push:
        _upload(out, push, "dataset" if request.form == "dataset" else "model")
    return out


def _licenses(run: RunFolder, request: Request) -> tuple[str | None, str | None]:
    weights = request.weights_license or BASE_LICENSES.get(run.params.model)
    return weights, request.data_license or datasets.LICENSES.get(run.params.dataset)


def _adapter(run: RunFolder, policy: str | None) -> tuple[str, Path]:
    """The policy's name and its adapter."""
    policies, missing = PolicySet(run), []
    trained = [name for name in run.params.policies if policies.adapters.get(name)]
    present = policies.present([policy] if policy else trained, missing.append)
    own = [name for name in present if policies.adapters.get(name)]
    if not own:
        raise UserError(
            f"{run.out} has no adapter to export: {'; '.join(missing) or 'none of its policies is trained'}"
        )
    name = focus(own)
    return name, policies.adapters[name]


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it when the block ends well, and is gone otherwise."""
    if out.exists():
        raise UserError(f"{out} is there already: name another --out, or delete it")
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in aside.rglob("*"):  # safetensors gives its files to their owner alone
            if file.is_file():
                file.chmod(0o666 & ~_umask())
        os.replace(aside, out)
    except Exception as error:
        if disk_failed(error):
            raise UserError(f"{out}: the disk is full or broken ({error}); nothing was written") from None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Export:
    def __init__(self, run: RunFolder, request: Request, adapter: tuple[str, Path], folder: Path):
        self._job, self._request, self._folder = Job(run), request, folder
        self._run, (self._policy, self._adapter) = run, adapter
        self._file = f"{run.params.name}-{request.kind}.gguf".replace(" ", "-")

    def write(self, licenses: tuple[str | None, str | None]) -> None:
        request, run = self._request, self._run
        catalog = read_json(request.catalog, Catalog) if request.catalog else run.catalog
        {"adapter": self._peft, "merged": self._merged, "gguf": self._gguf}[request.form](catalog)
        write_json(self._folder / "catalog.json", catalog.model_dump(mode="json"))
        (self._folder / SYSTEM).write_text(agent.system_text(catalog), encoding="utf-8")
        fires = readiness(run, self._policy)
        about = {k: getattr(run.params, k) for k in Exported.OF_RUN}
        made = Exported(form=request.form, policy=self._policy, threshold=fires.threshold, own=fires.own, **about)
        write_json(self._folder / EXPORT, made.model_dump(mode="json"))
        model_card.write(self._folder / "README.md", run, request.form, licenses, base=run.params.model,
                         file=self._file, policy=self._policy, threshold=fires.threshold)  # fmt: skip

    def _peft(self, catalog: Catalog) -> None:
        copy_adapter(self._adapter, self._folder / "adapter")
        for file in (self._folder / "adapter").iterdir():
            os.replace(file, self._folder / file.name)
        (self._folder / "adapter").rmdir()
        config = json.loads(read_text(self._folder / "adapter_config.json"))
        write_json(self._folder / "adapter_config.json", config | {"base_model_name_or_path": self._job.base})

    def _merged(self, catalog: Catalog) -> None:
        merge_into(self._folder, self._base(), self._adapter)
        _ask_greedily(self._folder / "generation_config.json")

    def _gguf(self, catalog: Catalog) -> None:
        from proactor_lib.interop import gguf_file

        base = self._base()
        gguf_file.check(base, self._request.kind)
        text = modelfile.render(self._job.tokenizer, catalog, self._run.params, self._file)
        with tempfile.TemporaryDirectory(dir=self._folder) as merged:
            merge_into(Path(merged), base, self._adapter)
            gguf_file.write(Path(merged), self._folder / self._file, self._request.kind, self._run.params.name)
        (self._folder / "Modelfile").write_text(text, encoding="utf-8")

    def _base(self) -> Path:
        """The trainer's weights in bfloat16, whatever servers hold: nothing can be merged into 4 bits."""
        return Path(models.downloaded(models.matched_export(self._job.base, self._run.params.quantization)))


def merge_into(folder: Path, base: Path, adapter: Path) -> None:
    """Write the base's folder with the adapter folded in, in bfloat16: what servers on bfloat16 hold, bit for bit."""
    import torch
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    from proactor_lib.artf.serving.policy_sync import merge

    weights = {k: v for file in sorted(base.glob("*.safetensors")) for k, v in load_file(file).items()}
    for pattern in TEXTS:
        for file in base.glob(pattern):
            if not file.name.endswith(".safetensors.index.json"):
                shutil.copy(file, folder)
    save_torch_state_dict(
        merge(weights, adapter, torch.bfloat16), folder, max_shard_size=SHARD, metadata={"format": "pt"}
    )


def _ask_greedily(file: Path) -> None:
    """Leave the ids of tokens alone: vLLM and transformers follow a model's own penalties and temperature otherwise."""
    if file.exists():
        ids = {k: v for k, v in json.loads(read_text(file)).items() if k.endswith("_token_id")}
        write_json(file, ids | {"do_sample": False})


def _upload(folder: Path, repository: str, kind: str) -> None:
    import httpx
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        if not hub.repo_info(repository, repo_type=kind).private:
            raise UserError(f"{folder} is written, but not uploaded: {repository} is there already, and public; name "
                            "another --push, or make it private")  # fmt: skip
        hub.upload_folder(folder_path=folder, repo_id=repository, repo_type=kind)
    except (httpx.HTTPError, OSError, ValueError) as error:  # no connection, the hub's own, a name that is none
        raise UserError(f"{folder} is written, but not uploaded to {repository}: {error}") from None
