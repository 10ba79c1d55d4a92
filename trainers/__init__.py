"""The Mixture-of-Transformers model and its trainer. Never imports Beam."""
