"""What every trial has: each field is documented, bounded and defaulted here. What a method adds stands in its file."""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from raygap.errors import UserError
from raygap.plugins import is_plugin

SCHEMA_VERSION: Literal[2] = 2
LATER: dict[str, Any] = {"shapes_warmup": False}
"""Marks a field that changes nothing before the warm-up ends; every field without the mark is taken to shape it."""


def acts_when(*cases: dict[str, Any]) -> dict[str, Any]:
    """Marks a field, or a section by its `model_config`, that can only act in one of these cases.

    A case holds when each field in it meets its condition: a value, a tuple of values (or patterns, as "*:*"),
    "!=VALUE" or ">NUMBER". Besides fields, `method.NAME` asks the method's class for a flag. A field without the mark
    is taken to act always.
    """
    return {"acts_when": cases}


_PURIFYING = {"purify.epochs": ">0"}


class Section(BaseModel):
    # What fields say of themselves stays in the source: to read it there at each start takes longer than their checks.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @property
    def in_use(self) -> bool:
        """Whether a configuration is written down with it."""
        return True


class Prepare(Section):
    """How media become the packed store; a change here means another store."""

    input: Literal["media", "features"] = "media"
    """Video and sound, as all below says; or features of clips that other networks have made, as they are."""
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
    spectrogram: Literal["mel", "stft", "psd", "fbank", "waveform"] = "mel"
    """Log-mel bands, log-magnitude Fourier transform, log power density (SciPy's), or Kaldi's log-mel filter bank; or
    the waveform itself, for encoders that take it."""
    n_mels: int = Field(64, ge=8, le=512, json_schema_extra=acts_when({"prepare.spectrogram": ("mel", "fbank")}))
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


_MEDIA = {"prepare.input": "media"}
_SPECTROGRAMS = {"prepare.spectrogram": ("mel", "stft", "psd", "fbank")}


class Augment(Section):
    """Random changes of training clips, drawn by clip and epoch; of frames the same for all of a clip."""

    crop: float = Field(0.8, gt=0, le=1, json_schema_extra=acts_when(_MEDIA))
    """Smallest side of the random crop as a share of the frame's side; 1 keeps the whole frame."""
    flip: bool = Field(True, json_schema_extra=acts_when(_MEDIA))
    """Mirror half of the clips left to right."""
    frames: Literal["none", "randaugment", "trivialaugment"] = Field("none", json_schema_extra=acts_when(_MEDIA))
    """Policy for the cropped frames, torchvision's: two random operations (RandAugment), or one of random strength."""
    magnitude: int = Field(9, ge=0, le=30, json_schema_extra=acts_when(_MEDIA | {"augment.frames": "randaugment"}))
    """Strength of RandAugment's operations."""
    gain: float = Field(0.0, ge=0, le=40, json_schema_extra=acts_when(_MEDIA | {"prepare.sound_scaling": "!=clip"}))
    """Sound is made louder or softer by up to as many dB (not where each clip is standardised over itself)."""
    noise: float = Field(0.0, ge=0, le=10, json_schema_extra=acts_when(_MEDIA))
    """Normal noise on the spectrogram (or waveform), its deviation in those of the clip's own."""
    time_mask: float = Field(0.0, ge=0, lt=1, json_schema_extra=acts_when(_MEDIA))
    """SpecAugment: longest stretch of the spectrogram's time, as a share of all, that the clip's mean replaces."""
    frequency_mask: float = Field(0.0, ge=0, lt=1, json_schema_extra=acts_when(_MEDIA | _SPECTROGRAMS))
    """The same of its bands."""
    masks: int = Field(
        1,
        ge=1,
        le=20,
        json_schema_extra=acts_when(
            _MEDIA | {"augment.time_mask": ">0"}, _MEDIA | _SPECTROGRAMS | {"augment.frequency_mask": ">0"}
        ),
    )
    """Stretches of either kind a clip."""
    drop_audio: float = Field(0.0, ge=0, lt=1)
    """Modality dropout: share of the clips whose sound the fusion does not get in a step (zero features). The unimodal
    losses and scores are of whole clips."""
    drop_visual: float = Field(0.0, ge=0, lt=1)
    """The same of the picture; no clip lacks both."""
    mixup: float = Field(0.0, ge=0, le=10)
    """Mixup: each clip is mixed with another of its batch, and its label too, in shares of Beta(mixup, mixup); 0: none.
    The larger share is the clip's own."""
    mixup_partner: Literal["shared", "own"] = Field("shared", json_schema_extra=acts_when({"augment.mixup": ">0"}))
    """Both modalities are mixed with one other clip, in equal shares; or each with another clip in shares of its own:
    the unimodal losses then go by their modality's labels, the fused loss by the mean of both."""

    @model_validator(mode="after")
    def _one_modality_is_left(self) -> Self:
        if self.drop_audio + self.drop_visual > 1:
            raise ValueError(
                f"augment.drop_audio ({self.drop_audio}) + augment.drop_visual ({self.drop_visual}) exceed 1: "
                "each clip keeps one modality; lower either"
            )
        return self


MODALITIES = ("audio", "visual")
WEIGHTS = tuple(f"model.{modality}.weights" for modality in MODALITIES)
URLS = ("http://", "https://", "file://")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
TORCHVISION = (
    *RESNETS,
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_v2_s"),
    *("mobilenet_v3_small", "mobilenet_v3_large", "densenet121", "regnet_y_400mf", "regnet_y_1_6gf"),
    *("convnext_tiny", "convnext_small", "convnext_base", "swin_t", "swin_s"),
    *("vit_b_16", "vit_b_32", "vit_l_16"),
)
"""Networks of torchvision for one picture at a time, by its own names."""
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "mvit_v1_b", "mvit_v2_s", "swin3d_t")
"""Networks of torchvision for all frames of a clip together."""
WAVEFORM = (
    *("wav2vec2_base", "wav2vec2_large", "wav2vec2_large_lv60k"),
    *("wav2vec2_xlsr53", "wav2vec2_xlsr_300m", "wav2vec2_xlsr_1b", "wav2vec2_xlsr_2b"),
    *("hubert_base", "hubert_large", "hubert_xlarge", "wavlm_base", "wavlm_base_plus", "wavlm_large"),
)
"""Networks of torchaudio for sound at 16,000 Hz as it is (prepare.spectrogram=waveform), named as its bundles are."""
FEATURES = ("linear", "mlp", "transformer")
"""Networks for features that other networks have made (prepare.input=features)."""
ENCODERS = ("pooled", "small_cnn", *TORCHVISION, *VIDEO, *WAVEFORM, *FEATURES)
TIMM = "timm:"
"""Before the name of a network of timm's."""
_WIDE = ("pooled", "small_cnn", *FEATURES, "*:*")
_OWN_WIDE = tuple({f"model.{modality}.encoder": _WIDE} for modality in MODALITIES)


def _encoder(name: str | None) -> str | None:
    if name is not None and name not in ENCODERS and not is_plugin(name):
        near = difflib.get_close_matches(name, ENCODERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(ENCODERS)}"
        raise ValueError(f"not the name of an encoder, package.module:function or timm:NAME; {hint}")
    return name


class Encoder(Section):
    """The encoder of one modality: where it differs from the other's, its weights, and how they are trained."""

    encoder: Annotated[str | None, AfterValidator(_encoder)] = None
    """As model.encoder, for this modality alone; none: model.encoder."""
    width: int | None = Field(None, ge=4, le=256, json_schema_extra=acts_when({"model.encoder": _WIDE}, *_OWN_WIDE))
    """As model.width, for this modality alone; none: model.width."""
    weights: str = Field("none", min_length=1)
    """none: random. DEFAULT, or a name of the library's: pretrained ones. Or a file (or URL) with a state dict."""
    lr_factor: float = Field(1.0, gt=0, le=100)
    """Factor on the learning rate of this encoder's weights."""
    frozen_epochs: int = Field(0, ge=0, le=10_000)
    """First epochs in which this encoder stays as it is: its weights, and the statistics of its normalisation."""
    frozen_until: str = ""
    """Its stages up to and with the one of this name (as layer2 of a ResNet) stay as they are in all epochs."""

    @property
    def in_use(self) -> bool:
        """Whether anything of it is set."""
        return self != Encoder()


class Model(Section):
    """The two encoders and what joins them."""

    encoder: Annotated[str, AfterValidator(_encoder)] = "small_cnn"
    """Network of either modality: small_cnn, pooled (one linear layer over a coarse grid, for few clips), one of
    torchvision's, timm:NAME, or package.module:function of one's own; from random weights, unless model.audio.weights
    or model.visual.weights name others."""
    width: int = Field(16, ge=4, le=256, json_schema_extra=acts_when({"model.encoder": _WIDE}, *_OWN_WIDE))
    """Channels of the first layer of small_cnn, a quarter of the feature vectors of it, pooled, linear, mlp and
    transformer; an encoder of one's own may make of it what it likes."""
    audio: Encoder = Encoder()
    """The encoder of the sound."""
    visual: Encoder = Encoder()
    """The encoder of the pictures."""
    fusion: Literal["concat", "sum", "film", "gated"] = "concat"
    """How the two feature vectors become fused logits."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the numbers of both feature vectors that are left out in a training step, anew for each clip."""
    readout: Literal["split", "heads"] = "split"
    """Unimodal logits: the fused linear head cut in two (concat and sum), or one linear head a modality."""
    norm: Literal["batch", "sync_batch", "group"] = "batch"
    """Normalise over a worker's part of the batch, over all workers' (GPUs only), or each clip alone (group)."""

    def of(self, modality: str) -> "Model":
        """The settings as this modality's encoder has them."""
        own: Encoder = getattr(self, modality)
        return self.model_copy(update={"encoder": own.encoder or self.encoder, "width": own.width or self.width})

    @model_validator(mode="after")
    def _split_needs_a_linear_head(self) -> Self:
        if self.readout == "split" and self.fusion in ("film", "gated"):
            raise ValueError(f"readout split needs fusion concat or sum; with {self.fusion} set model.readout=heads")
        return self


class Optimizer(Section):
    """Optimiser, learning-rate schedule and what a step of the weights is; the rate depends on the epoch, and on the
    step only while it rises (ramp_epochs)."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = Field(0.05, gt=0, le=10)
    """Learning rate at the start."""
    momentum: float = Field(0.9, ge=0, lt=1, json_schema_extra=acts_when({"optimizer.name": "sgd"}))
    """Momentum of SGD."""
    weight_decay: float = Field(1e-4, ge=0, le=1)
    """Weight decay (decoupled with adamw)."""
    batch_size: int = Field(64, ge=1, le=4096)
    """Clips a batch, over all workers; a step has optimizer.accumulate batches."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """constant; step: times gamma every step_size epochs; cosine: to 0 over all epochs of the trial."""
    step_size: int = Field(70, ge=1, le=10_000, json_schema_extra=acts_when({"optimizer.schedule": "step"}))
    """Epochs between two drops of schedule step."""
    gamma: float = Field(0.1, gt=0, le=1, json_schema_extra=acts_when({"optimizer.schedule": "step"}))
    """Factor of one drop of schedule step."""
    ramp_epochs: float = Field(0.0, ge=0, le=1000)
    """The learning rate rises step by step from 0 to the schedule's over as many first epochs (0.5: half of the first);
    0: from the first step on it is the schedule's. Not the stage warm-up."""
    clip_norm: float = Field(0.0, ge=0, le=1e6)
    """Gradients of all weights together are scaled down to this norm where theirs is larger; 0: left as they are."""
    accumulate: int = Field(1, ge=1, le=1024)
    """Batches a step: their gradients are averaged over the clips. As accumulate * batch_size clips in one batch, in
    less memory, but that batches are normalised alone (model.norm=batch)."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay a step of a moving average of the weights, and of the statistics of normalisation: it is validated, kept in
    best.pt and tested in their place; 0: none. Of 0.99 it holds about the last 100 steps."""


class Labels(Section):
    """How the labels enter the losses, in all stages and of both modalities; methods multiply what follows by their own
    weights of each clip."""

    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes alike."""
    class_weights: float = Field(0.0, ge=0, le=1)
    """A clip's cross-entropies are divided by the number of its class's training clips to this power, and scaled so
    that the mean factor over all of these is 1; 1: all classes count alike, 0: all clips."""
    draw: Literal["clips", "classes"] = "clips"
    """An epoch has each training clip once; or as many clips, of all classes equally many, those of a class in turns,
    also from epoch to epoch."""


class Warmup(Section):
    """The first stage: CE(fused) + unimodal_weight * (CE(audio) + CE(visual)), the same for every clip."""

    epochs: int = Field(4, ge=0, le=1000, json_schema_extra=LATER)
    """Epochs before the adaptive stage."""
    unimodal_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        json_schema_extra=acts_when(
            {"method.plain_unimodal": True, "warmup.epochs": ">0"}, {"method.plain_unimodal": True} | _PURIFYING
        ),
    )
    """Weight of the unimodal losses during warm-up (its own field, so that loss.* never changes the warm-up)."""


class Gap(Section):
    """What the mixture is fitted to."""

    score: Literal["absolute", "signed", "min_score"] = Field(
        "absolute",
        json_schema_extra=LATER
        | acts_when(
            {"method.own_separator": False, "method.guided": True}, {"method.own_separator": False} | _PURIFYING
        ),
    )
    """|gap|, the gap, or 1 - min(score audio, score visual), for all mixtures but that of gmm_scores."""
    source: Literal["training", "fresh", "history"] = Field(
        "training", json_schema_extra=LATER | acts_when({"method.guided": True}, _PURIFYING)
    )
    """Scores of this training's own passes; those of a pass without augmentation before each refit; or the history:
    their mean over all epochs of plain trainings with other seeds, which are trained first (see history.*)."""


class History(Section):
    """The plain trainings that are scored, and shared by all trials with the same data, model and optimiser."""

    model_config = ConfigDict(json_schema_extra=acts_when({"gap.source": "history"}))

    runs: int = Field(2, ge=1, le=10, json_schema_extra=LATER)
    """Scoring trainings: unimodal_losses, as long as the trial, with warmup.unimodal_weight. A sweep pools its first
    plain trials in their place, at least two."""
    seed: int = Field(1_000_000_000, ge=0, le=2**31 - 11, json_schema_extra=LATER)
    """Seed of the first of them; the others count up. It does not follow from the trial's, so that seeds share them."""
    pool: str | None = Field(None, min_length=24, max_length=24, json_schema_extra=LATER)
    """Key of a history that a sweep has pooled from its plain trials; none: scoring trainings. The file
    .histories/KEY.parquet is looked for in the folder of the run, or of its configuration, and in those above."""


class Mixture(Section):
    """Fitting of the mixture, for gmm_adaptive and gmm_scores."""

    refit_every: int = Field(1, ge=0, le=1000, json_schema_extra=LATER | acts_when({"method.guided": True}))
    """Adaptive epochs between two fits; 0: one fit, at their start. Later ones add this training's own scores to those
    of a history."""
    n_init: int = Field(
        4,
        ge=1,
        le=50,
        json_schema_extra=LATER
        | acts_when({"method.guided": True, "scores.separator": "!=raw"}, {"scores.separator": "!=raw"} | _PURIFYING),
    )
    """Random starts of the first fit; later fits start from the last one too."""
    posterior: Literal["fitted", "shuffled", "inverted", "constant"] = Field(
        "fitted", json_schema_extra=LATER | acts_when({"method.guided": True}, _PURIFYING)
    )
    """fitted, or a control: shuffled within each class (one fixed permutation), inverted (1 - p), constant (mean)."""


class Purify(Section):
    """The last stage: plain fine-tuning on the balanced subset."""

    epochs: int = Field(0, ge=0, le=1000, json_schema_extra=LATER)
    """Epochs of fine-tuning at the end; 0 leaves the stage out."""
    threshold: float = Field(0.5, ge=0, le=1, json_schema_extra=LATER | acts_when(_PURIFYING))
    """A clip is kept if P(balanced) reaches this."""
    class_floor: float = Field(0.25, ge=0, le=1, json_schema_extra=LATER | acts_when(_PURIFYING))
    """Share of each class that is kept at least (the clips with the highest P(balanced))."""
    subset: Literal["filtered", "random"] = Field("filtered", json_schema_extra=LATER | acts_when(_PURIFYING))
    """filtered, or a control: a random subset with the same number of clips in each class."""


class Compute(Section):
    """How the arithmetic is done."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Single precision; or autocast to bf16, or, on GPUs alone, to fp16, for those without bf16: the loss is multiplied
    by a scale that falls by half when gradients overflow, and such a step is left out."""
    threads: int = Field(1, ge=1, le=256)
    """CPU threads of a worker; in the configuration because the last bits of a sum depend on it."""
    workers: int = Field(1, ge=1, le=1024)
    """Processes that train a trial together, each a part of every batch; the last bits depend on it too."""


class TrialConfig(Section):
    """One training run; what schema.py makes has its method's sections too."""

    schema_version: Literal[2] = SCHEMA_VERSION
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
    labels: Labels = Labels()
    warmup: Warmup = Warmup()
    gap: Gap = Gap()
    history: History = History()
    mixture: Mixture = Mixture()
    purify: Purify = Purify()
    compute: Compute = Compute()

    if TYPE_CHECKING:  # the sections of the method

        def __getattr__(self, name: str) -> Any: ...

    @model_validator(mode="after")
    def _stages_fit_into_epochs(self) -> Self:
        warmup, purify, epochs = self.warmup.epochs, self.purify.epochs, self.epochs
        if warmup + purify > epochs:
            # Both in proportion, so that one adaptive epoch is left.
            shorter = (epochs - 1) * warmup // (warmup + purify)
            lengths = {"warmup.epochs": shorter, "purify.epochs": epochs - 1 - shorter if purify else 0}
            options = [f"--set {path}={length}" for path, length in lengths.items() if (warmup, purify)[path[0] == "p"]]
            raise ValueError(
                f"warmup.epochs ({warmup}) + purify.epochs ({purify}) exceed epochs ({epochs}); "
                f"add --epochs {warmup + purify + 1}, or {' '.join(options)}"
            )
        return self


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


def is_weights_file(weights: str) -> bool:
    """Whether they are a file or URL, not a name of a library's."""
    return "/" in weights or "." in weights


def with_whole_paths(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values, or search space entries, by dotted path, with files of weights by their whole paths: those who train work
    in other folders than the one in which a path is given.

    >>> with_whole_paths({"model.audio.weights": "/data/../net.pt", "epochs": 3})
    {'model.audio.weights': '/net.pt', 'epochs': 3}
    """

    def whole(value: Any) -> Any:
        if isinstance(value, str) and is_weights_file(value) and not value.startswith(URLS):
            return str(Path(value).expanduser().resolve())
        if isinstance(value, list):
            return [whole(one) for one in value]
        return {name: whole(one) for name, one in value.items()} if isinstance(value, Mapping) else value

    return {path: whole(value) if path in WEIGHTS else value for path, value in fields.items()}


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
