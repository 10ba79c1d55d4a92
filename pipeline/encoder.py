"""Document vectors from a text encoder of `transformers`: the mean over the tokens of its last layer.

Where it is called: `TextEncoder.open` when stage `embed` begins, `TextEncoder.load` once per worker, `embed` per part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.embed import text_column
from mixloom.pipeline.embed_config import EncoderConfig, MinilmConfig
from mixloom.pipeline.embed_files import checkpoint_files, text_folder
from mixloom.pipeline.encoder_model import choose_device, read_network
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.model_store import header_of, read_model, write_model
from mixloom.pipeline.torch_threads import torch_threads

KIND = "text-encoder"
CONFIGS: dict[str, type[EncoderConfig] | type[MinilmConfig]] = {
    "encoder": EncoderConfig,
    "minilm": MinilmConfig,
}
CHARACTERS_PER_TOKEN = (
    32  # so many are read for each token at most: a long document is not cut into tokens in whole
)
_VOCABULARIES = {"tokenizer.json", "vocab.txt", "vocab.json"}
Ids = list[int]


class TextEncoder:
    """A text encoder of a folder, as an embedder.

    On the processor each document goes through the model alone and at its own length, on one thread: its bits depend
    on its text and the kind of machine, on no other document, part or worker. On a GPU, documents of about the same
    length go through it together, always `batch` of them and padded to one of a few lengths: the same part gives the
    same bytes on the same kind of GPU, and a document in other company may differ in the last digits.
    """

    def __init__(self, config: EncoderConfig | MinilmConfig, device: str) -> None:
        self.config, self.device = config, device
        folder = text_folder(config)
        self.files = checkpoint_files(folder)
        network = read_network(folder, device, config.dtype)
        self._network = network.get_encoder() if network.config.is_encoder_decoder else network
        tokenizer = _read_tokenizer(folder, self.files)
        self._tokenizer = tokenizer.backend_tokenizer
        limits = (tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None))
        most = min((n for n in limits if n), default=config.max_tokens)
        if config.max_tokens > most:
            raise UserError(
                f"embed.text.max_tokens is {config.max_tokens}, and the model in {folder} reads {most} at most",
                fix=f"set max_tokens to at most {most}",
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=config.max_tokens)
        self._padding = int(tokenizer.pad_token_id or 0)
        self.dim = int(self._forward([self._tokens(["a"])[0] or [self._padding]], None).shape[1])

    @classmethod
    def open(cls, config: EncoderConfig | MinilmConfig) -> TextEncoder:
        """The encoder a configuration asks for; `auto` settles on the device that is here.

        Raises:
            UserError: no such model, one that lacks tensors or reads fewer tokens, or no such device.
        """
        return cls(config, choose_device(config.device))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the files of the checkpoint and what decides how documents go through it."""
        return str(header_of(KIND, self._decides(), {})["fingerprint"])

    def embed(self, documents: pa.RecordBatch) -> npt.NDArray[np.float32]:
        """Unit vectors of the words of n documents (column `segments`), float32 [n, dim]; without words a zero row."""
        texts = pc.utf8_slice_codeunits(text_column(documents), 0, self._characters)
        return self.transform(texts.to_pylist())

    def transform(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors of n texts, float32 [n, dim]; a zero row for a text of white space."""
        rows = [i for i, t in enumerate(texts) if t.strip()]
        ids = self._tokens([texts[i] for i in rows])
        out = np.zeros((len(texts), self.dim), np.float32)
        together = None if self.device == "cpu" else self.config.batch
        for places, length in passes([len(x) for x in ids], together, self.config.max_tokens):
            out[[rows[p] for p in places]] = self._forward([ids[p] for p in places], length)[: len(places)]
        return out

    @property
    def _characters(self) -> int:
        return CHARACTERS_PER_TOKEN * self.config.max_tokens

    def _tokens(self, texts: list[str]) -> list[Ids]:
        prefix = self.config.prefix if isinstance(self.config, EncoderConfig) else ""
        some = [prefix + t[: self._characters] for t in texts]
        return [e.ids for e in self._tokenizer.encode_batch(some)]

    def _forward(self, rows: list[Ids], length: int | None) -> npt.NDArray[np.float32]:
        """Unit vectors float32 [r, dim]; with a length, of `batch` rows: those missing are copies of the first."""
        import torch

        if length is not None:
            rows = rows + rows[:1] * (self.config.batch - len(rows))
        ids = np.full((len(rows), length or len(rows[0])), self._padding, np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        with torch_threads(1), torch.inference_mode():
            given = {"input_ids": ids, "attention_mask": mask}
            hidden = self._network(**{k: torch.from_numpy(v).to(self.device) for k, v in given.items()})
            states = hidden.last_hidden_state.double()
            real = torch.from_numpy(mask).to(self.device)[:, :, None].double()
            means = ((states * real).sum(1) / real.sum(1)).cpu().numpy()
        lengths = np.sqrt(np.einsum("ij,ij->i", means, means))
        return (means / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)

    def save(self, directory: str | Path) -> None:
        """Write `model.json`, which points to the checkpoint; the weights stay where they are."""
        write_model(directory, KIND, self._decides() | {"config": self._pointer()}, {})

    @classmethod
    def load(cls, directory: str | Path) -> TextEncoder:
        """Read what `save` wrote, on the device it was saved for.

        Raises:
            UserError: the checkpoint is gone or another, or the device is not here.
        """
        content, _ = read_model(directory, KIND)
        config = CONFIGS[content["config"]["kind"]].model_validate(content["config"])
        files = checkpoint_files(text_folder(config))
        if files != content["files"]:
            raise changed_files("embed.text", text_folder(config), files, content["files"])
        return cls(config, choose_device(content["device"]))

    def _decides(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json", exclude={"path", "device"})
        return {"settings": settings, "device": self.device, "files": self.files}

    def _pointer(self) -> dict[str, Any]:
        pointer = self.config.model_dump(mode="json")
        return pointer | ({"path": str(text_folder(self.config).resolve())} if "path" in pointer else {})


def changed_files(section: str, folder: Path, now: dict[str, str], then: dict[str, str]) -> UserError:
    """The error of a checkpoint that is not the one a run began with."""
    names = sorted(n for n in {*now, *then} if now.get(n) != then.get(n))
    return UserError(
        f"{section}: the model in {folder} is not the one the run began with: {', '.join(names[:3])} changed",
        fix="put the former files back, or run again: the stage will be redone with the new ones",
    )


def _read_tokenizer(folder: Path, files: Iterable[str]) -> Any:
    """The tokenizer of a checkpoint, in its fast form.

    Raises:
        UserError: there is none. transformers makes one that knows no word where the vocabulary is missing.
    """
    import transformers

    fix = "save the tokenizer of the model beside it (tokenizer.json)"
    if not any(f in _VOCABULARIES or f.endswith(".model") for f in files):
        raise UserError(f"embed: there is no tokenizer in {folder}", fix=fix)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"embed: cannot load the tokenizer in {folder}: {error}", fix=fix) from error
    if not getattr(tokenizer, "backend_tokenizer", None):
        raise UserError(f"embed: the tokenizer in {folder} is written in Python alone", fix=fix)
    return tokenizer


def passes(lengths: list[int], together: int | None, most: int) -> Iterator[tuple[list[int], int | None]]:
    """Which texts go through a model together, by the number of their tokens, and padded to what length.

    Args:
        lengths: tokens of each text; those without any are left out.
        together: texts in a pass; None: each alone and as it is (length None).
        most: tokens a text can have.
    """
    order = sorted((p for p, n in enumerate(lengths) if n), key=lambda p: (lengths[p], p))
    if together is None:
        yield from (([p], None) for p in order)
        return
    by_length: dict[int, list[int]] = {}
    for p in order:
        by_length.setdefault(_padded(lengths[p], most), []).append(p)
    for length, places in by_length.items():
        for start in range(0, len(places), together):
            yield places[start : start + together], length


def _padded(length: int, most: int) -> int:
    """The length a text is padded to: of two an octave, at most half as long again, few enough to be met often."""
    step = 8
    while step * 2 <= length:
        step *= 2
    for candidate in (step, step + step // 2, 2 * step):
        if candidate >= length:
            return min(candidate, most)
    return most
