"""What a training run is: dataclasses, which are the command line, the stored config.json and the form.

Groups of fields are dataclasses of their own, for those who read or show them; on the command line and in a
recipe every field goes by its bare name (``--lr``), which is why no two groups share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

import ffn
from trainers.data import SOURCES
from trainers.data.augment import AUGMENTATIONS
from trainers.jobs.paths import runs
from trainers.methods import METHODS
from trainers.recipes import RECIPES

POSITIVE = {"epochs", "batch_size", "accumulate", "lr", "clips", "val_clips", "size", "train_size", "repeats"}
POSITIVE |= {"clip_norm", "patience", "save_minutes"}
NOT_NEGATIVE = {"workers", "seed", "weight_decay", "mixup", "cutmix", "distillation", "lower_labels"}
NOT_NEGATIVE |= {"warmup_epochs", "warmup_lr", "final_lr"}
SHARES = {"rho", "label_smoothing", "ema", "dropout", "drop_path", "max_bad"}

Flat = tyro.conf.arg(name="")
"""a group whose fields go by their bare names"""


@dataclass(frozen=True)
class Dataset:
    """Clips, and how they reach the network."""

    data: str = "motion"
    """data set: motion, folder, csv, ssv1, ssv2, kinetics, hmdb51"""
    data_root: Path | None = None
    """folder of the data set (Motion needs none)"""
    fold: int = 1
    """which of the data set's official splits (HMDB51 has 1, 2 and 3)"""
    clips: int | None = None
    """training clips (Motion renders as many as you ask for); default: all the data set has"""
    val_clips: int | None = None
    """validation clips; default: all the data set has"""
    size: int | None = None
    """side of the square clips, in pixels; default: the network's own"""
    train_size: int | None = None
    """side of the training clips, where it is another; default: size"""
    cache: Path | None = None
    """folder that keeps rendered clips for later epochs and runs (Motion at 64 pixels: 0.4 MB per clip)"""
    max_bad: float = 0.05
    """largest share of clips that may be unreadable, as found by trainers.check, before the run refuses"""
    sampling: Literal["segment", "span", "dense"] | None = None
    """which frames make a clip; default: the network's own rule"""
    augment: str = "none"
    """what training clips go through: none, multiscale, short_side, randaugment"""
    flip: bool = False
    """mirror half of the training clips; wrong where left and right are classes"""
    mixup: float = 0.0
    """alpha of MixUp, which blends clips and labels of a batch; 0: off"""
    cutmix: float = 0.0
    """alpha of CutMix; with both, each batch takes one of the two"""
    repeats: int = 1
    """repeated augmentation: times each video stands in a batch, drawn anew"""
    workers: int | None = None
    """processes that load clips; default: by the number of cores"""


@dataclass(frozen=True)
class Network:
    """Where the network starts from."""

    init: str | None = None
    """weights to start from: a file, or a name such as imagenet (see ffn.load_pretrained); default: random"""
    dropout: float | None = None
    """before the classifier; default: the network's own"""
    drop_path: float | None = None
    """stochastic depth (UniFormer); default: the network's own"""
    private_norms: bool = True
    """FFN: each frequency has norms of its own (off: an ablation)"""
    alteration: bool = True
    """FFN: each frequency has weight alterations (off: an ablation)"""
    share_weights: bool = True
    """FFN: frequencies share convolutions and linear layers (off: an ablation)"""

    @property
    def options(self) -> dict[str, float]:
        """What goes to the network itself."""
        chosen = {"dropout": self.dropout, "drop_path": self.drop_path}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class Loss:
    """What is learnt from."""

    distillation: float = 0.5
    """lambda: weight of the lower frequencies' KL divergence from the highest (method ffn); the paper's: 1"""
    lower_labels: float = 0.5
    """weight of the lower frequencies' cross-entropy with the labels (method ffn); the paper's: 0"""
    rho: float = 0.5
    """probability of mixing features (method mixed) or of the highest frame count (method proportional)"""
    label_smoothing: float = 0.0
    """share of the label given to all classes alike"""
    warm_start: int | None = None
    """epochs of cross-entropy at fewer frames before the method proper; default: 40 % of the epochs where the
    network starts from random weights, else none"""


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and schedule."""

    epochs: int = 10
    """passes over the training clips, warm start included"""
    batch_size: int = 32
    """clips per step over all processes, at each frequency; a video counts as often as --repeats draws it"""
    accumulate: int = 1
    """parts that a batch is computed in, to need less memory; the step is the whole batch's"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with Nesterov-free momentum .9"""
    lr: float = 2e-3
    """peak learning rate"""
    weight_decay: float = 0.05
    """of convolutions and linear layers"""
    groups: Literal["plain", "released"] = "plain"
    """plain: no weight decay for norms, biases and alterations; released: the groups of the released 2D code,
    with faster biases and classifier"""
    schedule: Literal["cosine", "step"] = "cosine"
    """how the learning rate moves over the run"""
    milestones: tuple[int, ...] = ()
    """epochs after which the learning rate is divided by 10 (schedule step)"""
    warmup_epochs: float = 0.1
    """epochs in which the learning rate rises from warmup_lr"""
    warmup_lr: float = 0.0
    """learning rate of the first step when there is a warm-up"""
    final_lr: float = 0.0
    """learning rate that the cosine ends at"""
    clip_norm: float | None = None
    """largest norm of the gradient; larger ones are scaled down to it"""
    ema: float | None = None
    """decay of a moving average of the weights, which is then what is validated and saved; default: none"""
    partial_bn: bool = False
    """freeze every BatchNorm but the first of each branch"""
    sync_norm: bool = False
    """BatchNorm statistics over all processes instead of each one's own"""
    patience: int | None = None
    """stop after so many epochs without a better mean accuracy; default: never"""


@dataclass(frozen=True)
class Machine:
    """What it runs on."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes in it, else fp32"""
    compile: bool = False
    """compile the network (torch.compile): slow to start, then faster on a GPU"""
    save_minutes: float = 10.0
    """minutes between checkpoints within an epoch"""


@dataclass(frozen=True)
class Config:
    """Train a video network. Everything the run makes lands in OUT."""

    out: Path | None = None
    """folder of the run; default: runs/RECIPE, or runs/MODEL-METHOD-DATA"""
    recipe: str | None = None
    """settings of a published result (see --list-recipes); flags given beside it win"""
    model: str = "tsm_tiny"
    """network, one of ffn.list_models()"""
    method: str = "ffn"
    """ffn: one network for every frame count; plain: as it is, at one frame count; finetune: plain, from the
    weights that --init names; mixed, proportional: plain, at the lowest and highest frame count"""
    frames: tuple[int, ...] | None = None
    """training frequencies, in frames; default: the network's own (plain and finetune: its highest)"""
    seed: int = 0
    """of weights, order and sampling"""
    resume: Literal["never", "auto", "always"] = "never"
    """go on with the run in OUT, with the configuration stored there; auto: if there is one, else start"""
    dataset: Annotated[Dataset, Flat] = field(default_factory=Dataset)
    network: Annotated[Network, Flat] = field(default_factory=Network)
    loss: Annotated[Loss, Flat] = field(default_factory=Loss)
    optim: Annotated[Optimisation, Flat] = field(default_factory=Optimisation)
    machine: Annotated[Machine, Flat] = field(default_factory=Machine)

    @property
    def warm_epochs(self) -> int:
        if self.loss.warm_start is not None:
            return self.loss.warm_start
        return 0 if self.network.init else round(0.4 * self.optim.epochs)

    def resolved(self) -> Config:
        """With what depends on other fields filled in: the run's folder and the training frequencies.

        Raises:
            ValueError: if a field cannot be.
        """
        self.check()
        frames = self.frames or METHODS[self.method].usual_frames(ffn.usual_frames(self.model))
        name = self.recipe or f"{self.model}-{self.method}-{self.dataset.data}"
        return replace(self, frames=tuple(frames), out=self.out or runs() / name)

    def absolute(self) -> Config:
        """With every path from the root, so that it says the same in any folder."""
        paths = {name: value for name, value in self.flat().items() if name in PATHS and value is not None}
        changes = {name: Path(path).resolve() for name, path in paths.items()}
        if self.network.init and Path(self.network.init).is_file():
            changes["init"] = str(Path(self.network.init).resolve())
        return self.with_fields(changes)

    def check(self) -> None:
        """Raises ValueError, with one sentence, for a field that cannot be."""
        values = self.flat()
        for name, allowed in choices().items():
            if values[name] not in allowed:
                names = ", ".join(filter(None, allowed))
                raise ValueError(f"there is no {name} {values[name]!r}; choose one of {names}")
        for name, value in values.items():
            if value is None:
                continue
            if name in POSITIVE and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
            if name in NOT_NEGATIVE and value < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
            if name in SHARES and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {value}")
        frames, warm_start, epochs = self.frames, self.loss.warm_start, self.optim.epochs
        if frames is not None and (not frames or min(frames) < 1 or len(set(frames)) < len(frames)):
            raise ValueError(f"frames must be different counts of at least 1, not {frames}")
        if warm_start is not None and not 0 <= warm_start < epochs:
            raise ValueError(f"warm_start must be at least 0 and below epochs ({epochs}), not {warm_start}")
        if self.dataset.data != "motion" and self.dataset.data_root is None:
            raise ValueError(f"data {self.dataset.data} needs the folder that it is in: add --data-root DIR")
        METHODS[self.method].check(self)

    def flat(self) -> dict[str, Any]:
        """Every field by its bare name, groups dissolved."""
        values = {}
        for item in fields(self):
            value = getattr(self, item.name)
            values |= vars(value) if is_dataclass(value) else {item.name: value}
        return values

    def with_fields(self, values: Mapping[str, Any]) -> Config:
        """A copy with these fields, by bare names, replaced. Raises ValueError for a name that is none."""
        unknown = values.keys() - self.flat().keys()
        if unknown:
            raise ValueError(f"a run has no setting named {', '.join(sorted(unknown))}")
        changes = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if is_dataclass(value):
                own = {f.name: values[f.name] for f in fields(value) if f.name in values}
                changes[item.name] = replace(value, **own)
            elif item.name in values:
                changes[item.name] = values[item.name]
        return replace(self, **changes)

    @classmethod
    def from_recipe(cls, name: str) -> Config:
        """The settings of a published result; raises ValueError if there is no recipe of that name."""
        if name not in RECIPES:
            raise ValueError(f"there is no recipe {name!r}; --list-recipes names them all")
        return cls().with_fields(RECIPES[name].settings | {"recipe": name})

    def to_json(self) -> str:
        """A flat JSON object of every field."""
        return json.dumps(self.flat(), indent=2, default=str)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """What :meth:`to_json` wrote, by this version or another; fields that are gone are left out."""
        default = cls()
        known = default.flat()
        stored = {name: value for name, value in json.loads(text).items() if name in known}
        for name, value in stored.items():
            if name in PATHS and value is not None:
                stored[name] = Path(value)
            elif isinstance(value, list):
                stored[name] = tuple(value)
        return default.with_fields(stored)

    def command(self) -> list[str]:
        """The arguments of ``python -m trainers.run`` that ask for this run: what differs from the defaults.

        Whether to resume is not among them.
        """
        base = Config.from_recipe(self.recipe) if self.recipe else Config()
        default, arguments = base.flat(), ["--recipe", self.recipe] if self.recipe else []
        for name, value in self.flat().items():
            if value == default[name] or name == "resume":
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                arguments += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
        return arguments


PATHS = {"out", "data_root", "cache"}


def choices() -> dict[str, tuple[str, ...]]:
    """The fields that take one of a few names."""
    names = {"model": ffn.list_models(), "method": METHODS, "data": SOURCES, "augment": AUGMENTATIONS}
    groups = [Config, *(item.default_factory for item in fields(Config) if item.default_factory is not MISSING)]
    for group in groups:
        for name, hint in get_type_hints(group).items():
            for option in (hint, *get_args(hint)):
                if get_origin(option) is Literal:
                    names[name] = (*get_args(option), *[None] * (option is not hint))
    return {name: tuple(allowed) for name, allowed in names.items()}
