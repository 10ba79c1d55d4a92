"""The demonstration: a small mixed-modal corpus of our own making, with planted truth, and its score.

`corpus.write_corpus` writes the files; `score.score` compares what a run did with what was planted.
Nothing is imported here.
"""
