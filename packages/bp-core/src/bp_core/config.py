"""The settings of training, help and range beside the default. Command line, environment and docs derive from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .choices import (
    LORA_RANKS,
    RANK,
    Attention,
    DType,
    Init,
    LoraPreset,
    Method,
    ModeSetting,
    Optimizer,
    TextUnit,
    ToolSchema,
    ToolsTemplate,
    TrainOn,
)
from .clashes import CLASHES
from .settings import Panel, Range, Trait, check

# What an unset setting becomes when nothing better can be computed.
EPOCHS = 3.0
BATCH_SIZE = 8
EVALUATIONS = 10
FULL_LIMIT = 4_000_000_000  # parameters; beyond, weights, gradients and moments outgrow any single card of a person
OFFLOAD_LIMIT = 8_500_000_000  # with all of that in the host's memory
BFLOAT16_CARD = (8, 0)  # compute capability: the first that multiplies in bfloat16
FLASH_CARD = (8, 0)  # compute capability: the first that flash-attention 2 runs on
FP8_CARD = (8, 9)  # compute capability: the first that multiplies in float8
MAX_LENGTH, TRACE_LENGTH = 2048, 8192  # tokens of an example, without and with a reasoning trace

# From the papers: arXiv:2403.07691 (ORPO), arXiv:2405.14734 (SimPO), arXiv:2402.01306 (KTO).
RATES: dict[Method, float] = {"orpo": 8e-6, "simpo": 1e-6, "kto": 1e-6}
BETAS: dict[Method, float] = {"orpo": 0.1, "simpo": 2.0, "kto": 0.1}
GAMMA = 1.0
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class DataConfig:
    """How data files are read: the same for training, evaluating and every `backprop data` command."""

    columns: Annotated[
        str,
        "Names of the data's columns, ours first: prompt=question,completion=reply. A name with a comma stands in "
        "double quotes.",
        Panel.DATA,
        Trait.LOCAL | Trait.MERGED | Trait.NAMES,
    ] = ""
    ignore_columns: Annotated[
        str, "Columns to read as if they were not there: summary,label.", Trait.LOCAL | Trait.MERGED | Trait.NAMES
    ] = ""
    roles: Annotated[
        str,
        "Names of the data's roles, ours first: user=customer,assistant=agent.",
        Trait.LOCAL | Trait.MERGED | Trait.NAMES,
    ] = ""
    text_unit: Annotated[
        TextUnit,
        "What is one row of a .txt or .md file: the whole document, a paragraph (blank lines between) or a line.",
        Trait.MERGED,
    ] = "paragraph"
    max_expanded: Annotated[
        float, "Largest size in GiB of a compressed file when it is expanded.", Range(1e-6), Trait.FREE
    ] = 4.0
    max_ratio: Annotated[
        float, "How many times larger than the file a compressed file may be when it is expanded.", Range(1), Trait.FREE
    ] = 200.0
    max_row: Annotated[float, "Largest size of one row in MiB.", Range(1e-6), Trait.FREE] = 64.0


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """What a user may set for a training run. None means: computed from the model, the data and the machine."""

    model: Annotated[
        str,
        "Base model: a preset, hub id (owner/name, or owner/name@revision), folder, .gguf file, or ollama:NAME for one"
        " that Ollama has here.",
        Panel.MODEL,
        Trait.LOCAL,
    ] = "smollm2-135m"
    backend: Annotated[
        str,
        "Where to train: auto, or the name of an installed backend (cuda, mlx, cpu, null).",
        Trait.NEEDS | Trait.LOCAL,
    ] = "auto"
    mode: Annotated[
        ModeSetting,
        "lora: a small adapter beside frozen weights. qlora: the same, with the frozen weights in 4 bits; lora-8bit: "
        "in 8. full: all weights, of models up to 4 billion parameters. auto: lora, or on a card qlora where lora does "
        "not fit into its free memory.",
        Trait.NEEDS | Trait.MERGED,
    ] = "auto"
    dtype: Annotated[
        DType, "Number format of the base weights while training. auto: bfloat16 where it is fast.", Trait.NEEDS
    ] = "auto"
    samples: Annotated[
        int | None, "Use only the first so many examples of the data.", Range(1), Panel.DATA, Trait.FREE
    ] = None
    held_out: Annotated[
        float | None,
        "Share of the different conversations to hold out for evaluation, such as 0.05. Default: none.",
        Range(1e-9, 0.999999),
    ] = None
    eval_data: Annotated[
        str | None, "A file of examples to evaluate on. Default: none, or from --held-out.", Trait.FREE | Trait.LOCAL
    ] = None
    max_length: Annotated[
        int | None,
        "Longest example in tokens; longer conversations are cut at the end, longer texts are split. Default: "
        f"{MAX_LENGTH}; with --reasoning-trace {TRACE_LENGTH}.",
        Range(8),
        Trait.NEEDS | Trait.MERGED,
    ] = None
    text_overlap: Annotated[
        int,
        "Tokens that each piece of a split text repeats of the piece before, as context; they are learned once.",
        Range(0),
        Trait.MERGED,
    ] = 0
    train_on: Annotated[
        TrainOn, "Which tokens are learned: all assistant turns, the last one only, or all text.", Trait.MERGED
    ] = "assistant"
    tools_template: Annotated[
        ToolsTemplate,
        "For a base whose chat template has no tools: how they are written from now on, in training and in every "
        "export. hermes: as Hermes and Qwen do. none: rows with tools are refused there.",
        Trait.MERGED,
    ] = "none"
    tool_schema: Annotated[
        ToolSchema,
        "How the schemas of tools are written. served: as Ollama and llama-server hand them to the model later, with "
        "their keys in their order. as-is: as the rows have them.",
        Trait.MERGED,
    ] = "served"
    packing: Annotated[
        bool,
        "Let short examples share rows of max_length tokens, without seeing each other; batch_size and micro_batch then"
        " count rows, so a step learns from more examples.",
        Trait.NEEDS,
    ] = False
    reasoning_trace: Annotated[
        bool,
        "Learn to think first: only rows with a <think> … </think> of --min-trace to --max-trace tokens are used.",
        Trait.NEEDS,
    ] = False
    min_trace: Annotated[int, "Shortest reasoning trace in tokens.", Range(0)] = 8
    max_trace: Annotated[int, "Longest reasoning trace in tokens.", Range(1)] = TRACE_LENGTH
    steps: Annotated[int | None, "Optimizer steps. Default: from --epochs.", Range(1), Panel.METHOD] = None
    epochs: Annotated[
        float | None, f"Passes over the data. Default: {EPOCHS:g}, unless --steps is given.", Range(1e-6), Trait.FREE
    ] = None
    method: Annotated[
        Method,
        "sft: learn the answers. From pairs of a chosen and a rejected answer: orpo, simpo. From answers that are "
        "rated good or bad: kto.",
        Trait.NEEDS,
    ] = "sft"
    beta: Annotated[
        float | None,
        "How much a preference counts. Default: "
        + ", ".join(f"{method} {value:g}" for method, value in BETAS.items())
        + ", as in the papers.",
        Range(1e-9),
    ] = None
    gamma: Annotated[float | None, f"SimPO's margin between the two answers. Default: {GAMMA:g}.", Range(0)] = None
    desirable_weight: Annotated[
        float | None, "KTO's weight of good answers. Default: balances good and bad ones.", Range(1e-9)
    ] = None
    undesirable_weight: Annotated[
        float | None, "KTO's weight of bad answers. Default: balances good and bad ones.", Range(1e-9)
    ] = None
    seed: Annotated[int, "Seed of the adapter's start and of the data order.", Range(0, 2**32 - 1)] = 42
    rank: Annotated[
        int | None,
        f"LoRA rank: higher learns more and needs more memory. Default: {RANK}, or from --lora-preset.",
        Range(1),
        Panel.ADAPTER,
        Trait.NEEDS | Trait.MERGED,
    ] = None
    alpha: Annotated[
        float | None,
        "LoRA alpha, the adapter's strength times the rank. Default: 2 × rank; with --rslora 8.",
        Range(1e-6),
        Trait.MERGED,
    ] = None
    lora_preset: Annotated[
        LoraPreset | None,
        f"The rank by name: {', '.join(f'{name} {rank}' for name, rank in LORA_RANKS.items())}. Default: none.",
        Trait.FREE | Trait.NEEDS,
    ] = None
    target_modules: Annotated[
        str,
        "Layers that get an adapter: all-linear (all but the head), or names such as q_proj,v_proj.",
        Trait.NEEDS | Trait.MERGED | Trait.NAMES,
    ] = ALL_LINEAR
    dropout: Annotated[float, "LoRA dropout, 0 to 1.", Range(0, 0.999), Trait.NEEDS] = 0.0
    rslora: Annotated[
        bool, "Strength alpha / √rank in place of alpha / rank, so that high ranks learn as fast.", Trait.MERGED
    ] = False
    dora: Annotated[
        bool, "Train the length of each weight row apart from its direction: slower, closer to full.", Trait.NEEDS
    ] = False
    init: Annotated[
        Init,
        "How the adapter starts. default: as if it were not there. orthogonal: the same with orthogonal factors. "
        "pissa, pissa_niter_16 (faster), olora: from the largest part of the base weights. loftq, for mode qlora: from "
        "what 4 bits lose of them.",
        Trait.NEEDS,
    ] = "default"
    learning_rate: Annotated[
        float | None,
        "Peak learning rate. Default: from the width of the model; of preference methods "
        + ", ".join(f"{method} {value:g}" for method, value in RATES.items())
        + ", as in the papers.",
        Range(1e-12, 10),
        Panel.OPTIMIZER,
    ] = None
    batch_size: Annotated[
        int | None,
        f"Examples (packed: rows) per optimizer step. Default: {BATCH_SIZE}, or all if there are fewer.",
        Range(1),
        Trait.NEEDS,
    ] = None
    warmup_ratio: Annotated[
        float, "Share of the steps over which the learning rate rises.", Range(0, 1), Trait.FREE
    ] = 0.05
    weight_decay: Annotated[float, "AdamW weight decay.", Range(0)] = 0.0
    max_grad_norm: Annotated[float, "Gradients are clipped to this norm.", Range(1e-9)] = 1.0
    optimizer: Annotated[
        Optimizer | None,
        "How AdamW keeps its moments. adamw: 8 bytes a trained weight; adamw-8bit: 2, by bitsandbytes; "
        "paged-adamw-8bit: 2, moved to the host when a card is full; host-adamw-8bit: of bfloat16 weights 2 in the "
        "host's memory, brought to the card piece by piece. Default: for mode full on cuda paged, or host where the "
        "card is too small for them; else adamw.",
        Trait.NEEDS,
    ] = None
    micro_batch: Annotated[
        int | None,
        "Examples computed at once. Default: as much of the batch as fits in memory, or 1 when packed; shrinks when "
        "memory runs out.",
        Range(1),
        Panel.SPEED,
        Trait.FREE | Trait.NEEDS,
    ] = None
    activation_checkpointing: Annotated[
        bool | None,
        "Compute what is inside a layer again in the backward pass: less memory, slower. Default: when it is needed.",
        Trait.FREE | Trait.NEEDS,
    ] = None
    attention: Annotated[
        Attention,
        "What computes attention. auto: the first that gives the same on two short rows, on a card torch's kernel for "
        "sequences of several lengths, then flash-attention-2 if installed, then torch's own (sdpa), or what else the "
        "model has. sdpa, eager (plain products: "
        "slow, with all weights in memory), flash-attention-2 (a package, and a card of compute capability "
        f"{FLASH_CARD[0]}.{FLASH_CARD[1]} or more): that one, or the run is refused.",
        Trait.NEEDS,
    ] = "auto"
    liger: Annotated[
        bool | None,
        "Compute norms and MLPs by Liger's kernels. A package, for NVIDIA cards and the families that it knows. "
        "Default: where it is installed, gives the same, and layers are not computed in groups anyway (as LoRA's are, "
        "without dropout).",
        Trait.FREE,
    ] = None
    fp8: Annotated[
        bool,
        "With mode lora: multiply with the frozen weights in float8, by torchao; the adapter stays as it is. Needs a "
        f"card of compute capability {FP8_CARD[0]}.{FP8_CARD[1]} or more.",
    ] = False
    unsloth: Annotated[
        bool,
        "Let Unsloth load the model and compute it, attention too. A package of its own environment, for NVIDIA cards; "
        "with modes lora and qlora.",
    ] = False
    full_ft_offload: Annotated[
        bool,
        "With mode full: keep weights, gradients and moments in the host's memory, 16 bytes a parameter, and bring the "
        f"weights to the card layer by layer: slow, but for models up to {OFFLOAD_LIMIT / 1e9:g} billion parameters.",
    ] = False
    shard: Annotated[
        bool | None,
        "With several processes: each keeps a share of the weights in place of all (PyTorch's FSDP2); modes lora and "
        "full. Default: when accelerate was launched with --use_fsdp.",
        Trait.FREE,
    ] = None
    eval_every: Annotated[
        int | None,
        f"Steps between evaluations. Default: steps ÷ {EVALUATIONS}, if there is evaluation data.",
        Range(1),
        Panel.UNATTENDED,
        Trait.FREE,
    ] = None
    patience: Annotated[
        int | None,
        "Stop after so many evaluations in a row without a better loss. Default: never.",
        Range(1),
        Trait.FREE,
    ] = None
    sample_every: Annotated[
        int | None,
        "Steps between answers to a few questions of the held-out rows, or else of the training rows. Default: never.",
        Range(1),
        Trait.FREE,
    ] = None
    checkpoint_every: Annotated[int, "Steps between checkpoints.", Range(1), Trait.FREE] = 100
    keep_checkpoints: Annotated[
        int, "How many checkpoints to keep; the best one is kept besides.", Range(1), Trait.FREE | Trait.NEEDS
    ] = 2
    checkpoint_minutes: Annotated[
        float, "Minutes after which a checkpoint is due as well.", Range(1e-6), Trait.FREE
    ] = 15.0
    max_skipped: Annotated[
        int,
        "Updates that may be skipped because a loss or gradient is not a finite number, before the run fails.",
        Range(0),
        Trait.FREE,
    ] = 5
    max_temp: Annotated[
        float, "Pause between steps while the graphics card is hotter than this, in °C.", Range(1), Trait.FREE
    ] = 88.0
    cooldown: Annotated[float, "Shortest such pause, in seconds.", Range(0), Trait.FREE] = 30.0
    disk_wait: Annotated[
        float, "Minutes to wait for room on a full disk before the run fails.", Range(0), Trait.FREE
    ] = 30.0
    output: Annotated[
        str, "Folder for the adapter and the run's records.", Panel.OUTPUT, Trait.FREE | Trait.NEEDS | Trait.LOCAL
    ] = "output"
    name: Annotated[str, "What to call the run in lists and on the page.", Trait.FREE | Trait.LOCAL] = ""
    report_to: Annotated[
        str,
        "Trackers: auto (tensorboard where installed, whose files stay in the run's folder), none, or names with "
        "commas of tensorboard, wandb, mlflow, trackio; the last three may send to a server.",
        Trait.FREE | Trait.LOCAL | Trait.NAMES,
    ] = "auto"

    @property
    def lora_rank(self) -> int:
        """The rank that is meant: the one that is set, that of the preset, or the default."""
        return self.rank or (LORA_RANKS.get(self.lora_preset, RANK) if self.lora_preset else RANK)

    @property
    def length(self) -> int:
        """The greatest length that is meant."""
        return self.max_length or (TRACE_LENGTH if self.reasoning_trace else MAX_LENGTH)

    def __post_init__(self) -> None:
        check(self, CLASHES)
