"""A judge that is a causal language model of `transformers` in a folder on this machine. Nothing leaves it.

Greedy decoding. On the processor each prompt goes through the model alone by default, so that an answer depends on
nothing but the prompt; in batches (the default on a GPU) the last digits depend on the company, and rarely a word.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mixloom.mixers.judge import Answer
from mixloom.mixers.medu_config import LocalConfig
from mixloom.mixers.medu_prompts import Request
from mixloom.pipeline.embed_files import checkpoint_files
from mixloom.pipeline.encoder_model import quiet
from mixloom.pipeline.errors import UserError

_GPU_BATCH = 16
_WINDOW = 256  # questions cut into tokens at a time


class LocalJudge:
    """A model, its tokenizer and its chat template.

    Raises:
        UserError: no such folder, a checkpoint that cannot be read whole, no tokenizer, or no such device.
    """

    offline = True

    def __init__(self, config: LocalConfig) -> None:
        self.config = config
        self.folder = Path(config.path).expanduser()
        self.files = checkpoint_files(self.folder)
        self._tokenizer = self._read_tokenizer()

    @property
    def name(self) -> str:
        """The folder of the model."""
        return self.folder.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The files of the checkpoint, and how it is run; not where it lies."""
        how = {"device": self._device, "dtype": self._dtype, "batch": self._batch}
        return {"kind": "local", "files": self.files, "decoding": "greedy", **how}

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text by the tokenizer of the model, without those its chat template adds."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Answer], None, None]:
        """Ask all questions, of neighbours those of about one length together; see `ChatJudge.answers`."""
        window = max(_WINDOW, self._batch)
        for start in range(0, len(requests), window):
            for i, answer in self._answered(requests[start : start + window]):
                yield start + i, answer

    def _answered(self, requests: Sequence[Request]) -> Generator[tuple[int, Answer], None, None]:
        prompts = [self._prompt(r) for r in requests]
        fit: list[int] = []
        for i, ids in enumerate(prompts):
            most = requests[i].max_tokens
            if self._longest is not None and len(ids) + most > self._longest:
                why = f"{len(ids)} tokens and an answer of {most} are more than the model reads ({self._longest})"
                yield i, Answer(None, why, prompt_tokens=len(ids))
            else:
                fit.append(i)
        fit.sort(key=lambda i: (requests[i].max_tokens, len(prompts[i]), requests[i].fingerprint))
        while fit:
            most = requests[fit[0]].max_tokens
            together = [i for i in fit[: self._batch] if requests[i].max_tokens == most]
            fit = fit[len(together) :]
            began = time.monotonic()
            texts = self._generate([prompts[i] for i in together], most)
            each = round((time.monotonic() - began) / len(together), 3)
            for i, (text, made) in zip(together, texts):
                yield i, Answer(text, prompt_tokens=len(prompts[i]), answer_tokens=made, seconds=each)

    def _prompt(self, request: Request) -> list[int]:
        """Token ids of a question. What a text holds of the model's own special tokens is broken up before."""
        system, user = self._harmless(request.system), self._harmless(request.user)
        if not getattr(self._tokenizer, "chat_template", None):
            return list(self._tokenizer.encode(f"{system}\n\n{user}\n\n"))
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            made = self._templated(turns)
        except Exception:  # templates raise errors of their own where they know no system message
            made = self._templated([{"role": "user", "content": f"{system}\n\n{user}"}])
        return list(self._tokenizer.encode(made, add_special_tokens=False))

    def _templated(self, turns: list[dict[str, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    @cached_property
    def _special(self) -> list[str]:
        added = {str(t) for t in getattr(self._tokenizer, "added_tokens_decoder", {}).values()}
        tokens = {*map(str, self._tokenizer.all_special_tokens), *added}
        return sorted((t for t in tokens if len(t.strip()) > 1), key=lambda t: (-len(t), t))

    def _harmless(self, text: str) -> str:
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _generate(self, prompts: list[list[int]], most: int) -> list[tuple[str, int]]:
        """Greedy continuations and their lengths, of prompts padded on the left."""
        import torch

        width = max(map(len, prompts))
        pad, ends = self._pad, self._ends
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            made = self._network.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=self._generation(most),
            )
        out = []
        for row in made[:, width:].tolist():
            stop = next((k for k, token in enumerate(row) if token in ends), len(row))
            out.append((self._tokenizer.decode(row[:stop], skip_special_tokens=True), stop))
        return out

    def _generation(self, most: int) -> Any:
        import transformers

        # A configuration of our own: the one in the folder may ask for sampling.
        return transformers.GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            pad_token_id=self._pad,
            eos_token_id=sorted(self._ends) or None,
            bos_token_id=self._tokenizer.bos_token_id,
        )

    @cached_property
    def _ends(self) -> set[int]:
        found = {self._tokenizer.eos_token_id}
        for config in (self._network.config, self._network.generation_config):
            ends = getattr(config, "eos_token_id", None)
            found |= set(ends) if isinstance(ends, list | tuple) else {ends}
        return {int(e) for e in found if e is not None}

    @property
    def _pad(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(pad if pad is not None else min(self._ends, default=0))

    @cached_property
    def _device(self) -> str:
        import torch

        there = torch.cuda.is_available()
        if self.config.device == "cuda" and not there:
            raise UserError(
                "judge.device is 'cuda', and torch finds no GPU here", fix="set device to auto or cpu"
            )
        return "cuda" if there and self.config.device != "cpu" else "cpu"

    @property
    def _dtype(self) -> str:
        if self.config.dtype != "auto":
            return self.config.dtype
        return "bfloat16" if self._device == "cuda" else "float32"

    @property
    def _batch(self) -> int:
        return self.config.batch or (1 if self._device == "cpu" else _GPU_BATCH)

    @cached_property
    def _longest(self) -> int | None:
        """Tokens the model reads, question and answer together."""
        limits = (
            getattr(self._network.config.get_text_config(), "max_position_embeddings", None),
            self._tokenizer.model_max_length,
        )
        return min((int(n) for n in limits if n and n < 1 << 30), default=None)

    @cached_property
    def _network(self) -> Any:
        import torch
        import transformers

        fix = "give the folder of a causal language model with config.json and .safetensors files"
        try:
            with quiet():
                loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    str(self.folder),
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    dtype=getattr(torch, self._dtype),
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise UserError(f"judge: cannot load the model in {self.folder}: {error}", fix=fix) from error
        network, told = loaded
        if told["missing_keys"]:
            lacking = sorted(told["missing_keys"])
            raise UserError(
                f"judge: the model in {self.folder} lacks {len(lacking)} tensors, among them {', '.join(lacking[:3])}",
                fix=fix,
            )
        return network.to(self._device).requires_grad_(False).eval()

    def _read_tokenizer(self) -> Any:
        import transformers

        fix = "save the tokenizer of the model beside it (tokenizer.json)"
        if not any(
            f == "tokenizer.json" or f.startswith("vocab") or f.endswith(".model") for f in self.files
        ):
            raise UserError(f"judge: there is no tokenizer in {self.folder}", fix=fix)
        try:
            return transformers.AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"judge: cannot load the tokenizer in {self.folder}: {error}", fix=fix) from error
