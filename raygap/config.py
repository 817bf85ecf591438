"""The one schema of a trial: every field of a training run is documented, bounded and defaulted here.

>>> config = from_mapping({"warmup.epochs": 3, "loss": {"align_weight": 0.2}})
>>> config.warmup.epochs, config.loss.align_weight
(3, 0.2)
"""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raygap.errors import UserError

SCHEMA_VERSION = 1
LATER: dict[str, Any] = {"shapes_warmup": False}
"""Marks a field that changes nothing before the warm-up ends; every field without the mark is taken to shape it."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Prepare(Section):
    """How media become the packed store; a change here means another store."""

    frames: int = Field(1, ge=1, le=64)
    """Frames kept of each clip: from the middles of as many equal stretches, or as frame_rate says."""
    frame_rate: float = Field(0.0, ge=0, le=240)
    """Frames a second, taken around the clip's middle; 0, or a clip too short for it: spread over all of the clip."""
    frame_size: int = Field(32, ge=8, le=512)
    """Height and width of a frame in pixels; the picture is squeezed to a square, as the published recipes do."""
    sample_rate: int = Field(16_000, ge=1_000, le=96_000)
    """Audio is resampled to this rate, in Hz, and mixed to mono."""
    seconds: float = Field(2.0, gt=0, le=60)
    """Length of audio a clip; shorter sound is filled up, longer sound is cut."""
    fill: Literal["silence", "repeat"] = "silence"
    """What follows a sound shorter than seconds: silence, or the same sound again."""
    spectrogram: Literal["mel", "stft", "psd", "fbank"] = "mel"
    """Log-mel bands, log-magnitude Fourier transform, log power density (SciPy's), or Kaldi's log-mel filter bank."""
    n_mels: int = Field(64, ge=8, le=512)
    """Mel bands (spectrogram mel and fbank)."""
    n_fft: int = Field(1024, ge=16, le=8192)
    """Window and Fourier length in samples."""
    hop_length: int = Field(512, ge=8, le=8192)
    """Samples between two windows."""
    sound_scaling: Literal["training", "clip", "audioset", "none"] = "training"
    """Spectrograms are standardised over the training clips, each over itself, with AudioSet's constants, or left."""
    frame_scaling: Literal["training", "imagenet"] = "training"
    """Frames are standardised a channel over the training clips, or with ImageNet's constants."""

    @model_validator(mode="after")
    def _windows_fit_into_the_sound(self) -> Self:
        window = self.spectrogram in ("psd", "fbank")
        if window and not self.hop_length <= self.n_fft <= self.seconds * self.sample_rate:
            raise ValueError(f"spectrogram {self.spectrogram} needs hop_length <= n_fft <= seconds * sample_rate")
        return self


_SCALED_AS_IMAGENET = {"frame_size": 224, "frame_scaling": "imagenet"}
RECIPES: dict[str, dict[str, Any]] = {
    "ogm_ge": _SCALED_AS_IMAGENET  # 257 x 188
    | {"sample_rate": 22_050, "seconds": 3.0, "fill": "repeat", "sound_scaling": "none"}
    | {"spectrogram": "stft", "n_mels": 64, "n_fft": 512, "hop_length": 353},
    "pmr": _SCALED_AS_IMAGENET  # 257 x 1004
    # Loaded at 22,050 Hz, but cut as if ten seconds were 160,000 samples.
    | {"sample_rate": 22_050, "seconds": 160_000 / 22_050, "fill": "repeat", "sound_scaling": "clip"}
    | {"spectrogram": "psd", "n_mels": 64, "n_fft": 512, "hop_length": 159},
    "audioset": _SCALED_AS_IMAGENET  # 128 x 1024
    | {"sample_rate": 16_000, "seconds": 10.24, "fill": "silence", "sound_scaling": "audioset"}
    | {"spectrogram": "fbank", "n_mels": 128, "n_fft": 400, "hop_length": 160},
}
"""Published recipes: `prepare.recipe: NAME` stands for these prepare.* fields, and fields given after it change it. All
but the number of frames is the recipe's; it is no field itself, a resolved configuration holds what it stands for."""


class Augment(Section):
    """Random changes of a training clip's frames, drawn by clip and epoch, the same for all frames of the clip."""

    crop: float = Field(0.8, gt=0, le=1)
    """Smallest side of the random crop as a share of the frame's side; 1 keeps the whole frame."""
    flip: bool = True
    """Mirror half of the clips left to right."""


class Model(Section):
    """The two encoders and what joins them."""

    encoder: Literal["small_cnn", "resnet18"] = "small_cnn"
    """Network of each modality; resnet18 starts from random weights."""
    width: int = Field(16, ge=4, le=256)
    """Channels of the first layer of small_cnn."""
    fusion: Literal["concat", "sum", "film", "gated"] = "concat"
    """How the two feature vectors become fused logits."""
    readout: Literal["split", "heads"] = "split"
    """Unimodal logits: the fused linear head cut in two (concat and sum), or one linear head a modality."""
    norm: Literal["batch", "sync_batch", "group"] = "batch"
    """Normalise over a worker's part of the batch, over all workers' (GPUs only), or each clip alone (group)."""

    @model_validator(mode="after")
    def _split_needs_a_linear_head(self) -> Self:
        if self.readout == "split" and self.fusion in ("film", "gated"):
            raise ValueError(f"readout split needs fusion concat or sum; with {self.fusion} set model.readout=heads")
        return self


class Optimizer(Section):
    """Optimiser and learning-rate schedule; the rate depends on the epoch alone."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = Field(0.05, gt=0, le=10)
    """Learning rate at the start."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(1e-4, ge=0, le=1)
    """Weight decay (decoupled with adamw)."""
    batch_size: int = Field(64, ge=1, le=4096)
    """Clips a step, over all workers."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """constant; step: times gamma every step_size epochs; cosine: to 0 over all epochs of the trial."""
    step_size: int = Field(70, ge=1, le=10_000)
    """Epochs between two drops of schedule step."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of one drop of schedule step."""


class Warmup(Section):
    """The first stage: CE(fused) + unimodal_weight * (CE(audio) + CE(visual)), the same for every clip."""

    epochs: int = Field(4, ge=0, le=1000, json_schema_extra=LATER)
    """Epochs before the adaptive stage."""
    unimodal_weight: float = Field(1.0, ge=0, le=100)
    """Weight of the unimodal losses during warm-up (its own field, so that loss.* never changes the warm-up)."""


class Gap(Section):
    """What the mixture over the gaps is fitted to: that of gmm_adaptive, and of purification but after gmm_scores."""

    score: Literal["absolute", "signed", "min_score"] = Field("absolute", json_schema_extra=LATER)
    """|gap|, the gap, or 1 - min(score audio, score visual)."""
    source: Literal["training", "fresh"] = Field("training", json_schema_extra=LATER)
    """Scores from the epoch's own forward passes; fresh adds a pass without augmentation before each refit."""


class Mixture(Section):
    """Fitting of the mixture, for gmm_adaptive and gmm_scores."""

    refit_every: int = Field(1, ge=1, le=1000, json_schema_extra=LATER)
    """Adaptive epochs between two fits."""
    n_init: int = Field(4, ge=1, le=50, json_schema_extra=LATER)
    """Random starts of the first fit; later fits start from the last one too."""
    posterior: Literal["fitted", "shuffled", "inverted", "constant"] = Field("fitted", json_schema_extra=LATER)
    """fitted, or a control: shuffled within each class (one fixed permutation), inverted (1 - p), constant (mean)."""


class Loss(Section):
    """Weights of the adaptive stage's loss (DESIGN: the method)."""

    fusion_weight: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the fused cross-entropy."""
    unimodal_weight: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the sum of both unimodal cross-entropies."""
    align_weight: float = Field(0.5, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the alignment term."""
    shift_weight: float = Field(0.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight, inside the alignment term, of pulling imbalanced clips to the balanced mean (gmm_adaptive)."""
    focus: float = Field(3.0, ge=0, le=100, json_schema_extra=LATER)
    """How much more a balanced clip weighs than an imbalanced one: weights 1 + focus * P(balanced)."""
    focus_scope: Literal["all", "fusion"] = Field("all", json_schema_extra=LATER)
    """Focus the fused and unimodal losses, or the fused loss alone (gmm_adaptive)."""


class Align(Section):
    """The alignment term."""

    kind: Literal["kl", "gap_weak", "gap_both"] = Field("kl", json_schema_extra=LATER)
    """KL from the stronger modality to the weaker; |stronger - weaker| moving only the weaker; |gap| moving both."""
    focus: Literal["imbalanced", "balanced", "uniform"] = Field("imbalanced", json_schema_extra=LATER)
    """Clips on which gmm_adaptive aligns more."""
    mask: Literal["balanced", "all"] = Field("balanced", json_schema_extra=LATER)
    """Clips on which gmm_scores aligns."""


class Scores(Section):
    """The two-dimensional separator of gmm_scores."""

    beta: float = Field(0.8, ge=0, lt=1)
    """Memory of the averaged scores: 0 keeps the last epoch alone."""
    components: int = Field(4, ge=2, le=16, json_schema_extra=LATER)
    """Components of the mixture over the pair of scores."""
    reg_covar: float = Field(1e-3, gt=0, le=1, json_schema_extra=LATER)
    """Added to the diagonal of each covariance."""
    separator: Literal["scores2d", "scores1d", "min_score", "raw"] = Field("scores2d", json_schema_extra=LATER)
    """One mixture over the pair, one a modality, one over the smaller score, or the averaged scores themselves."""
    weights: Literal["per_modality", "all"] = Field("per_modality", json_schema_extra=LATER)
    """Weigh each modality's loss by its own reliability, or all terms by the joint one."""


class Purify(Section):
    """The last stage: plain fine-tuning on the balanced subset."""

    epochs: int = Field(0, ge=0, le=1000, json_schema_extra=LATER)
    """Epochs of fine-tuning at the end; 0 leaves the stage out."""
    threshold: float = Field(0.5, ge=0, le=1, json_schema_extra=LATER)
    """A clip is kept if P(balanced) reaches this."""
    class_floor: float = Field(0.25, ge=0, le=1, json_schema_extra=LATER)
    """Share of each class that is kept at least (the clips with the highest P(balanced))."""
    subset: Literal["filtered", "random"] = Field("filtered", json_schema_extra=LATER)
    """filtered, or a control: a random subset with the same number of clips in each class."""


class Ogm(Section):
    """Methods ogm and ogm_ge."""

    alpha: float = Field(0.8, ge=0, le=10, json_schema_extra=LATER)
    """How much the gradients of the modality that is ahead shrink: by 1 - tanh(alpha * ratio of the scores)."""
    epochs: int = Field(50, ge=1, le=10_000, json_schema_extra=LATER)
    """Adaptive epochs with modulation; those after them train plainly."""


class MMPareto(Section):
    """Method mmpareto."""

    gamma: float = Field(1.5, gt=0, le=10, json_schema_extra=LATER)
    """Factor on the encoders' gradients."""


class GradientBlending(Section):
    """Method gradient_blending."""

    super_epoch: int = Field(10, ge=1, le=1000, json_schema_extra=LATER)
    """Adaptive epochs between two estimates of the weights."""
    held_out: float = Field(0.1, gt=0, lt=1, json_schema_extra=LATER)
    """Share of each class that the method does not train on, and measures overfitting with."""


class MMCosine(Section):
    """Method mmcosine."""

    scale: float = Field(10.0, gt=0, le=1000)
    """Factor on the cosines of features and class weights."""


class Opm(Section):
    """Method opm."""

    q_base: float = Field(0.5, ge=0, lt=1, json_schema_extra=LATER)
    """Chance that a clip's feature of the modality ahead is dropped, before its lead is added."""
    strength: float = Field(0.5, ge=0, le=10, json_schema_extra=LATER)
    """How much the lead adds: q_base * strength * tanh(ratio of the scores - 1)."""
    executed: float = Field(0.7, ge=0, le=1, json_schema_extra=LATER)
    """Share of the steps in which features are dropped."""


class Cml(Section):
    """Method cml."""

    weight: float = Field(0.1, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the penalty on a modality that is surer than both together."""


class Dus(Section):
    """Data-aware unimodal sampling, on top of a method with unimodal losses: fewer clips for the modality ahead."""

    kind: Literal["none", "heuristic", "ppo"] = Field("none", json_schema_extra=LATER)
    """Off, by the ratio of the cumulative scores, or by a policy that learns what raises the fused score."""
    strength: float = Field(1.0, ge=0, le=10, json_schema_extra=LATER)
    """heuristic: how much fewer clips the dominant modality draws for its lead."""
    floor: float = Field(0.25, gt=0, le=1, json_schema_extra=LATER)
    """heuristic: share of the batch that a modality draws at least."""


class Pmr(Section):
    """Method pmr."""

    alpha: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the slower modality's prototype loss."""
    momentum: float = Field(0.2, ge=0, lt=1, json_schema_extra=LATER)
    """Share of the last epoch's prototypes in the new ones."""
    share: float = Field(0.1, gt=0, le=1, json_schema_extra=LATER)
    """Share of each class's training clips, drawn anew each epoch, that its prototype is the mean of."""
    entropy_weight: float = Field(0.01, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the faster modality's entropy regularisation."""
    entropy_epochs: int = Field(10, ge=0, le=10_000, json_schema_extra=LATER)
    """First adaptive epochs, which alone have that regularisation."""


class Agm(Section):
    """Method agm."""

    alpha: float = Field(1.0, ge=0, le=10, json_schema_extra=LATER)
    """How strongly a modality's gradients follow its share of the answer."""
    clip_norm: float = Field(1.0, gt=0, le=1e6, json_schema_extra=LATER)
    """Where an entry of the fusion's gradient exceeds this, all gradients are clipped to this norm."""


class Mla(Section):
    """Method mla."""

    alpha: float = Field(0.1, gt=0, lt=1, json_schema_extra=LATER)
    """Softness of the projection of the shared head's gradients: it falls from alpha to alpha squared in an epoch."""
    fusion: Literal["dynamic", "fixed"] = "dynamic"
    """Answer weighted by how sure each modality is of the clip, or the mean of both."""


class Umt(Section):
    """Method umt."""

    weight: float = Field(1.0, ge=0, le=1000, json_schema_extra=LATER)
    """Weight of the distance to the teachers' features."""


class Relearning(Section):
    """Method relearning."""

    strength: float = Field(3.0, ge=0, le=100, json_schema_extra=LATER)
    """How far encoders go back to their initial weights: by tanh(strength * difference of the purities)."""
    every: int = Field(20, ge=1, le=1000, json_schema_extra=LATER)
    """Adaptive epochs between two re-initialisations."""
    times: int = Field(3, ge=0, le=1000, json_schema_extra=LATER)
    """Re-initialisations at most."""
    held_out: float = Field(0.1, gt=0, lt=1, json_schema_extra=LATER)
    """Share of each class that the method does not train on, and diagnoses with."""


class Resample(Section):
    """Method resample."""

    level: Literal["sample", "modality"] = Field("sample", json_schema_extra=LATER)
    """Train more on each clip's own weak modality, or on the modality that is weaker over all clips."""
    part: float = Field(0.2, gt=0, le=1, json_schema_extra=LATER)
    """modality: share of the training clips that the contributions are measured on before each epoch."""
    alpha: float = Field(1.0, ge=0, le=10, json_schema_extra=LATER)
    """modality: how many clips more for a difference of the contributions."""


class ReconBoost(Section):
    """Method reconboost."""

    boost_epochs: int = Field(4, ge=1, le=1000, json_schema_extra=LATER)
    """Adaptive epochs of one modality alone."""
    rectify_epochs: int = Field(4, ge=0, le=1000, json_schema_extra=LATER)
    """Epochs of both together after them; then the other modality has its turn."""
    reconcile: float = Field(0.2, ge=0, le=1, json_schema_extra=LATER)
    """How much less a clip counts that the other modality is right about."""
    consolidate: float = Field(0.1, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the squared distance to the other modality's probabilities."""


class Lfm(Section):
    """Method lfm."""

    temperature: float = Field(0.07, gt=0, le=10, json_schema_extra=LATER)
    """Of the contrast between the features of both modalities."""


class Compute(Section):
    """How the arithmetic is done."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 autocast, or single precision."""
    threads: int = Field(1, ge=1, le=256)
    """CPU threads of a worker; in the configuration because the last bits of a sum depend on it."""
    workers: int = Field(1, ge=1, le=1024)
    """Processes that train a trial together, each a part of every batch; the last bits depend on it too."""


class TrialConfig(Section):
    """One training run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this schema, written with every saved configuration."""
    method: str = "gmm_scores"
    """Training method; raygap.methods.METHODS lists them."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Every random draw follows from it, the epoch, the clip or step, and the purpose."""
    epochs: int = Field(12, ge=1, le=10_000)
    """All epochs: warm-up + adaptive + purification."""
    select_epoch: Literal["best", "last"] = Field("best", json_schema_extra=LATER)
    """Weights that are kept and tested: the epoch with the best validation accuracy after warm-up, or the last."""
    protocol: Literal["validation", "paper"] = "validation"
    """validation: chosen on validation. paper: trained on train and validation, chosen on TEST, as most tables are."""
    prepare: Prepare = Prepare()
    augment: Augment = Augment()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    warmup: Warmup = Warmup()
    gap: Gap = Gap()
    mixture: Mixture = Mixture()
    loss: Loss = Loss()
    align: Align = Align()
    scores: Scores = Scores()
    purify: Purify = Purify()
    ogm: Ogm = Ogm()
    mmpareto: MMPareto = MMPareto()
    gradient_blending: GradientBlending = GradientBlending()
    mmcosine: MMCosine = MMCosine()
    opm: Opm = Opm()
    cml: Cml = Cml()
    dus: Dus = Dus()
    pmr: Pmr = Pmr()
    agm: Agm = Agm()
    mla: Mla = Mla()
    umt: Umt = Umt()
    relearning: Relearning = Relearning()
    resample: Resample = Resample()
    reconboost: ReconBoost = ReconBoost()
    lfm: Lfm = Lfm()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _stages_fit_into_epochs(self) -> Self:
        if self.warmup.epochs + self.purify.epochs > self.epochs:
            raise ValueError(
                f"warmup.epochs ({self.warmup.epochs}) + purify.epochs ({self.purify.epochs}) exceed "
                f"epochs ({self.epochs}); raise epochs or shorten a stage"
            )
        return self


def field_paths(section: type[Section] = TrialConfig, prefix: str = "") -> dict[str, Any]:
    """Every leaf field of the schema as dotted path -> pydantic FieldInfo."""
    paths: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            paths |= field_paths(info.annotation, f"{prefix}{name}.")
        else:
            paths[prefix + name] = info
    return paths


def shapes_warmup(path: str) -> bool:
    """Whether a field can change a trial before its warm-up ends."""
    return (field_paths()[path].json_schema_extra or {}).get("shapes_warmup", True)


def check_path(path: str, source: str) -> None:
    """Raise UserError, with the nearest valid name, if the schema has no field at this dotted path."""
    path, paths = str(path), field_paths()
    if path not in paths:
        # A bare leaf name ("align_weigth") should find its dotted path too.
        leaves = {p.rsplit(".", 1)[-1]: p for p in paths}
        near = difflib.get_close_matches(path, paths, n=1, cutoff=0.6)
        near = near or [leaves[n] for n in difflib.get_close_matches(path.rsplit(".", 1)[-1], leaves, n=1)]
        hint = f"did you mean {near[0]}?" if near else "the fields are listed in raygap/config.py"
        raise UserError(f"{source}: unknown field {path!r}; {hint}")


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested and dotted keys alike, as one flat dict of dotted paths; a recipe is replaced by its fields.

    Raises UserError for an unknown recipe.
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" == "prepare.recipe":
            if value not in RECIPES:
                raise UserError(f"prepare.recipe = {value!r}: unknown recipe; choose from {', '.join(RECIPES)}")
            flat |= {f"prepare.{field}": setting for field, setting in RECIPES[value].items()}
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def from_mapping(mapping: Mapping[str, Any], source: str = "configuration") -> TrialConfig:
    """Build a checked TrialConfig from nested and/or dotted keys; `source` names the file in errors.

    Raises UserError (one line) for an unknown field, a wrong type, a value out of bounds, or stages longer than epochs.
    """
    flat = flatten(mapping)
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        check_path(path, source)
        if isinstance(value, bool) and field_paths()[path].annotation in (int, float):
            raise UserError(f"{source}: {path} = {value}: Input should be a number")
        *sections, leaf = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    try:
        return TrialConfig.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if path not in flat:  # raised by a section as a whole
            raise UserError(f"{source}: {message}") from None
        raise UserError(f"{source}: {path} = {flat[path]!r}: {message}") from None


def to_mapping(config: TrialConfig) -> dict[str, Any]:
    """Nested plain dict, as written to YAML; from_mapping reads it back."""
    return config.model_dump(mode="python")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, safely; "-" is standard input. Raises UserError if it is missing, not YAML or no mapping."""
    try:
        content = yaml.safe_load(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}: not valid YAML{where}: {str(getattr(error, 'problem', error)).splitlines()[0]}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of fields to values")
    return content


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["loss.focus=2", ...]` as a flat dict; values are read as YAML. Raises UserError without an '='."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: expected field=value")
        try:
            given = flatten({path.strip(): yaml.safe_load(text)})
        except yaml.YAMLError:
            raise UserError(f"--set {assignment}: the value is not valid YAML") from None
        for field in given:
            check_path(field, "--set")
        values |= given
    return values
