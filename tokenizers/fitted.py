"""The fitted tokenizers of a run, loaded together."""

from __future__ import annotations

from dataclasses import dataclass

from mixloom.pipeline.storage import Store, changed, local_folder
from mixloom.tokenizers.codecs import ImageCoder, SpeechCoder, load_image_codec, load_speech_codec
from mixloom.tokenizers.text_bytes import TextCoder, load_text_tokenizer
from mixloom.tokenizers.vocab import Vocabulary


@dataclass(slots=True, weakref_slot=True)  # shared between the threads of a worker by weak references
class Codecs:
    """The fitted tokenizers of a run, ready to encode. `image` and `speech` are None when the corpus has none."""

    text: TextCoder
    image: ImageCoder | None
    speech: SpeechCoder | None
    vocabulary: Vocabulary

    @classmethod
    def load(cls, store: Store) -> Codecs:
        """Load `run/tokenizer/`.

        Raises:
            UserError: a file is missing or broken, or a tokenizer is not the one the vocabulary was made for.
        """
        vocabulary = Vocabulary.from_json(store.read_json("vocab.json"))
        with local_folder(store, "") as folder:
            text = load_text_tokenizer(folder / "text")
            image = load_image_codec(folder / "image") if vocabulary.image.size else None
            speech = load_speech_codec(folder / "speech") if vocabulary.speech.size else None
        for block, fitted in (
            (vocabulary.text, text),
            (vocabulary.image, image),
            (vocabulary.speech, speech),
        ):
            if fitted is not None and fitted.fingerprint != block.fingerprint:
                raise changed(store, block.name, "vocab.json was made for another one")
        return cls(text, image, speech, vocabulary)
