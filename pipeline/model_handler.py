"""Text encoders for `RunInference` of Apache Beam: texts to unit vectors, in anybody's pipeline.

    vectors = texts | RunInference(TextVectors("run/embed/model", batch=64))

Beam loads one model per process (or per machine, `one_per_machine`) and makes the batches; a batch changes no vector on a
processor, where every text goes through the model alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler, PredictionResult


class BudgetHandler(ModelHandler[Any, PredictionResult, Any]):
    """What the handlers of this project share: batches by a budget over sizes of examples, and sizes without pickling.

    Args:
        budget: sum of the sizes of a batch, at most, but for an example that is larger alone.
        one_per_machine: share the model between the processes of a machine, where it fills a GPU.
    """

    def __init__(self, budget: int, one_per_machine: bool = False) -> None:
        self._budget, self._one = budget, one_per_machine

    def size(self, example: Any) -> int:
        """What an example takes of the budget."""
        raise NotImplementedError

    def encode(self, examples: Sequence[Any], model: Any) -> Iterable[Any]:
        """What the model makes of examples, one for each."""
        raise NotImplementedError

    def run_inference(
        self, batch: Sequence[Any], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """A `PredictionResult(example, inference)` for each example, in order."""
        if not batch:  # Beam makes one where the first example exceeds the budget
            return []
        return [PredictionResult(e, found) for e, found in zip(batch, self.encode(batch, model), strict=True)]

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Beam fills batches up to the budget."""
        return {
            "min_batch_size": self._budget,
            "max_batch_size": self._budget,
            "element_size_fn": self.size,
        }

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Bytes of the examples."""
        return sum(getattr(e, "nbytes", None) or len(e) for e in batch)

    def get_metrics_namespace(self) -> str:
        """Beam reports its metrics of inference under this name."""
        return f"mixloom_{type(self).__name__}"

    def share_model_across_processes(self) -> bool:
        """As `one_per_machine` says."""
        return self._one


class TextVectors(BudgetHandler):
    """Texts (str) to unit vectors float32 [dim]; a zero vector for one of white space.

    Args:
        directory: of an embedder of texts, as stage `embed` saves it (`run/embed/model`); local path or URL.
        batch: texts at a time.
    """

    def __init__(self, directory: str, *, batch: int = 64, one_per_machine: bool = False) -> None:
        super().__init__(batch, one_per_machine)
        self.directory = directory

    def load_model(self) -> Any:
        """The embedder of the directory.

        Raises:
            UserError: there is none, or it is not one of texts.
        """
        from mixloom.pipeline.embedder import load_embedder
        from mixloom.pipeline.errors import UserError

        model = load_embedder(self.directory)
        if not hasattr(model, "transform"):
            raise UserError(
                f"{self.directory} holds an embedder that does not read texts alone",
                fix="give one of kind tfidf-svd or text-encoder",
            )
        return model

    def size(self, example: str) -> int:
        """1: texts are counted."""
        return 1

    def encode(self, examples: Sequence[str], model: Any) -> Iterable[Any]:
        """Vectors float32 [n, dim]."""
        return list(model.transform(list(examples)))
