"""Many to many: a sentence in English in, French out, by an encoder and a decoder that looks back at it."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About("many to many, encoder and decoder", "English into French, with attention and beam search", "sentences in English")
