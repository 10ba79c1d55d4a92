"""The fitted tokenizers of a run, loaded together."""

from __future__ import annotations

from dataclasses import dataclass

from mixloom.pipeline.storage import Store, local_folder
from mixloom.tokenizers.codecs import ImageCoder, SpeechCoder, load_image_codec, load_speech_codec
from mixloom.tokenizers.text import TextTokenizer
from mixloom.tokenizers.vocab import Vocabulary


@dataclass(slots=True)
class Codecs:
    """The fitted tokenizers of a run, ready to encode. `image` and `speech` are None when the corpus has none."""

    text: TextTokenizer
    image: ImageCoder | None
    speech: SpeechCoder | None
    vocabulary: Vocabulary

    @classmethod
    def load(cls, store: Store) -> Codecs:
        """Load `run/tokenizer/`."""
        vocabulary = Vocabulary.from_json(store.read_json("vocab.json"))
        with local_folder(store, "") as folder:
            text = TextTokenizer.load(folder / "text")
            image = load_image_codec(folder / "image") if vocabulary.image.size else None
            speech = load_speech_codec(folder / "speech") if vocabulary.speech.size else None
        return cls(text, image, speech, vocabulary)
