"""How much of each domain: mixtures, and the deterministic stream that serves them. Never imports Beam."""
