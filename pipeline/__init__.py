"""Documents in, curated and ordered documents out: the record, the engine and the curation stages."""
