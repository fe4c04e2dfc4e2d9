"""What is trained in a tuned model, and how it is saved, loaded and copied: what TunedModel knows about files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperpelt import __version__, methods
from hyperpelt.attachment.switch import switch_of
from hyperpelt.backbones.moving import moved
from hyperpelt.errors import UserError
from hyperpelt.methods.assemble import replaced, unfrozen
from hyperpelt.methods.base import Method
from hyperpelt.model import fingerprints, saving
from hyperpelt.model.copies import copy_of, in_dtype
from hyperpelt.model.made import Made
from hyperpelt.model.running import Running
from hyperpelt.model.vocabulary import with_tokens
from hyperpelt.operations import Operation, list_operations
from hyperpelt.vision.spec import VisualSpec
from hyperpelt.weights import Frozen

Model = TypeVar("Model", bound="Persistence")


class Persistence(Running):
    """The part of `TunedModel` that knows files: `save_pretrained`, `from_pretrained`, `push_to_hub`."""

    def method_state(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold: trained tensors, and the statistics that prefixes are measured in."""
        state = {name: tensor.detach() for name, tensor in self.sources.state_dict().items()}
        state |= {name: parameter.detach() for name, parameter in self._own_parameters()}
        return state | dict(self._replaced_buffers())

    @torch.no_grad()
    def load_method_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors back into this model.

        Raises:
            UserError: a tensor is missing, unknown or of another shape.
        """
        own = self.method_state()
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            raise UserError(
                f"The saved tensors do not fit this method: {len(missing)} missing {missing[:3]}, {len(extra)} unknown "
                f"{extra[:3]}. They belong to another method, task list or backbone."
            )
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise UserError(
                    f"Saved tensor {name!r} has shape {tuple(state[name].shape)}, this model has {tuple(tensor.shape)}."
                )
        for name, tensor in own.items():
            # Detached tensors share memory with the parameters and bump their version, which ends what was kept.
            tensor.copy_(state[name])

    def _frozen_tensors(self) -> str | None:
        """What tells the random tensors that a seed stands for; None where the method has none."""
        frozen = dict(self.sources.items()).get("frozen")
        return frozen.fingerprint() if isinstance(frozen, Frozen) else None

    def stands_on(self) -> dict[str, Any]:
        """The backbone as `config.json` and checkpoints remember it: its name, and what tells another one."""
        own = self.unfrozen | _weights(self.method, self.operations)
        return {"backbone": self.backbone_name, **fingerprints.of_backbone(self.backbone, self.tokenizer, own)}

    def check_stands_on(self, config: Mapping[str, Any], folder: Path) -> None:
        """UserError where this model's backbone is not the one that `stands_on` told of the model in `folder`."""
        own = self.unfrozen | _weights(self.method, self.operations)
        fingerprints.check(self.backbone, self.tokenizer, config, own, folder=folder, name=self.backbone_name)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`; see `hyperpelt.model.saving`. The tokenizer goes along where the
        backbone is neither embedded nor on the hub.

        Raises:
            UserError: another process writes there, or the folder holds another library's model.
        """
        config = {
            "hyperpelt_version": __version__,
            **self.stands_on(),
            "method": self.method.to_dict(),
            "seed": self.seed,
            **({} if self.quantization is None else {"quantization": self.quantization}),
            "frozen_tensors": self._frozen_tensors(),
            "visual": None if self.visual is None else self.visual.to_dict(),
            "tasks": [{"name": name, "fingerprint": self.task_fingerprints.get(name)} for name in self.tasks],
            **{name: language for name, language in self.languages.items() if language is not None},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        with saving.only_writer(folder):
            saving.write(folder, config, self.method_state())
            if self.tokenizer is not None and not saving.found_by_name(self.backbone_name):
                saving.write_tokenizer(folder, self.tokenizer)

    @classmethod
    def from_pretrained(
        cls: type[Model],
        folder: str | Path,
        *,
        backbone: str | Path | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Model:
        """Load a model that `save_pretrained` wrote: a run folder, or a hub id.

        - **backbone**: another copy of the same backbone, as a name, folder or model
        - **tokenizer**: None: the one that was saved with the model, else that of the backbone; over a backbone that
          is given as a model, the one that can be had without a network, else none
        - **dtype**: of the frozen backbone, float32 or bfloat16; None: as it is
        - returned in evaluation mode

        Raises:
            UserError: truncated or edited files, or a backbone that does not match; float16.
        """
        from hyperpelt.backbones import load_backbone, load_tokenizer, set_languages

        folder = saving.local_folder(folder)
        config = saving.read_config(folder)
        tensors = saving.read_tensors(folder, config)
        name, tokenizer = str(config["backbone"]), tokenizer or saving.read_tokenizer(folder)
        if backbone is None or isinstance(backbone, str | Path):
            name = str(backbone or name)
            if not name:
                raise UserError(f"{folder} does not name its backbone (it was built from an object): give `backbone=`.")
            saving.check_backbone_is_there(folder, name)
            packing = config.get("quantization")
            tokenizer = tokenizer or load_tokenizer(name)
            backbone = load_backbone(name, dtype=dtype, quantization=packing)
            source, target = (config.get(f"{which}_language") for which in ("source", "target"))
            set_languages(tokenizer, backbone, source=source, target=target)
        else:
            name, tokenizer, backbone = "", tokenizer or _tokenizer_at_hand(name), in_dtype(backbone, dtype)
        method = methods.method_from_dict(config["method"])
        method, backbone, tokenizer = with_tokens(method, backbone, tokenizer)
        own = frozenset(unfrozen(method, backbone)) | _weights(method, list_operations(backbone))
        fingerprints.check(backbone, tokenizer, config, own, folder=folder, name=name)
        model = cls(
            backbone if device is None else moved(backbone, device),
            method,
            [task["name"] for task in config["tasks"]],
            tokenizer=tokenizer,
            backbone_name=str(config["backbone"]),
            visual=None if config.get("visual") is None else VisualSpec.from_dict(config["visual"]),
            seed=int(config.get("seed", 0)),
            fitted=False,
        )
        model._check_frozen(config, folder)
        model.task_fingerprints = {task["name"]: task["fingerprint"] for task in config["tasks"]}
        model.languages = {name: config.get(name) for name in ("source_language", "target_language")}
        model.load_method_state(tensors)
        model.folder = folder
        return model.eval()

    def _check_frozen(self, config: Mapping[str, Any], folder: Path) -> None:
        """UserError if this PyTorch draws other frozen tensors from the seed than the one that saved the model."""
        if self._frozen_tensors() != config.get("frozen_tensors"):
            raise UserError(
                f"The frozen random tensors of the model in {folder} are drawn from seed {self.seed}, but this "
                f"PyTorch ({torch.__version__}) draws other numbers than {config['versions'].get('torch')}: use that "
                "version."
            )

    def __deepcopy__(self: Model, memo: dict[int, Any]) -> Model:
        """A model with a backbone and sources of its own, attached if this one is."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        if id(self.backbone) not in memo:  # several models may share it, and then their copies share its copy
            memo[id(self.backbone)] = copy_of(self.backbone).train(self.backbone.training)
        backbone = memo[id(self.backbone)]
        # Hooks and what they close over belong to one backbone object; tensors that were kept can be made again.
        memo[id(self.switch)], memo[id(self._made)] = switch_of(backbone), Made()
        memo[id(self._leave)] = None
        vars(twin).update(copy.deepcopy(vars(self), memo))
        twin.attached = False
        if self.attached:
            twin.attach()
        for (_, own), (_, theirs) in zip(twin._own_parameters(), self._own_parameters(), strict=True):
            own.requires_grad_(theirs.requires_grad)
        if self.switch.recomputing is not None:
            twin.gradient_checkpointing_enable()
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UserError(
            "A tuned model cannot be pickled (torch.save, processes of their own): it hooks into its backbone. Use "
            "save_pretrained and from_pretrained, or copy.deepcopy for a copy in this process."
        )

    def push_to_hub(
        self, repo_id: str, *, run: str | Path | None = None, private: bool | None = None, token: str | None = None
    ) -> str:
        """Upload the model, a model card, and of its run the settings and results; returns the address of the commit.

        - **run**: the run folder; None: the folder that the model was loaded from

        The settings go without the paths and plugins of this machine.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            saving.present(Path(folder), repo_id, saving.local_folder(run) if run is not None else self.folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="hyperpelt model"))


def _weights(method: Method, operations: Sequence[Operation]) -> frozenset[str]:
    """Names of the backbone's parameters whose place others take, so that their values play no part."""
    return frozenset(f"{path}.weight" for path in replaced(method, operations))


def _tokenizer_at_hand(name: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a named backbone if it ships with the library, lies in a folder or was downloaded before."""
    from transformers import AutoTokenizer

    from hyperpelt.backbones import embedded, load_tokenizer

    try:
        if name in embedded.NAMES or Path(name).is_dir():
            return load_tokenizer(name)
        return AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False) if name else None
    except (OSError, ValueError, KeyError):
        return None
