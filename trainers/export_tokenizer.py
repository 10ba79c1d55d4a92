"""The text tokenizer of a vocabulary for AutoTokenizer: the same cuts, but the ids of the model and its specials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mixloom.tokenizers.objective_settings import OBJECTIVE_SPECIALS
from mixloom.tokenizers.text import FILE_NAME
from mixloom.tokenizers.vocab import SPECIALS


def write_tokenizer(text: Path, vocabulary: dict[str, Any], folder: Path) -> bool:
    """Write tokenizer.json and tokenizer_config.json; returns False, and writes nothing, where text has no BPE.

    AutoTokenizer finds specials such as <doc> in a text, as is usual there; with `split_special_tokens=True` they stay
    text, as they do in mixloom.

    Args:
        text: folder of the text tokenizer, whose ids begin at 0. vocabulary: serialised; its text block says where the
            model has them.
    """
    file = text / FILE_NAME
    if not file.is_file():
        return False
    content = json.loads(file.read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE" or content.get("added_tokens"):
        return False
    start = next(int(r["start"]) for r in vocabulary["ranges"] if r["name"] == "text")
    specials = {**SPECIALS, **OBJECTIVE_SPECIALS}
    if set(specials) & set(model["vocab"]):
        return False
    model["vocab"] = specials | {token: i + start for token, i in model["vocab"].items()}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [
        {"id": i, "content": name, **plain} for name, i in sorted(specials.items(), key=lambda item: item[1])
    ]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<doc>",
        "eos_token": "</doc>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in ((FILE_NAME, content), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return True
