"""Settings of the model. Reads no torch, so the command line can load it at no cost."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Untied = Literal["attention", "ffn", "norm"]
DENSE: tuple[Untied, ...] = ()
MOT: tuple[Untied, ...] = ("attention", "ffn", "norm")


class ExpertsConfig(BaseModel):
    """Several feed-forward experts where a block has one: MoMa, or a mixture over all modalities as its control.

    Source: Lin et al., MoMa (arXiv 2407.21770), sections 2.2 to 2.4. Every expert takes the tokens of its group that it
    scores highest, a share of one over the experts of the group, so a token meets one expert on average and the
    active FLOPs are those of the dense model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    counts: tuple[int, ...] = Field(
        description="Experts of each modality, in the order text, image, speech ([4, 4, 1]); 1: a plain feed-forward. "
        "With groups: all, one number."
    )
    groups: Literal["modality", "all"] = Field(
        default="modality",
        description="modality: every modality has experts of its own (MoMa). all: one group for all tokens.",
    )
    routing: Literal["choice", "random"] = Field(
        default="choice",
        description="choice: experts choose tokens by a learned score. random: by a number drawn for each token, a control.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.counts or min(self.counts) < 1 or max(self.counts) > 256:
            raise ValueError(f"counts={list(self.counts)}: give 1 to 256 experts for every modality")
        if max(self.counts) == 1:
            raise ValueError(
                f"counts={list(self.counts)} has no group of several experts; leave experts out and use untie: [ffn]"
            )
        if self.groups == "all" and len(self.counts) != 1:
            raise ValueError(
                f"groups: all has one group, but counts={list(self.counts)} names {len(self.counts)}"
            )
        return self


class FlowConfig(BaseModel):
    """Images as continuous vectors inside the model: noise is turned into an image, all of its tokens at once.

    Source: Zhou et al., Transfusion (arXiv 2408.11039), with the straight paths of flow matching (Lipman et al., arXiv
    2210.02747). The vectors are those the image codec decodes its codes from, so the shards stay as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(
        default=5.0, gt=0.0, description="What an image token's squared error counts beside a nat of text."
    )
    clearer: float = Field(
        default=0.8,
        ge=0.0,
        le=1.0,
        description="Share of the images with text after them that keep at least half of their signal, "
        "so that the text can be learned from them.",
    )
    steps: int = Field(default=32, ge=1, le=1000, description="Steps from noise to an image when sampling.")
    channels: int = Field(
        default=0, ge=0, description="Numbers of a code's vector. 0: taken from the image codec."
    )
    codes: int = Field(default=0, ge=0, description="Codes of the image codec. 0: taken from the vocabulary.")
    first: int = Field(
        default=0, ge=0, description="Id of the first image code. 0: taken from the vocabulary."
    )


class SpeechPatchesConfig(BaseModel):
    """Speech as patches: a small encoder makes one vector of several units, a small decoder says them one by one.

    Source: Lu et al., Latent Speech-Text Transformer (arXiv 2510.06195), section 3, after the Byte Latent Transformer
    (Pagnoni et al., arXiv 2412.09871). Between the two the model reads one position per patch. Patches are those recorded
    in the shards; where none are, they have `size` units.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(
        default=4, ge=1, le=256, description="Units of a patch where the shards have no patches."
    )
    longest: int = Field(
        default=16, ge=2, le=256, description="Most units of a patch; a longer one is cut into several."
    )
    heads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Heads of encoder and decoder, as wide as those of the model, which makes their width. "
        "0: half as many as the model has.",
    )
    encoder_layers: int = Field(default=1, ge=1, le=32, description="Blocks that read the units of a patch.")
    decoder_layers: int = Field(default=1, ge=1, le=32, description="Blocks that say the units of a patch.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size > self.longest:
            raise ValueError(f"size={self.size} is more than longest={self.longest}")
        return self


# Width, blocks and heads of the sizes of Liang et al. (arXiv 2411.04996, table 1), and of two that train on a laptop.
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (64, 2, 2),
    "small": (192, 4, 6),
    "37M": (256, 4, 8),
    "94M": (512, 8, 8),
    "443M": (1024, 24, 16),
    "880M": (1536, 24, 24),
    "1.5B": (2048, 24, 16),
    "7B": (4096, 32, 32),
}


class ModelConfig(BaseModel):
    """One decoder-only transformer; `untie` chooses between a dense model and a Mixture-of-Transformers.

    Source: Liang et al., Mixture-of-Transformers (arXiv 2411.04996), Algorithm 1 and Table 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Literal["tiny", "small", "37M", "94M", "443M", "880M", "1.5B", "7B"] | None = Field(
        default=None,
        description="Sets dim, layers and heads to those of a known size; a number given beside it counts instead.",
    )
    dim: int = Field(default=128, ge=8, le=16384, description="Width D of the residual stream.")
    layers: int = Field(default=4, ge=1, le=256, description="Number of blocks.")
    heads: int = Field(
        default=4, ge=1, le=256, description="Attention heads; dim / heads must be an even number."
    )
    ffn_hidden: int | None = Field(
        default=None,
        ge=8,
        description="Hidden width of the SwiGLU. Empty: int(8 * dim / 3) rounded up to a multiple of 256 "
        "(the paper's rule), or of 64 where dim is under 256.",
    )
    vocab_size: int = Field(
        default=0,
        ge=0,
        description="Rows of the embedding and of the head. 0: taken from the vocabulary of the shards.",
    )
    modalities: int = Field(
        default=3, ge=1, le=64, description="Number of modalities K: text, image, speech."
    )
    untie: tuple[Untied, ...] = Field(
        default=MOT,
        description="Parts that every modality has for itself. All three: Mixture-of-Transformers. "
        "Empty: a dense model. Only ffn: one expert per modality (the 1t1i setting of MoMa).",
    )
    experts: ExpertsConfig | None = Field(
        default=None,
        description="Several feed-forward experts in every block (MoMa). Empty: one, per modality if untie names ffn.",
    )
    flow: FlowConfig | None = Field(
        default=None,
        description="Images as continuous vectors with a flow loss and attention in both directions inside an image "
        "(Transfusion). Empty: images are tokens like any other.",
    )
    speech_patches: SpeechPatchesConfig | None = Field(
        default=None,
        description="Speech is read one position per patch of units, through a small encoder and decoder (latent speech "
        "patches). Empty: units are tokens like any other.",
    )
    norm: Literal["pre", "swin"] = Field(
        default="pre",
        description="pre: x + f(norm(x)). swin: x + norm(f(x)), the placement of the paper (equations 1 and 2).",
    )
    qk_norm: bool = Field(default=False, description="RMSNorm over each head of the queries and keys.")
    rope_theta: float = Field(default=10000.0, gt=1.0, description="Base of the rotary position frequencies.")
    document_mask: bool = Field(
        default=True,
        description="Attend within documents only. False: a document also sees those before it in its context, "
        "and positions count on through the context, as in-context pretraining needs it.",
    )
    tie_embeddings: bool = Field(default=False, description="Use the embedding table as the output head.")
    init_std: float = Field(
        default=0.02, gt=0.0, le=1.0, description="Standard deviation of the weights at the start."
    )
    init: Literal["independent", "copy"] = Field(
        default="independent",
        description="independent: every modality draws its own weights. copy: all start from the same ones, "
        "so that the model starts as the dense one.",
    )
    seq_len: int = Field(
        default=512,
        ge=2,
        le=1 << 20,
        description="Longest position; training takes it from the shards, sampling stops at it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, tree: Any) -> Any:
        """Fill in the numbers of the named size."""
        if not isinstance(tree, dict) or tree.get("size") not in SIZES:
            return tree
        return {**dict(zip(("dim", "layers", "heads"), SIZES[tree["size"]])), **tree}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads={self.heads} must divide dim={self.dim}")
        if (self.dim // self.heads) % 2:
            raise ValueError(
                f"dim / heads is {self.dim // self.heads}; rotary positions turn pairs, so it must be even"
            )
        if len(set(self.untie)) != len(self.untie):
            raise ValueError(f"untie names a part twice: {list(self.untie)}")
        self._check_experts()
        self._check_speech()
        return self

    def _check_experts(self) -> None:
        if self.experts is None:
            return
        if self.experts.groups == "all" and "ffn" in self.untie:
            raise ValueError(
                "experts.groups: all shares the experts between modalities, so untie cannot name ffn; "
                "take ffn out of untie, or set experts.groups: modality"
            )
        if self.experts.groups == "modality" and len(self.experts.counts) != self.modalities:
            raise ValueError(
                f"experts.counts={list(self.experts.counts)} must name all {self.modalities} modalities"
            )

    def _check_speech(self) -> None:
        if self.speech_patches is None:
            return
        if self.modalities < 3:
            raise ValueError(
                f"speech_patches needs speech, the third modality, but modalities={self.modalities}"
            )

    @property
    def local_heads(self) -> int:
        """Heads of the speech encoder and decoder; their width is that times `head_dim`."""
        if self.speech_patches is None:
            return 0
        return self.speech_patches.heads or max(1, self.heads // 2)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def hidden(self) -> int:
        """Width of the SwiGLU after the default has been filled in."""
        if self.ffn_hidden is not None:
            return self.ffn_hidden
        multiple = 256 if self.dim >= 256 else 64
        return -(-int(8 * self.dim / 3) // multiple) * multiple

    @property
    def streams(self) -> int:
        """Number of contiguous slices of the residual stream: 1 for a dense model, else one per modality."""
        by_modality = self.experts is not None and self.experts.groups == "modality"
        return self.modalities if self.untie or by_modality else 1

    def parameters(self, *, active: bool = False) -> int:
        """Number of weights without embedding, head and norms; `active` counts those that a row of the trunk meets."""
        attention = 4 * self.dim * self.dim
        copies = 1 if active else self.modalities
        ffns = copies if "ffn" in self.untie else 1
        routers = 0
        if self.experts is not None:
            ffns = 1 if active else sum(self.experts.counts)
            # A score per expert, and the small network that foretells the choice where the future is not known.
            foretold = self.dim // 2 if self.experts.routing == "choice" else 0
            sizes = [n * self.dim + (self.dim + n) * foretold for n in self.experts.counts if n > 1]
            routers = max(sizes) if active else sum(sizes)
        untied = attention * (copies if "attention" in self.untie else 1)
        trunk = self.layers * (untied + ffns * 3 * self.dim * self.hidden + routers)
        if self.speech_patches is None or active:
            return trunk
        width = self.local_heads * self.head_dim
        blocks = self.speech_patches.encoder_layers + self.speech_patches.decoder_layers
        # Blocks, in and out of encoder and decoder, the state of the trunk, and whether to end.
        return trunk + blocks * (4 * width * width + 3 * width * 4 * width) + 5 * width * self.dim + width

    def filled(self, *, vocab_size: int, seq_len: int) -> ModelConfig:
        """The same configuration with the sizes that the data decides."""
        return self.model_validate({**self.model_dump(), "vocab_size": vocab_size, "seq_len": seq_len})
