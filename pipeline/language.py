"""The language of documents, by a fastText model of the user's or by the model that is shipped.

With a path: any supervised fastText model whose labels are languages (`__label__en`, `__label__eng_Latn`), such as
lid.176 (Joulin et al. 2016, arXiv 1607.01759). Newlines count as spaces and nothing is lower-cased, as lid.176
was trained. Without a path nothing is downloaded: see `language_builtin`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.language_codes import UNKNOWN, language_code
from mixloom.pipeline.language_config import LanguageConfig

if TYPE_CHECKING:
    from mixloom.pipeline.fasttext_model import FastTextModel
    from mixloom.pipeline.language_builtin import BuiltinModel

_LETTER = r"\p{L}"


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A model that tells languages apart. Immutable: threads of a process may share one.

    languages: the code of each of the model's labels.
    """

    languages: tuple[str, ...]
    max_chars: int
    _model: FastTextModel | BuiltinModel = field(repr=False)

    @classmethod
    def load(cls, path: str | None, max_chars: int = 4_000) -> LanguageModel:
        """Load a fastText model from a path or URL, or the shipped model where there is none.

        Args:
            max_chars: characters of each text, from its start, that are looked at.

        Raises:
            UserError: the file is missing, damaged or no supervised fastText model; a label is no language.
        """
        if path is None:
            from mixloom.pipeline.language_builtin import builtin_model

            builtin = builtin_model()
            return cls(builtin.labels, max_chars, builtin)
        from mixloom.pipeline.fasttext_model import LABEL, FastTextModel

        model = FastTextModel.load(path)
        codes = [language_code(label.removeprefix(LABEL)) for label in model.labels]
        wrong = [label for label, code in zip(model.labels, codes, strict=True) if code is None]
        if wrong:
            raise UserError(
                f"the language model {path}: {len(wrong)} of its {len(codes)} labels are no languages, for "
                f"example {', '.join(repr(w) for w in wrong[:3])}",
                fix="give a model whose labels are ISO 639 codes, such as __label__en or __label__eng_Latn "
                "(a quality classifier belongs under annotate.quality)",
            )
        return cls(tuple(c or UNKNOWN for c in codes), max_chars, model)

    def identify(self, texts: pa.Array) -> tuple[pa.StringArray, NDArray[np.float32]]:
        """The most likely language of n texts.

        Args:
            texts: string or large_string array [n]; null reads as "".

        Returns:
            ISO 639 codes, a string array [n], and their scores (probability under the model), float32 [n] in
            [0, 1]. A text without any letter, or with nothing the model knows, is "und" with score 0. Equal scores: the earlier label wins.
        """
        kind = pa.large_string() if pa.types.is_large_string(texts.type) else pa.string()
        texts = texts.fill_null(pa.scalar("", kind)) if texts.null_count else texts
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > self.max_chars:
            texts = pc.utf8_slice_codeunits(texts, 0, self.max_chars)
        letters = pc.match_substring_regex(texts, _LETTER).to_numpy(zero_copy_only=False)
        found = self._model.probabilities(texts)
        scores = found[0] if isinstance(found, tuple) else found
        if scores.shape[1] == 0 or not len(texts):
            return pa.array([UNKNOWN] * len(texts), pa.string()), np.zeros(len(texts), np.float32)
        score = np.where(letters, np.clip(scores.max(axis=1), 0, 1), 0).astype(np.float32)
        best = np.where(score > 0, scores.argmax(axis=1), len(self.languages))
        codes = pa.array([*self.languages, UNKNOWN], pa.string())
        return codes.take(pa.array(best)), score


def language_columns(
    texts: pa.Array, model: LanguageModel, config: LanguageConfig
) -> tuple[pa.StringArray, pa.FloatArray]:
    """The annotation columns `language` and `language_score` of n texts.

    Returns:
        string [n], null where the language is undetermined (no letter, or a score below `min_score`), and
        float32 [n] without nulls: the score of the best language, 0 where there is no letter.
    """
    codes, scores = model.identify(texts)
    known = pc.and_(pc.not_equal(codes, UNKNOWN), pa.array(scores >= config.min_score))
    return pc.if_else(known, codes, pa.scalar(None, pa.string())), pa.array(scores, pa.float32())


def language_fingerprint(config: LanguageConfig) -> str:
    """What the key of a stage must hold beside the settings: sha256 of the model's file, or the shipped version.

    Raises:
        UserError: the file of the model is missing.
    """
    from mixloom.pipeline.storage import sha256_hex

    if config.model is None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"py3langid {version('py3langid')}"
        except PackageNotFoundError:
            raise UserError(
                "py3langid, the built-in language model, is not installed",
                fix="install it, or name a fastText model (language.model)",
            ) from None
    from mixloom.pipeline.model_file import read_file

    return sha256_hex(read_file(config.model))
