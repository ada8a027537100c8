"""Settings of the model, of sampling and of training: the parts of a recipe that `grpo` owns."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from grpo.adapter_kinds import PROMPTED, REFUSED
from grpo.conflicts import loss_conflicts
from grpo.diffusion import DiffusionSettings, diffusion_conflicts
from grpo.names import ADVANTAGE_KINDS, NORMALISERS, CorrectionKind, KLEstimator, Normaliser, Quantization
from grpo.rope import ADAPTED_POSITIONS, RopeScaling
from rewards.nearest import did_you_mean

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of every part of a recipe: unknown keys are refused, values are not coerced silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SERVED_RANK = 512  # the largest that vLLM takes


class LoraSettings(Settings):
    """A LoRA adapter trained in place of the weights, and its variants, through peft (grpo/policy/adapters.py)."""

    r: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | list[str] = "all-linear"
    rslora: bool = False  # alpha / sqrt(r) in place of alpha / r: large ranks learn as fast as small ones
    dora: bool = False  # each row's norm is trained apart from its direction
    quantize: Literal["nf4"] | None = None  # QLoRA: the frozen weights in 4 bits; needs CUDA
    sync: Literal["auto", "merged", "adapter"] = "auto"  # what the server is sent; auto: the adapter where it can be

    @model_validator(mode="after")
    def _served(self) -> LoraSettings:
        if self.sync == "adapter" and (why := self.not_served):
            raise ValueError(f"sync: adapter cannot be served: {why}; use merged, or auto")
        if self.dora and self.quantize:  # measured with peft 0.21: 11% apart
            raise ValueError("dora: over 4-bit weights peft merges it to other values than it computes; leave one out")
        return self

    @property
    def not_served(self) -> str:
        """Why vLLM cannot serve it as an adapter; empty if it can."""
        if self.dora:
            return "vLLM takes no DoRA"
        if self.quantize:
            return f"the server's weights are not the ones that {self.quantize} rounds to"
        return f"vLLM takes ranks up to {SERVED_RANK}" if self.r > SERVED_RANK else ""


class AdapterSettings(Settings):
    """Any other adapter of peft: its kind, and the keys of its configuration class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: str  # IA3, LOHA, LOKR, OFT, VERA ... or LORA with keys that model.lora does not have

    @field_validator("peft_type")
    @classmethod
    def _possible(cls, peft_type: str) -> str:
        if peft_type.upper() in REFUSED:
            raise ValueError(f"{peft_type} {REFUSED[peft_type.upper()]}")
        return peft_type.upper()


class ModelError(ValueError):
    """The model that the settings name cannot be loaded or trained. The message says what to do."""


class ModelSettings(Settings):
    path: str  # hub id or folder; "tiny", "tiny_diffusion", "tiny_bilingual" and "tiny_student" are built-in models
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of compute and of the served weights
    lora: LoraSettings | None = None
    adapter: AdapterSettings | None = None  # another kind of peft's
    rope_scaling: RopeScaling | None = None  # positions beyond the checkpoint's, see grpo/rope.py
    trust_remote_code: bool = False
    revision: str | None = None

    @model_validator(mode="after")
    def _one_adapter(self) -> ModelSettings:
        if self.lora and self.adapter:
            raise ValueError("adapter: model.lora is an adapter, too; keep one of them")
        if self.rope_scaling and self.adapted:
            raise ValueError(ADAPTED_POSITIONS)
        return self

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, and the weights are frozen."""
        return self.lora is not None or self.adapter is not None

    @property
    def prompted(self) -> bool:
        """Whether what is trained stands before the prompt, and is no weight."""
        return self.adapter is not None and self.adapter.peft_type in PROMPTED


class ServerSettings(Settings):
    """The vLLM servers: started as children, unless `urls` names servers that already run."""

    replicas: Positive = 1  # servers that are started on this machine; they divide its GPUs, or its cores
    urls: list[str] = Field(default_factory=list)  # of servers to attach to, in place of any of our own
    port: NonNegative = 0  # of the first server, the next has the next; 0: any free port
    start_timeout: Annotated[float, Field(gt=0)] = 600.0  # seconds until the server must be healthy
    request_timeout: Annotated[float, Field(gt=0)] = 600.0  # seconds until a group must be complete
    sync_timeout: Annotated[float, Field(gt=0)] = 600.0  # seconds until new weights must be served
    health_timeout: Annotated[float, Field(gt=0)] = 30.0  # seconds of silence after which a server counts as dead
    max_restarts: NonNegative = 3  # of each server that died, or stood still
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None  # CPU: size of each server's KV cache; None: derived
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    threads: NonNegative = 0  # CPU: threads of each server; 0: see grpo/rollout/cores.py
    gpus: list[int] = Field(default_factory=list)  # of all servers; [] : all GPUs that the trainer does not use
    tensor_parallel: Positive = 1
    enforce_eager: bool | None = None  # None: True on CPU, False on GPU
    quantization: Quantization | None = None  # GPU: what vLLM rounds the served weights to, and them alone
    weight_transfer: Literal["auto", "shm", "files", "gloo", "nccl", "ipc"] = "auto"
    weight_dir: str | None = None  # of weight_transfer: files: a folder that all machines see; None: the run's own
    extra_args: list[str] = Field(default_factory=list)  # appended to vLLM's command line

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
                raise ValueError(f"got {url!r}, expected an address such as http://127.0.0.1:8000")
            if urlsplit(url).username or urlsplit(url).password:
                raise ValueError("an address must not hold a password; a server's token goes into ZERO_SERVER_TOKEN")
        if len({url.rstrip("/") for url in urls}) < len(urls):
            raise ValueError(f"got {urls}, expected each server once")
        return urls


class RolloutSettings(Settings):
    engine: Literal["vllm", "transformers", "diffusion"] = "vllm"
    group_size: Annotated[int, Field(ge=1)] = 8
    prompts_per_step: Positive = 8
    max_tokens: Positive = 256
    max_prompt_tokens: Positive = 512
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: NonNegative = 0
    max_staleness: NonNegative = 0  # optimizer steps that a sample may be older than the weights it trains
    refill: NonNegative = 0  # groups beyond a step's own, in multiples of them, that replace groups without contrast
    max_sequences: Positive = 64  # sequences that the engine, or each of several servers, decodes at once
    routing_replay: bool = False  # of a mixture of experts: the trainer routes each token as the sampler did
    server: ServerSettings = Field(default_factory=ServerSettings)
    diffusion: DiffusionSettings = Field(default_factory=DiffusionSettings)  # of engine: diffusion

    @property
    def masked(self) -> DiffusionSettings | None:
        """How the policy is sampled, if it is a masked diffusion model."""
        return self.diffusion if self.engine == "diffusion" else None

    @property
    def adapters_served(self) -> int:
        """Versions of a LoRA adapter that the server holds: the newest, the one before, and those still in use.

        While weights v are served, completions in flight are of v - max_staleness or newer.
        """
        return self.max_staleness + 2

    @model_validator(mode="after")
    def _unbiased(self) -> RolloutSettings:
        if self.top_p < 1 or self.top_k:
            raise ValueError(
                "top_p < 1 and top_k > 0 bias the log-probs that the loss corrects with; "
                "use top_p: 1.0 and top_k: 0 for training"
            )
        return self

    @model_validator(mode="after")
    def _diffusion(self) -> RolloutSettings:
        if found := list(diffusion_conflicts(self.diffusion, self.engine, self.max_tokens)):
            raise ValueError("\n".join(found))
        return self


class CurriculumSettings(Settings):
    """Which problem comes next, see grpo/signal/curriculum.py."""

    order: Literal["shuffled", "adaptive", "levels"] = "shuffled"
    candidates: Positive = 16  # adaptive: problems that each choice is made from
    target: Annotated[float, Field(ge=0, le=1)] = 0.5  # adaptive: pass rate that is looked for
    decay: Annotated[float, Field(ge=0, le=1)] = 0.5  # adaptive: of what was seen before; 1 forgets nothing
    window: Positive = 16  # levels: groups whose mean pass rate is looked at
    raise_at: Annotated[float, Field(gt=0, le=1)] = 0.75  # levels: pass rate from which a subject's level goes up
    lower_at: Annotated[float, Field(ge=0, lt=1)] = 0.1  # levels: pass rate up to which it goes down

    @model_validator(mode="after")
    def _apart(self) -> CurriculumSettings:
        if self.lower_at >= self.raise_at:
            raise ValueError(f"lower_at: got {self.lower_at}, expected less than raise_at ({self.raise_at})")
        return self


class TrainSettings(Settings):
    """What every kind of training has: its optimizer, its micro-batches, its processes, its checkpoints."""

    backend: Literal["zero", "trl"] = "zero"  # trl: the same recipe through TRL's trainer, to compare
    steps: Positive = 100
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegative = 0
    optimizer: dict[str, Any] = Field(default_factory=dict)  # keyword arguments of torch.optim.AdamW
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    dropout: bool = False  # of the model's config.json, in training; a LoRA adapter's own is model.lora.dropout
    router_aux_loss_coef: Annotated[float, Field(ge=0)] = 0.0  # of the experts' load-balancing loss; 0: none
    router_bias_update_rate: Annotated[float, Field(ge=0)] = 0.0  # DeepSeek-V3's, of e_score_correction_bias; 0: fixed
    gradient_checkpointing: bool = False
    tokens_per_micro_batch: Positive = 8192  # tokens that one forward may hold
    packing: bool = True  # no padding, a prompt once for its group; a model that cannot do so is padded anyway
    processes: Positive = 1  # that the policy is sharded over; each has a GPU, or its share of the cores
    replicas: Positive = 1  # of the sharded policy (HSDP): each over processes / replicas, such as those of one machine
    max_restarts: NonNegative = 3  # of all processes, from the last checkpoint, when one of several was lost
    threads: NonNegative = 0  # CPU: torch threads of each trainer process; 0: see grpo/rollout/cores.py
    gpus: list[int] = Field(default_factory=list)  # one a process; []: the first ones
    seed: int = 0
    checkpoint_every: NonNegative = 50  # 0: at the end only
    keep_checkpoints: Positive = 2
    eval_every: NonNegative = 0  # 0: before and after only
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)


# (clip_low, clip_high) of a recipe that gives none; of all other losses (0.2, 0.2). cispo's is ScaleRL's.
PUBLISHED_CLIPS = {"dapo": (0.2, 0.28), "cispo": (1.0, 4.0), "gspo": (3e-4, 4e-4), "gspo_token": (3e-4, 4e-4)}


class GRPOConfig(TrainSettings):
    """Training. Defaults are DeepSeekMath's GRPO (arXiv 2402.03300) without its KL, as R1-Zero-like runs use it."""

    loss: str = "grpo"  # a name of grpo/names.py, path/to/file.py:function or package.module:function
    loss_args: dict[str, Any] = Field(default_factory=dict)  # keyword arguments of a loss of one's own
    normaliser: Literal["auto"] | Normaliser = "auto"  # auto: as the loss's paper has it
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2  # the defaults of both depend on the loss, see PUBLISHED_CLIPS
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    clip_max: Annotated[float, Field(gt=1)] | None = None  # two-sided clip of INTELLECT-2: bound of every ratio
    sapo_tau_positive: Annotated[float, Field(gt=0)] = 1.0
    sapo_tau_negative: Annotated[float, Field(gt=0)] = 1.05
    advantage: str = (
        "auto"  # of grpo/signal/advantage.py, or file.py:function; auto: group_mean for dr_grpo, else group_std
    )
    teacher: str | None = None  # with advantage: teacher: a folder or hub id, of the policy's tokenizer
    kl_coef: Annotated[float, Field(ge=0)] = 0.0  # of the KL to the reference, see grpo/losses/kl.py
    kl_estimator: KLEstimator = "k3"
    kl_place: Literal["loss", "reward"] = "loss"
    kl_corrected: bool = False  # in the loss: weighted by pi/pi_old, as DeepSeek-V3.2
    kl_sync_every: NonNegative = 0  # steps after which the reference becomes the policy; 0: the model at the start
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0  # of the entropy bonus, see grpo/losses/entropy.py
    entropy_target: Annotated[float, Field(gt=0)] | None = None  # nats; steers the coefficient, which starts at coef
    entropy_coef_step: Annotated[float, Field(gt=0)] = 0.005  # with a target: change of the coefficient a step
    entropy_coef_max: Annotated[float, Field(gt=0)] = 1.0
    entropy_top_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of tokens, by entropy: those with a policy gradient
    curriculum: CurriculumSettings = Field(default_factory=CurriculumSettings)
    updates_per_batch: Positive = 1
    mask_truncated: bool = False  # completions cut at max_tokens do not enter the loss
    correction: CorrectionKind = "truncate"  # of trainer/server mismatch, see grpo/losses/correction.py
    correction_cap: Annotated[float, Field(gt=0)] = 2.0
    correction_floor: Annotated[float, Field(ge=0)] = 0.0
    stale_correction: CorrectionKind | None = None  # of tokens that older weights sampled; None: as correction
    stale_cap: Annotated[float, Field(gt=0)] | None = None  # None: as correction_cap
    stale_floor: Annotated[float, Field(ge=0)] | None = None  # None: as correction_floor
    proof: bool = True  # before the first step: what is served is what is trained, see docs/architectures.md
    max_failed_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of a step's completions; above it the run stops
    control: Literal["none", "random", "format_only"] = "none"  # null rewards, see grpo/signal/null_rewards.py

    @field_validator("advantage")
    @classmethod
    def _known_advantage(cls, name: str) -> str:
        known = ("auto", *ADVANTAGE_KINDS)
        if name not in known and ":" not in name:
            raise ValueError(
                f"got {name!r}, expected {', '.join(known)}, path/to/file.py:function or "
                f"package.module:function{did_you_mean(name, known)}"
            )
        return name

    @field_validator("loss")
    @classmethod
    def _loss(cls, loss: str) -> str:
        if loss not in NORMALISERS and ":" not in loss:
            raise ValueError(
                f"got {loss!r}, expected {', '.join(NORMALISERS)}, path/to/file.py:function or "
                f"package.module:function{did_you_mean(loss, NORMALISERS)}"
            )
        return loss

    @model_validator(mode="before")
    @classmethod
    def _published_clips(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("loss") not in PUBLISHED_CLIPS:
            return settings
        low, high = PUBLISHED_CLIPS[settings["loss"]]
        return {"clip_low": low, "clip_high": high} | settings

    @model_validator(mode="after")
    def _coherent(self) -> GRPOConfig:
        if found := list(loss_conflicts(self)):
            raise ValueError("\n".join(found))
        return self

    @property
    def normaliser_kind(self) -> Normaliser:
        """`normaliser`, with auto resolved for the loss."""
        return NORMALISERS.get(self.loss, "token") if self.normaliser == "auto" else self.normaliser

    @property
    def advantage_kind(self) -> str:
        """`advantage`, with auto resolved for the loss."""
        if self.advantage != "auto":
            return self.advantage
        return "group_mean" if self.loss == "dr_grpo" else "group_std"
